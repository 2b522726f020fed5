"""Real text that every Python carries (PSF License version 2): its language reference, and its docstrings."""

import ast
import json
import sysconfig
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics

from kb.files import put

REFERENCE = "the Python language reference (pydoc_data.topics, PSF License version 2)"
PACKAGES = ("asyncio", "email", "importlib", "logging", "unittest", "xml")
DOCSTRINGS = (
    f"docstrings of Python's standard library (PSF License version 2), to be told apart by their package "
    f"({', '.join(PACKAGES)}), which none of them names"
)
ROWS, CHARACTERS = 80, 140
ROWS_OF_A_PACKAGE, DOCSTRING_CHARACTERS, BEGINNING = 100, 60, 60


def passages() -> list[str]:
    """Passages of whole paragraphs, at least ``CHARACTERS`` long, in the order of their topics; none occurs twice."""
    found, passage = [], ""
    for _, topic in sorted(topics.items()):
        for paragraph in topic.split("\n\n"):
            passage += paragraph.strip("\n") + "\n\n"
            if len(passage) >= CHARACTERS:
                found.append(passage)
                passage = ""
    return list(dict.fromkeys(found))


def documented(package: str) -> list[str]:
    """Docstrings of a package of the standard library, in the order of its files, each in one line.

    Left out are those that are short, that name the package, or that begin as an earlier one does.
    """
    found: dict[str, str] = {}
    for path in sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= DOCSTRING_CHARACTERS and package not in text.lower():
                    found.setdefault(text[:BEGINNING].lower(), text)
    return list(found.values())


def reference(folder: Path) -> tuple[Path, str]:
    """A JSONL file of ``ROWS`` passages spread evenly over all topics, and the first digits of its SHA-256."""
    return _written(folder / "python-reference.jsonl", ({"text": text} for text in _spread(passages(), ROWS)))


def docstrings(folder: Path) -> tuple[Path, str]:
    """A JSONL file of ``ROWS_OF_A_PACKAGE`` docstrings of each package, and the first digits of its SHA-256."""
    rows = (
        {"text": text, "label": package}
        for package in PACKAGES
        for text in _spread(documented(package), ROWS_OF_A_PACKAGE)
    )
    return _written(folder / "python-docstrings.jsonl", rows)


def _spread(texts: list[str], number: int) -> Iterator[str]:
    yield from (texts[i * len(texts) // number] for i in range(number))


def _written(path: Path, rows: Iterable[dict[str, str]]) -> tuple[Path, str]:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return put(path, content), sha256(content.encode()).hexdigest()[:16]
