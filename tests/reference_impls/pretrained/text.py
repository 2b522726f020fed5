"""Real text that every Python carries: the language reference, as ``help()`` shows it (PSF License version 2)."""

import json
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics

from kb.files import put

NAME = "the Python language reference (pydoc_data.topics, PSF License version 2)"
ROWS, CHARACTERS = 80, 140


def passages() -> list[str]:
    """Passages of whole paragraphs, at least ``CHARACTERS`` long, in the order of their topics."""
    found, passage = [], ""
    for _, topic in sorted(topics.items()):
        for paragraph in topic.split("\n\n"):
            passage += paragraph.strip("\n") + "\n\n"
            if len(passage) >= CHARACTERS:
                found.append(passage)
                passage = ""
    return found


def rows(folder: Path) -> tuple[Path, str]:
    """A JSONL file of ``ROWS`` passages spread evenly over all topics, and the first digits of its SHA-256."""
    every = passages()
    chosen = [every[i * len(every) // ROWS] for i in range(ROWS)]
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chosen)
    return put(folder / "python-reference.jsonl", content), sha256(content.encode()).hexdigest()[:16]
