"""What a fingerprint sees of an implementation: all that its module and those that it imports do, and nothing else."""

from pathlib import Path

import pytest

from kb.records import load_methods
from profiler import profiles, source

PLAIN = '''"""A module."""
from reference_impls import lora
from reference_impls._surgery import freeze

LIMIT = 3


class One:
    def attach(self, model):
        return freeze(model), LIMIT
'''


@pytest.mark.parametrize(
    ("slug", "parents"),
    [
        ("lora", {"_surgery", "_layer", "_site", "_journal", "_conv1d"}),
        ("qlora", {"lora", "parts.nf4", "_surgery"}),
        ("loftq", {"qlora", "lora", "parts.nf4"}),
        ("ladder_side_tuning", {"parts.narrow", "fishmask"}),
        ("mam_adapter", {"prefix_tuning"}),
    ],
)
def test_modules_that_a_method_imports_count_however_far(slug: str, parents: set[str]) -> None:
    found = source.statements(slug)
    assert {f"reference_impls.{name}" for name in (slug, *parents)} <= found.keys()


def test_a_method_without_a_module_has_no_statements() -> None:
    assert source.statements("no_such_method") == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another\n\ntext."""'),
        ("    def attach(self, model):\n", '    def attach(self, model):\n        """What it does."""\n'),
        ("class One:\n", 'class One:\n    """A class."""\n\n'),
        ("LIMIT = 3\n", "LIMIT = 3  # of something\n\n"),
        ("from reference_impls import lora\n", "from reference_impls import dora, lora\n"),
    ],
)
def test_words_and_imports_count_for_nothing(old: str, new: str) -> None:
    assert source.done(PLAIN.replace(old, new)) == source.done(PLAIN)
    assert PLAIN.replace(old, new) != PLAIN


def test_a_statement_counts() -> None:
    assert source.done(PLAIN.replace("LIMIT = 3", "LIMIT = 4")) != source.done(PLAIN)


def test_fingerprint_changes_with_a_module_that_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    methods = load_methods()
    before = {slug: profiles.fingerprint(methods[slug]) for slug in ("qlora", "lora")}
    other = tmp_path / "nf4.py"
    known = source._path
    path = known("reference_impls.parts.nf4")
    assert path is not None
    other.write_text(f"{path.read_text(encoding='utf-8')}\n_MORE = 1\n", encoding="utf-8")
    monkeypatch.setattr(source, "_path", lambda name: other if name.endswith(".nf4") else known(name))
    assert profiles.fingerprint(methods["qlora"]) != before["qlora"]
    assert profiles.fingerprint(methods["lora"]) == before["lora"]
