"""Drawings as PNG, for readers that take no SVG: the cards for links.

The letters come from the fonts beside this module, so a card looks the same on every machine, one without fonts included.
"""

from __future__ import annotations

from pathlib import Path

_FONTS = [str(path) for path in sorted((Path(__file__).parent / "fonts").glob("*.ttf"))]


def png(svg: bytes) -> bytes:
    """The drawing in its own size. Raises ``ValueError`` if it is none."""
    from resvg_py import svg_to_bytes  # at the first card: neither the start of a server nor the other pages need it

    return svg_to_bytes(svg.decode(), skip_system_fonts=True, font_files=_FONTS)
