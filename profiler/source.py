"""What an implementation does, as far as its source says: the statements of its module and of all that this imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import util
from pathlib import Path

_PACKAGE = "reference_impls"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def statements(slug: str) -> dict[str, str]:
    """Digests of the statements of ``reference_impls.<slug>`` and of all modules there that it imports, however far.

    Docstrings, comments, layout and the imports themselves count for nothing. Empty if there is no such module.
    """
    found: dict[str, str] = {}
    waiting = [f"{_PACKAGE}.{slug}"]
    while waiting:
        name = waiting.pop()
        if name not in found and (path := _path(name)) is not None:
            source = path.read_text(encoding="utf-8")
            found[name] = done(source)
            waiting += imported(source)
    return dict(sorted(found.items()))


@cache
def done(source: str) -> str:
    """A digest of what a module does: its syntax without docstrings, comments, and where it imports from."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            body = [one for one in node.body if not isinstance(one, ast.Import | ast.ImportFrom)]
            node.body = body[1:] if ast.get_docstring(node, clean=False) is not None else body
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


@cache
def imported(source: str) -> tuple[str, ...]:
    """The names of this package that a module imports; some are no modules."""
    return tuple(dict.fromkeys(_names(ast.parse(source))))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == _PACKAGE:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == _PACKAGE)


@cache
def _path(name: str) -> Path | None:
    """The file of a module; ``None`` if there is none of that name."""
    try:
        spec = util.find_spec(name)
    except ModuleNotFoundError:  # a name inside a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None
