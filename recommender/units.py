"""Sizes as people write them: ``24GB``, ``24GiB``, ``7B``, ``350M``. Strict, because no library reads both.

``GB`` is 10⁹ bytes and ``GiB`` 2³⁰; ``B`` is a billion parameters. A bare number is refused: 24 of what?
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = r"(\d{1,9}(?:\.\d{1,6})?)"
_BYTES = re.compile(rf"{_NUMBER}\s*(MB|GB|TB|MiB|GiB|TiB)", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(rf"{_NUMBER}\s*(K|M|B|T)", re.ASCII | re.IGNORECASE)
_EXAMPLES = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(K|M|B)?", re.ASCII | re.IGNORECASE)
_BYTE_UNITS = {"mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_COUNT_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

_TIMES = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))

SMALLEST_BYTES, LARGEST_BYTES = 256 * 2**20, 10**15
SMALLEST_COUNT, LARGEST_COUNT = 10**6, 2 * 10**12


def _plain(text: str) -> str:
    shown = text if len(text) <= 40 else text[:40] + "…"
    return repr(shown)


def parse_bytes(text: str) -> int:
    """The number of bytes in ``24GB``, ``23.6 GiB`` or ``512 MiB``; ``ValueError`` says how to write it."""
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise ValueError(_bytes_hint(text))
    size = int(Decimal(match[1]) * _BYTE_UNITS[match[2].lower()])
    if not SMALLEST_BYTES <= size <= LARGEST_BYTES:
        raise ValueError(f"{_plain(text)} is out of range; a memory lies between 256MiB and 1000TB")
    return size


def _bytes_hint(text: str) -> str:
    bare = re.fullmatch(rf"{_NUMBER}", text.strip(), re.ASCII)
    if bare:
        return f"{_plain(text)} has no unit; write {bare[1]}GB (10⁹ bytes) or {bare[1]}GiB (1024³ bytes)"
    if "," in text:
        return f"{_plain(text)} has a comma; write the decimal point, as in {_plain(text.replace(',', '.'))[1:-1]}"
    return f"{_plain(text)} is not a memory size; write it like 24GB, 23.6GiB or 512MiB"


def parse_count(text: str) -> int:
    """The number of parameters in ``7B``, ``0.5B`` or ``350M``; ``ValueError`` says how to write it."""
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(_count_hint(text))
    count = int(Decimal(match[1]) * _COUNT_UNITS[match[2].lower()])
    if not SMALLEST_COUNT <= count <= LARGEST_COUNT:
        raise ValueError(f"{_plain(text)} is out of range; a model has between 1M and 2T parameters")
    return count


def _count_hint(text: str) -> str:
    bare = re.fullmatch(rf"{_NUMBER}", text.strip(), re.ASCII)
    if bare:
        return f"{_plain(text)} has no unit; write {bare[1]}B (billion) or {bare[1]}M (million)"
    if "," in text:
        return f"{_plain(text)} has a comma; write the decimal point, as in {_plain(text.replace(',', '.'))[1:-1]}"
    return f"{_plain(text)} is not a number of parameters; write it like 7B, 0.5B or 350M"


def parse_number(text: str) -> int:
    """The number in ``16000``, ``16,000``, ``16k`` or ``1.2M``; ``ValueError`` says how to write it."""
    match = _EXAMPLES.fullmatch(text.strip().replace(",", ""))
    if match is None or ("." in match[1] and not match[2]):
        raise ValueError(f"{_plain(text)} is not a number; write it like 16000, 16k or 1.2M")
    return int(Decimal(match[1]) * _COUNT_UNITS.get((match[2] or "").lower(), 1))


def show_bytes(size: float) -> str:
    """A size in GiB (MiB below one) with the unit, for people."""
    return f"{size / 2**30:.1f} GiB" if abs(size) >= 2**30 else f"{size / 2**20:.0f} MiB"


def show_seconds(seconds: float) -> str:
    """A time of training in the largest unit of which it has two, with two digits that mean something."""
    size, name = next((each for each in _TIMES if seconds >= 2 * each[0]), _TIMES[-1])
    count = seconds / size
    return f"{count:.2g} {name}" if count < 10 else f"{count:.0f} {name}"


def signed(value: float) -> str:
    """A number with its sign, a real minus; what rounds to nothing has none."""
    shown = f"{value:+.2f}"
    return "0.00" if shown.strip("+-") == "0.00" else with_minus(shown)


def with_minus(number: str) -> str:
    """A written number with a real minus instead of a hyphen."""
    return number.replace("-", "\u2212")


def show_count(count: float) -> str:
    """A number of parameters with three significant digits: ``6.74B``, ``350M``."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= 0.9995 * size:  # what three digits round up to the unit
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
