"""The comparison with Hugging Face PEFT: its report is whole and current, and what it claims holds."""

import pytest
import torch

from tests.bench import impls
from tests.bench.impls_pairs import PAIRS

ROWS = {(row.slug, row.dtype): row for row in impls.stored()}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_report_holds_every_method_in_both_types() -> None:
    assert list(ROWS) == [(slug, dtype) for slug in PAIRS for dtype in impls.DTYPES], "run make bench-impls"


def test_page_shows_the_report() -> None:
    assert impls.TABLE.read_text(encoding="utf-8") == impls.table(ROWS.values())


def test_both_train_the_same_numbers_unless_a_note_says_why_not() -> None:
    assert [row.slug for row in ROWS.values() if len(set(row.trained)) > 1 and not row.note] == []


def test_ours_saves_more_than_theirs_only_where_a_note_says_why() -> None:
    assert [key for key, row in ROWS.items() if row.memory > 1 and not row.note] == []


@pytest.mark.parametrize("slug", PAIRS)
def test_saved_bytes_are_those_of_the_report(slug: str) -> None:
    sides = impls.ours(slug, PAIRS[slug], torch.float32), impls.theirs(PAIRS[slug], torch.float32)
    assert tuple(map(impls.saved_bytes, sides)) == ROWS[slug, "fp32"].saved_bytes


def test_a_storage_counts_once_and_parameters_not_at_all() -> None:
    layer, x = torch.nn.Linear(8, 8), torch.randn(4, 8)
    side = impls.Side(
        layer,
        lambda: (torch.sigmoid(layer(x)) ** 2).sum(),
        torch.optim.SGD(layer.parameters()),
        lambda: None,
    )
    assert impls.saved_bytes(side) == 2 * 4 * 8 * 4  # x and the sigmoid's output, which two operations keep
