"""One whole answer in short, computed for the front page."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from pydantic import Field

from recommender import from_query, recommend
from recommender.answer import CardView, Plan
from web.views.base import View
from web.views.form import PRESETS, Option
from web.views.recommend import Bar, bar

_LABEL, _ADDRESS = PRESETS[1]
_RUNNERS_UP = 2


class Example(View):
    """A recommendation that fits on a card of the front page."""

    question: str = Field(description="what is asked, in words")
    href: str = Field(description="address of the whole answer")
    slug: str = Field(description="the method that leads")
    name: str = Field(description="its name")
    verdict: str = Field(description="fits or tight")
    plan: Plan = Field(description="how it is run")
    device_bytes: int = Field(description="memory that it is predicted to take on the card")
    headroom_bytes: int = Field(description="what it leaves")
    card: CardView
    bar: Bar = Field(description="the memory by part against the card")
    fitting: int = Field(description="methods that fit")
    next: tuple[Option, ...] = Field(description="the methods behind it, each with its page")


def example() -> Example | None:
    """The answer to the second of the situations to start from; ``None`` if nothing fits there."""
    answer = recommend(from_query(dict(parse_qsl(urlsplit(_ADDRESS).query))))
    if not answer.ranked:
        return None
    first, *others = answer.ranked
    return Example(
        question=_LABEL,
        href=_ADDRESS,
        slug=first.slug,
        name=first.name,
        verdict=first.verdict,
        plan=first.plan,
        device_bytes=first.memory.device_bytes,
        headroom_bytes=first.headroom_bytes,
        card=answer.card,
        bar=bar(first.memory, answer.card.usable_bytes),
        fitting=answer.total_ranked,
        next=tuple(Option(value=f"/methods/{each.slug}", label=each.name) for each in others[:_RUNNERS_UP]),
    )
