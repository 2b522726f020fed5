"""What several cards exchange: by hand, and its part in the time of a step."""

import pytest

from kb.catalogue import load_gpus
from recommender import Constraints, estimate
from recommender.reading import read_card
from recommender.speed import PCI_EXPRESS, TYPICAL, exchange

ASKED = {"model": "llama-3.1-70b", "seq": 4096, "batch": 32, "quantization": "none", "checkpointing": "on"}


def seconds(**changed: object) -> float:
    step = estimate("lora", Constraints.model_validate(ASKED | changed)).step_seconds
    assert step is not None
    return step


def test_sharded_weights_are_gathered_twice_per_micro_batch() -> None:
    received = (2 * 3 * 16e9 + 1e9) * 7 / 8  # three micro-batches, of eight shares seven come from others
    assert exchange(16e9, 1e9, 3, 8, True, TYPICAL) == pytest.approx(received / (0.75 * 32e9))


def test_copies_of_a_model_exchange_their_gradients_alone_once_per_step() -> None:
    assert exchange(16e9, 1e9, 3, 8, False, TYPICAL) == pytest.approx(2e9 * 7 / 8 / (0.75 * 32e9))


def test_a_slow_link_makes_a_sharded_step_longer_and_a_fast_one_hides_the_exchange() -> None:
    fast, slow = seconds(gpu="h100-sxm5-80gb", gpus=8), seconds(gpu="h100-pcie-80gb", gpus=8)
    cards = load_gpus()
    rate = cards["h100-sxm5-80gb"].tensor_tflops.value / cards["h100-pcie-80gb"].tensor_tflops.value  # type: ignore[operator]  # known
    assert slow > rate * fast


def test_a_link_that_is_not_known_counts_as_pci_express() -> None:
    assert load_gpus()["mi300x"].link_gbs.value is None
    card = read_card(Constraints(params="7B", gpu="mi300x"))
    assert card is not None
    assert card.rates is not None
    assert card.rates.link == PCI_EXPRESS
