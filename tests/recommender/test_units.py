"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.units import parse_bytes, parse_count, show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24 GB", 24 * 10**9),
        ("24gb", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("23.6GiB", int(236 * 2**30 / 10)),
        ("512MiB", 512 * 2**20),
        ("0.5TB", 5 * 10**11),
    ],
)
def test_bytes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("24", "write 24GB"),
        ("24,5GB", "as in 24.5GB"),
        ("GB", "write it like 24GB"),
        ("-24GB", "write it like 24GB"),
        ("1e3GB", "write it like 24GB"),
        ("24B", "write it like 24GB"),
        ("٢٤GB", "write it like 24GB"),
        ("0GB", "out of range"),
        ("999999999TB", "out of range"),
        ("1" * 5000 + "GB", "write it like 24GB"),
    ],
)
def test_bad_bytes_are_refused_with_the_right_form(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as error:
        parse_bytes(text)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("text", "count"), [("7B", 7 * 10**9), ("0.5B", 5 * 10**8), ("350M", 350 * 10**6), ("1.5b", 15 * 10**8)]
)
def test_counts_are_read(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "hint"),
    [("7", "write 7B"), ("7,5B", "as in 7.5B"), ("0B", "out of range"), ("7GB", "like 7B"), ("", "like 7B")],
)
def test_bad_counts_are_refused_with_the_right_form(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_count(text)


@given(st.integers(1, 10**5), st.sampled_from([("GB", 10**9), ("GiB", 2**30), ("TB", 10**12)]))
def test_a_unit_multiplies_exactly(number: int, unit: tuple[str, int]) -> None:
    size = number * unit[1]
    if 256 * 2**20 <= size <= 10**15:
        assert parse_bytes(f"{number}{unit[0]}") == size


def test_sizes_are_shown_with_their_unit() -> None:
    assert show_bytes(24 * 10**9) == "22.4 GiB"
    assert show_bytes(5 * 2**20) == "5 MiB"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1.5, "1.5 seconds"), (119, "119 seconds"), (120, "2 minutes"), (22_075, "6.1 hours"), (1.3e7, "150 days")],
)
def test_a_time_of_training_is_in_a_unit_of_which_it_has_two(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown
