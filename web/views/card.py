"""The cards that links show elsewhere (Open Graph): one for a method, drawn from its record, and one for the site."""

from __future__ import annotations

import textwrap

from pydantic import Field

from recommender.service import default_catalogue
from web.views.base import View, method_item
from web.views.front import figures
from web.views.mark import HYBRID, mark
from web.views.record import record

WIDTH, HEIGHT = 1200, 630
COLOURS = {
    "baseline": "#4a5560",
    "additive": "#6b3fa0",
    "selective": "#875200",
    "reparameterization": "#0d6468",
    HYBRID: "#ad2450",
}
"""Base classes in the light colours of the site; a card has one scheme, since it is shown on other sites."""
_LINE, _LINES = 62, 4  # letters of a line at the size of the summary, and lines


class CardPage(View):
    """What a card says."""

    name: str
    full_name: str
    kicker: str = Field(description="its classes and its year")
    outline: str = Field(description="drawing of its class on a square of 16 by 16; empty: the logo of the site")
    colour: str = Field(description="colour of its class")
    size: int = Field(description="height of the name's letters")
    lines: tuple[str, ...] = Field(description="its summary, broken into lines")
    facts: tuple[tuple[str, str], ...] = Field(description="a name and a value each")


def card_page(slug: str) -> CardPage:
    """The card of a method; raises as ``record`` does."""
    method, item = record(slug), method_item(slug)
    kind = HYBRID if item.hybrid else item.classes[0].base
    studies = default_catalogue().known[method.slug].evidence.quality().independent
    return CardPage(
        name=method.name,
        full_name=method.full_name if method.full_name != method.name else "",
        kicker=f"{', '.join(each.name for each in item.classes)} · {method.year}",
        outline=mark(HYBRID if item.hybrid else item.classes[0].id),
        colour=COLOURS.get(kind, COLOURS["baseline"]),
        size=min(110, 1900 // max(10, len(method.name))),
        lines=_broken(method.summary),
        facts=(
            ("merges into the weights", {True: "yes", False: "no", None: "not known"}[item.mergeable]),
            ("at inference", (method.efficiency.inference_overhead.value or "not known").replace("_", " ")),
            ("independent studies", str(studies)),
        ),
    )


def site_card() -> CardPage:
    """The card of every page that is not about one method."""
    held = figures()
    return CardPage(
        name="PEFT Atlas",
        full_name="",
        kicker="Parameter-efficient fine-tuning",
        outline="",
        colour="#16324f",
        size=110,
        lines=_broken(
            "Which fine-tuning method, on my card, for my model and task, and why? A ranked answer with predicted memory, "
            "expected quality with an interval, and the source of every claim."
        ),
        facts=(
            ("methods", str(held.methods)),
            ("published results", str(held.results)),
            ("models and cards", f"{held.models} and {held.gpus}"),
        ),
    )


def _broken(text: str) -> tuple[str, ...]:
    """A text in lines; what does not fit is cut."""
    lines = textwrap.wrap(text, _LINE)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], textwrap.shorten(" ".join(lines[_LINES - 1 :]), _LINE, placeholder=" …")]
    return tuple(lines)
