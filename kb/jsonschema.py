"""The JSON Schema of a method record, written to ``kb/schema.json``: ``python -m kb.jsonschema``.

Editors read it through the first line of each record (``# yaml-language-server: $schema=../schema.json``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kb.files import put
from kb.loader import KB
from kb.schema import Method

FILE = KB / "schema.json"


def document() -> dict[str, Any]:
    """The schema as JSON data."""
    schema = Method.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "generated from kb/schema.py by python -m kb.jsonschema; do not edit",
        **schema,
    }


def text() -> str:
    """The schema as the file holds it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def write(path: Path = FILE) -> Path:
    """Bring the file up to date; the old one stays whole if writing fails."""
    return put(path, text())


if __name__ == "__main__":
    write()
