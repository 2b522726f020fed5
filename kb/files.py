"""Writing files: under a temporary name first, so that a reader never sees half a file and an old one stays whole."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, text: str) -> Path:
    """Writes ``text`` as ``path``, in UTF-8 with line ends as they are; raises ``OSError`` and leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
