"""The CUDA context: read off published processes, per card where there is enough, else per generation, else of all."""

from __future__ import annotations

import pytest

from kb.catalogue import load_gpus
from kb.device import ANY, CONTEXTS, ENOUGH, context, read_contexts

READINGS = read_contexts(CONTEXTS)


def test_readings_name_cards_of_the_catalogue_with_their_generation() -> None:
    for each in READINGS:
        if each.gpu is not None:
            card = load_gpus()[each.gpu]
            assert (each.name, each.architecture) == (card.name, card.architecture)


def test_reading_is_what_the_process_holds_beyond_the_allocator() -> None:
    first = next(each for each in READINGS if each.gpu == "t4")
    assert first.size == pytest.approx((14.52 - 14.06) * 2**30 - 330.42 * 2**20)


@pytest.mark.parametrize("gpu", sorted(load_gpus()))
def test_range_of_a_card_holds_its_own_readings(gpu: str) -> None:
    card = load_gpus()[gpu]
    found = context(card.id, card.architecture)
    assert 0 < found.low < found.usual < found.high
    own = [each.size for each in READINGS if each.gpu == gpu]
    assert all(found.low < size < found.high for size in own)


def test_generation_with_too_few_readings_says_so_and_keeps_the_whole_range() -> None:
    counted = {name: sum(each.architecture == name for each in READINGS) for name in ("Volta", "Hopper")}
    assert all(count < ENOUGH for count in counted.values())
    for name in counted:
        found = context(None, name)
        assert found[:3] == ANY[:3]
        assert f"too few are known of the {name} generation" in found.words


def test_a_large_card_has_a_larger_context_than_a_small_one() -> None:
    assert context("t4", "Turing").high < context("rtx-5090", "Blackwell").low
