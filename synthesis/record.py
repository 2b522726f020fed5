"""Where results are committed, and what each of them says of its making."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version

from kb.loader import KB

FOLDER = KB / "synthesis"


def stamp(generator: str, digest: str) -> dict[str, object]:
    """The command that makes a result, the versions that it was made with, and the fingerprint of the evidence."""
    return {
        "generator": generator,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        },
        "digest": digest,
    }


def text(report: Mapping[str, object]) -> str:
    """A report as JSON with one line per entry of its outer two levels, so that changes can be read."""
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            inner = (f"  {_flat(key)}: {_flat(each)}" for key, each in value.items())
            lines.append(f" {_flat(name)}: {{\n" + ",\n".join(inner) + "\n }")
        else:
            lines.append(f" {_flat(name)}: {_flat(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _flat(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
