"""Labelled widths: what a size is made of is read off its prime factors."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.labels import Labels, Width, added, deepened, spread
from profiler.shapes import FUSED, SHAPES, TWIN

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
    assert labels().read(size) == {tuple(sorted(names)): Fraction(times)}


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
    assert labels().read(size) == {(name,): Fraction(2)}


def test_heads_times_head_size_are_the_hidden_size_of_an_encoder() -> None:
    of = SHAPES["encoder"]
    size = 1
    for factor in ("kv", "g", "dh"):
        size *= of.widths[factor].value
    assert size == of.config(3)["hidden_size"]
    assert labels("encoder").read(size) == {("d",): Fraction(1)}


def test_a_fraction_of_a_width_keeps_its_name() -> None:
    assert labels().read(DECODER.widths["d"].value // 8) == {("d",): Fraction(1, 8)}


@pytest.mark.parametrize(("rows", "times"), [("d", 2), ("d_ff", 4)])
@pytest.mark.parametrize("filled", [False, True])
def test_a_width_cut_into_pieces_of_the_rank_is_read_as_if_the_rank_divided_it(
    rows: str, times: int, filled: bool
) -> None:
    width, piece = DECODER.widths[rows].value, DECODER.widths["r"].value
    assert width % piece
    whole = width + (-width % piece if filled else -(width % piece))
    size = times * DECODER.widths["b"].value * DECODER.widths["s"].value * whole
    reader = Labels(DECODER.widths, DECODER.heads, whole=10**12, cut=True)
    assert reader.read(size) == {tuple(sorted(("b", rows, "s"))): Fraction(times)}


def test_few_states_as_wide_as_the_rank_are_not_taken_for_a_width_cut_into_its_pieces() -> None:
    size = 16 * DECODER.widths["b"].value * DECODER.widths["s"].value * DECODER.widths["r"].value
    assert labels().read(size) == {("b", "r", "s"): Fraction(16)}


@pytest.mark.parametrize(("shape", "tokens"), [("decoder", 128 * 59 - 1), ("vision", 36 * 36), ("vision", 128 * 11)])
def test_tokens_but_the_last_or_rounded_up_for_a_kernel_grow_as_tokens_do(shape: str, tokens: int) -> None:
    widths = SHAPES[shape].widths
    hidden = widths["kv"].value * widths["g"].value * widths["dh"].value
    ((monomial, coefficient),) = labels(shape).read(4 * widths["b"].value * tokens * hidden).items()
    assert monomial == tuple(sorted(("b", "s", SHAPES[shape].heads)))
    assert coefficient == 4 * Fraction(tokens, widths["s"].value)


@pytest.mark.parametrize("part", [Fraction(1, 10), Fraction(1, 4)])
def test_chosen_rows_are_a_share_of_their_matrix(part: Fraction) -> None:
    d, inner = DECODER.widths["d"].value, DECODER.widths["d_ff"].value
    for rows, columns in ((d, inner), (inner, d)):
        assert labels().read(2 * round(part * rows) * columns) == {("d", "d_ff"): 2 * part}


@pytest.mark.parametrize("name", ["m", "r"])
def test_pruned_weights_of_an_adapter_are_a_share_of_its_matrix(name: str) -> None:
    whole = DECODER.widths["d"].value * DECODER.widths[name].value
    for size in (2, 8):  # numbers and their positions
        assert labels().read(size * round(0.6 * whole)) == {("d", name): Fraction(6 * size, 10)}


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("side", ["d_ff", "kv"])
def test_as_many_numbers_as_thin_factors_hold_grow_with_both_sides(side: str, size: int) -> None:
    widths = DECODER.widths
    other = widths["d_ff"].value if side == "d_ff" else widths["kv"].value * widths["dh"].value
    name = {"kv": "d_kv"}.get(side, side)
    found = labels().read(size * widths["r"].value * (widths["d"].value + other))
    assert found == {("d", "r"): Fraction(size), (name, "r"): Fraction(size)}


@pytest.mark.parametrize(("share", "name"), [(Fraction(1), "d_ff"), (Fraction(1, 5), "d_kv")])
def test_pruned_thin_factors_grow_with_both_sides(share: Fraction, name: str) -> None:
    widths = DECODER.widths
    other = widths["d_ff"].value if name == "d_ff" else widths["kv"].value * widths["dh"].value
    kept = int(share * widths["r"].value * (widths["d"].value + other))  # rounded down: the rank is no factor any more
    assert labels().read(8 * kept) == {("d", "r"): 8 * share, (name, "r"): 8 * share}


def test_queries_keys_and_values_of_one_matrix_have_a_name() -> None:
    widths = {**DECODER.widths, "g": TWIN, "g2": FUSED}
    assert FUSED.value == TWIN.value + 2
    reader = Labels(widths, DECODER.heads)
    tokens, head = widths["b"].value * widths["s"].value, widths["kv"].value * widths["dh"].value
    assert reader.read(2 * tokens * head * (TWIN.value + 2)) == {("b", "d_qkv", "s"): Fraction(2)}
    assert reader.read(2 * tokens * head * TWIN.value) == {("b", "d_q", "s"): Fraction(2)}


def test_a_size_that_the_labels_do_not_explain_is_counted_and_told_in_all_parameters() -> None:
    reader = labels()
    ((monomial, coefficient),) = reader.read(2**31 - 1).items()  # a prime
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
    assert deepened([three, four], [{"L": 3}, {"L": 4}]) == {("L", "d"): Fraction(2), ("d",): Fraction(1)}


@given(st.lists(st.integers(-9, 9), min_size=4, max_size=4))
def test_blocks_of_several_kinds_are_told_apart(of: list[int]) -> None:
    counts = [
        {"L_out": out, "L_fore": fore, "L_aft": aft} for out, fore, aft in ((1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 3, 3))
    ]
    once, *each = of
    read = [
        added(({("d",): Fraction(once)}, 1), *(({("d",): Fraction(n)}, one[k]) for k, n in zip(one, each, strict=True)))
        for one in counts
    ]
    expected = {("d",): once} | {(letter, "d"): n for letter, n in zip(counts[0], each, strict=True)}
    assert deepened(read, counts) == {monomial: value for monomial, value in expected.items() if value}


def test_tokens_and_prompt_together_are_written_apart() -> None:
    found = spread({("b", "t"): Fraction(2), ("s",): Fraction(1), ("t", "t"): Fraction(1)})
    assert found == {("b", "s"): 2, ("b", "p"): 2, ("s",): 1, ("s", "s"): 1, ("p", "s"): 2, ("p", "p"): 1}


def test_what_is_told_in_all_parameters_does_not_grow_twice() -> None:
    share = {("N",): Fraction(1, 2)}
    assert deepened([share, share], [{"L": 3}, {"L": 4}]) == share


def test_terms_that_cancel_are_left_out() -> None:
    one = {("d",): Fraction(2)}
    assert added((one, 1), (one, -1)) == {}


def test_a_width_of_one_prime_needs_no_model() -> None:
    reader = Labels({"b": Width(53, 53), "s": Width(59, 59), "d": Width(29, 29)})
    assert reader.read(2 * 53 * 59 * 29) == {("b", "d", "s"): Fraction(2)}
