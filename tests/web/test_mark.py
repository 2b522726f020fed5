"""Every class of the taxonomy can be told apart by its mark alone, and by its colour alone."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from taxonomy import build
from web.assets import assets
from web.views.mark import HYBRID, MARKS, mark, tone

CLASSES = (*build().classes, HYBRID)
_PAIR = re.compile(r"\.c-(\w+)\{--class:light-dark\((#\w{6}),(#\w{6})\);?\}")


def _tones() -> dict[str, tuple[str, str]]:
    return {name: (light, dark) for name, light, dark in _PAIR.findall(assets()["site.css"].body.decode())}


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_class_has_a_mark_of_its_own() -> None:
    assert {mark(each) for each in CLASSES} == set(MARKS.values())
    assert len(set(MARKS.values())) == len(MARKS)


def test_a_new_class_gets_the_mark_of_its_base() -> None:
    assert mark("additive.brand_new") == MARKS["additive"]
    assert mark("brand_new").startswith("M")


@pytest.mark.parametrize("class_id", CLASSES)
def test_every_class_has_a_colour_that_can_be_read_on_paper(class_id: str) -> None:
    light, dark = _tones()[tone(class_id).split()[-1].removeprefix("c-")]
    sheet = assets()["site.css"].body.decode()
    for ground in ("paper", "raised"):
        grounds = re.search(rf"--{ground}:light-dark\((#\w{{6}}),(#\w{{6}})\)", sheet)
        assert grounds is not None
        assert _contrast(light, grounds[1]) >= 4.5
        assert _contrast(dark, grounds[2]) >= 4.5


def test_no_two_classes_share_a_colour() -> None:
    for scheme in (0, 1):
        colours = sorted(pair[scheme] for pair in _tones().values())
        assert all(one != other for one, other in pairwise(colours))
