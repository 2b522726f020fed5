"""Results of earlier runs, so that a table that was interrupted goes on where it stopped: ``runs/validation.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from kb.files import put

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "peft")
_TABLE = ("__main__.py", "goals.py", "job.py", "outcome.py", "report.py")  # modules that say what was found, no more


def versions() -> dict[str, str]:
    """Versions of the libraries that a dry run runs."""
    return {name: version(name) for name in PACKAGES}


def code_version() -> str:
    """A digest of the profiler's code and of the libraries' versions; rows of another version are run again."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for path in sorted((ROOT / "profiler").rglob("*.py")):
        if path.parent.name != "validation" or path.name not in _TABLE:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Cache:
    """Numbers by key; each is written as soon as it is known."""

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self._path, self.version = path, code_version()
        stored = json.loads(path.read_text()) if path.exists() and not fresh else {}
        self.rows: dict[str, dict[str, float]] = stored.get(self.version, {})

    def get(self, key: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The numbers of ``key``, made now if they are not there."""
        if key not in self.rows:
            self.rows[key] = make()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            put(self._path, json.dumps({self.version: self.rows}, indent=0))
        return self.rows[key]

    def __contains__(self, key: str) -> bool:
        return key in self.rows
