"""Limits that keep the implementations readable: short files, and little that a reader has to know besides."""

from pathlib import Path

import pytest

import reference_impls

FOLDER = Path(reference_impls.__file__).parent


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_file_is_longer_than_200_lines(path: Path) -> None:
    assert lines(path) <= 200


def test_what_the_methods_share_is_below_500_lines_in_all() -> None:
    assert sum(map(lines, FOLDER.glob("_[a-z]*.py"))) < 500


def test_every_public_module_of_the_folder_is_a_method() -> None:
    assert "lora" in reference_impls.slugs()
    for slug in reference_impls.slugs():
        assert "def attach(model: nn.Module" in (FOLDER / f"{slug}.py").read_text(encoding="utf-8"), slug
