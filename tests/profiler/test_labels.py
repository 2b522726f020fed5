"""Labelled widths: what a size is made of is read off its prime factors."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.labels import Labels, Width, added, deepened
from profiler.shapes import SHAPES

DECODER = SHAPES["decoder"]
NAMES = ("b", "s", "d", "d_ff", "V", "r", "m", "p", "t", "h")


def labels(shape: str = "decoder") -> Labels:
    of = SHAPES[shape]
    return Labels(of.widths, of.heads, whole=10**12)


@given(st.lists(st.sampled_from(NAMES), max_size=4), st.sampled_from([1, 2, 4, 8, 12, 24]))
def test_every_product_of_widths_is_read_as_itself(names: list[str], times: int) -> None:
    size = times
    for name in names:
        size *= DECODER.widths[name].value
    assert labels().read(size) == (tuple(sorted(names)), Fraction(times))


@pytest.mark.parametrize(
    ("factors", "name"),
    [
        (("kv", "g", "dh"), "d_q"),
        (("kv", "dh"), "d_kv"),
        (("kv", "g"), "n_heads"),
        (("dh",), "d_head"),
        (("kv",), "n_kv"),
    ],
)
def test_heads_go_by_the_names_of_architectures(factors: tuple[str, ...], name: str) -> None:
    size = 2
    for factor in factors:
        size *= DECODER.widths[factor].value
    assert labels().read(size) == ((name,), Fraction(2))


def test_heads_times_head_size_are_the_hidden_size_of_an_encoder() -> None:
    of = SHAPES["encoder"]
    size = 1
    for factor in ("kv", "g", "dh"):
        size *= of.widths[factor].value
    assert size == of.config(3)["hidden_size"]
    assert labels("encoder").read(size) == (("d",), Fraction(1))


def test_a_fraction_of_a_width_keeps_its_name() -> None:
    assert labels().read(DECODER.widths["d"].value // 8) == (("d",), Fraction(1, 8))


def test_a_size_that_the_labels_do_not_explain_is_counted_and_told_in_all_parameters() -> None:
    reader = labels()
    monomial, coefficient = reader.read(2**31 - 1)  # a prime
    assert monomial == ("N",)
    assert coefficient * 10**12 == 2**31 - 1
    assert reader.unread[2**31 - 1] == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_no_width_contains_the_prime_of_another(shape: str) -> None:
    widths = SHAPES[shape].widths
    order = list(widths)
    for name, (value, prime) in widths.items():
        assert value % prime == 0
        for other in order[order.index(name) + 1 :]:
            assert value % widths[other].prime or name == "d", (name, other)


def test_widths_of_joined_tokens_are_tokens_and_prompt_together() -> None:
    for shape in SHAPES.values():
        assert shape.widths["t"].value == shape.widths["s"].value + shape.widths["p"].value


def test_a_straight_line_in_the_depth_is_continued() -> None:
    three, four = {("d",): Fraction(7)}, {("d",): Fraction(9)}
    assert deepened(three, four, 3, 4) == {("L", "d"): Fraction(2), ("d",): Fraction(1)}


def test_what_is_told_in_all_parameters_does_not_grow_twice() -> None:
    share = {("N",): Fraction(1, 2)}
    assert deepened(share, share, 3, 4) == share


def test_terms_that_cancel_are_left_out() -> None:
    one = {("d",): Fraction(2)}
    assert added((one, 1), (one, -1)) == {}


def test_a_width_of_one_prime_needs_no_model() -> None:
    reader = Labels({"b": Width(53, 53), "s": Width(59, 59), "d": Width(29, 29)})
    assert reader.read(2 * 53 * 59 * 29) == (("b", "d", "s"), Fraction(2))
