"""Writes ``kb/peft_fields.json``: which fields the classes of Hugging Face PEFT have that records name.

    python -m profiler.peft_fields

The recommender writes training scripts for PEFT without PEFT being installed; this file tells it what may stand in them.
"""

from __future__ import annotations

import inspect
import json
import re

import peft

from kb.files import put
from kb.records import load_methods
from kb.symbol import PEFT_FIELDS, shipped

MADE_BY = "python -m profiler.peft_fields"


def text() -> str:
    """The file for the installed PEFT."""
    entries = (shipped(method, "peft") for method in load_methods().values())
    words = {word for entry in entries if entry is not None for word in re.findall(r"\w+Config", entry.symbol or "")}
    classes = {
        name: sorted(inspect.signature(getattr(peft, name)).parameters) for name in sorted(words) if hasattr(peft, name)
    }
    return json.dumps({"made_by": MADE_BY, "peft": peft.__version__, "classes": classes}, indent=1) + "\n"


if __name__ == "__main__":
    put(PEFT_FIELDS, text())
