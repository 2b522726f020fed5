"""Marks: one small drawing per class of the taxonomy, so that colour is never the only sign.

Each says what its class does: a bottleneck, vectors in front, chosen rows, a tall times a wide matrix, a rotation.
"""

from __future__ import annotations

HYBRID = "hybrid"
"""The mark of a method that lies in more than one boundary of the survey's Figure 2; no class has this name."""

_DOT = "M8 5.4a2.6 2.6 0 1 1 0 5.2 2.6 2.6 0 0 1 0-5.2z"

MARKS: dict[str, str] = {
    "baseline": "M2.5 2.5h11v11h-11z",
    "additive": "M6.4 1.5h3.2v4.9h4.9v3.2H9.6v4.9H6.4V9.6H1.5V6.4h4.9z",
    "additive.adapter": "M1.5 1.5h13L10.2 7v2l4.3 5.5h-13L5.8 9V7z",
    "additive.soft_prompt": "M1.5 2h3.2v12H1.5zM6.2 2h3.2v12H6.2zM11.4 6.8h3.4v2.4h-3.4z",
    "additive.other": "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zM7 4.2V7H4.2v2H7v2.8h2V9h2.8V7H9V4.2z",
    "selective": "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zm0 2v10A5 5 0 0 0 8 3z",
    "selective.structured": "M1.5 1.5h13v2.2h-13zM1.5 6h13v4h-13zM1.5 12.3h13v2.2h-13z",
    "selective.sparse": "M1.5 1.5h4v4h-4zM10.5 1.5h4v4h-4zM6 6h4v4H6zM1.5 10.5h4v4h-4zM12 12h2.5v2.5H12z",
    "reparameterization": "M3.6 1.4 8 5.8l4.4-4.4 2.2 2.2L10.2 8l4.4 4.4-2.2 2.2L8 10.2l-4.4 4.4-2.2-2.2L5.8 8 1.4 3.6z",
    "reparameterization.general": "M1.5 1.5h5.6v5.6H1.5zM8.9 1.5h5.6v5.6H8.9zM1.5 8.9h5.6v5.6H1.5zM10.6 10.6h2.2v2.2h-2.2z",
    "reparameterization.low_rank": "M1.5 1.5h4v13h-4zM7.2 1.5h7.3v4H7.2z",
    "reparameterization.orthogonal": "M8 .9 15.1 8 8 15.1.9 8zM8 5 5 8l3 3 3-3z",
    "reparameterization.tensor": "M8 .8 14.4 4.4v7.2L8 15.2 1.6 11.6V4.4zM8 3 4.4 5 8 7l3.6-2z",
    "reparameterization.spectral": "M1 9.2C2.6 1 5.6 1 8 8c1.6 4.6 3.4 4.8 4.8-1.6l2.3.6C13 16 9.2 15 7 8.8 5.2 3.8 4 4.4 3.2 9.8z",
    HYBRID: "M8 3.7a5 5 0 1 0 0 8.6 5 5 0 0 1 0-8.6zM8 3.7a5 5 0 0 1 0 8.6 5 5 0 1 0 0-8.6z",
}
"""Outlines on a square of 16 by 16 by class id."""


def mark(class_id: str) -> str:
    """The outline of a class; a new class gets that of its base, and a new base class a dot."""
    return MARKS.get(class_id) or MARKS.get(class_id.partition(".")[0], _DOT)


def tone(class_id: str) -> str:
    """The CSS classes that colour a class: its base, then its own."""
    base, _, own = class_id.partition(".")
    return f"c-{base} c-{own}" if own else f"c-{base}"
