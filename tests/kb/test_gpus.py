"""The catalogue of cards: graded figures, unknown ones null, memory as the driver reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb.catalogue import GPUS, Gpu, load_gpus, read_gpus
from kb.loader import RecordError

FIGURES = ("memory_reported_mib", "context_mib", "bandwidth_gbs", "link_gbs", "tensor_tflops", "fp32_tflops", "tdp_w")


def test_catalogue_has_at_least_the_promised_cards() -> None:
    assert len(load_gpus()) >= 45


def test_driver_reports_at_most_a_little_more_or_less_than_was_sold() -> None:
    for gpu in load_gpus().values():
        reported = gpu.memory_reported_mib.value
        if reported is not None:
            assert 0.93 < reported * 2**20 / (gpu.memory_gb * 10**9) < 1.08, gpu.id


def test_usable_memory_is_what_the_driver_reports() -> None:
    card = load_gpus()["rtx-4090"]
    assert card.usable_bytes() == 24564 * 2**20
    assert card.usable_note() == "24564 MiB as the driver reports"


def test_usable_memory_without_a_reading_is_what_was_sold_and_says_so() -> None:
    card = load_gpus()["mi300x"]
    assert card.usable_bytes() == 192 * 10**9
    assert "as sold" in card.usable_note()


def test_card_of_two_devices_offers_the_memory_of_one() -> None:
    card = load_gpus()["mi250x"]
    assert card.usable_bytes() == 64 * 10**9
    assert "one of 2 devices" in card.usable_note()


def test_half_precision_rate_exceeds_fp32_where_both_are_known() -> None:
    for gpu in load_gpus().values():
        tensor, single = gpu.tensor_tflops.value, gpu.fp32_tflops.value
        if tensor is not None and single is not None:
            assert tensor > 1.9 * single, gpu.id


def test_newer_cards_only_compute_in_bfloat16() -> None:
    for gpu in load_gpus().values():
        if gpu.vendor == "NVIDIA":
            assert gpu.compute_capability is not None, gpu.id
            assert gpu.bf16 == (float(gpu.compute_capability) >= 8.0), gpu.id


def test_every_figure_is_positive_or_unknown() -> None:
    for gpu in load_gpus().values():
        for name in FIGURES:
            value = getattr(gpu, name).value
            assert value is None or value > 0, (gpu.id, name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  year: 2018\n", "", r"gpus\.yaml:\d+: .*year is missing"),
        ("{value: 15360, grade: B}", "{value: 15360, grade: null}", "a figure has a grade"),
        ("{value: 15360, grade: B}", "{value: many, grade: B}", r"gpus\.yaml:11: memory_reported_mib\.value"),
        ("  source_memory: modal-labs/modal-client PR 2797\n", "  source_memory: null\n", "has no source"),
        ("  devices: 1\n", "  devices: 0\n", "devices"),
        ("  vendor: NVIDIA\n", "  vender: NVIDIA\n", "vender is not a field of this record; did you mean 'vendor'"),
        ("p100-pcie-16gb:", "t4:", "the key 't4' is written twice"),
    ],
)
def test_broken_card_is_reported_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GPUS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "gpus.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecordError, match=message):
        read_gpus(path)


def test_id_is_the_key() -> None:
    assert all(key == gpu.id and isinstance(gpu, Gpu) for key, gpu in load_gpus().items())
