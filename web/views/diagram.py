"""A transformer block as a drawing: which parts a method trains, what it inserts, and what stays frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from kb.schema import Form
from kb.sites import SITES
from web.views.base import View
from web.views.plan import ACROSS, Place, Plan

WORDS: dict[Form, str] = {
    "low_rank": "a thin product beside a frozen matrix",
    "dense_delta": "a change of full size, made from few numbers",
    "rotation": "a structured matrix that multiplies the weight",
    "scaling": "a vector that scales",
    "bottleneck": "a small network in the layer",
    "prompt": "vectors in front of the input",
    "prefix": "further keys and values",
    "in_place": "parameters of the model itself",
    "mask": "single entries, chosen by a mask",
    "side_network": "a network beside the backbone",
    "representation": "an edit of hidden states",
    "merge": "parts of several trained models",
    "full": "every parameter",
}
"""Every form of change as the legend says it."""
_INSIDE: frozenset[Form] = frozenset({"in_place", "full"})
"""Forms that train a whole part; all others leave it frozen and stand beside it."""
_BESIDE: frozenset[Form] = frozenset({"low_rank", "dense_delta", "rotation", "scaling", "mask", "merge"})
"""Forms that stand beside a matrix."""
_INNER = frozenset(
    {"attention.query", "attention.key", "attention.value", "attention.output", "mlp.gate", "mlp.up", "mlp.down"}
)
_MARGIN = 12  # below the lowest part


class Part(View):
    """A part of the block."""

    site: str = Field(description="name of the place, as records use it")
    label: str = Field(description="text in the box")
    meaning: str = Field(description="what the place is")
    x: int = Field(description="left edge")
    y: int = Field(description="upper edge")
    width: int = Field(description="width")
    height: int = Field(description="height")
    acts: bool = Field(description="whether the method acts here by default")
    trains: bool = Field(description="whether the part itself trains; else it is frozen")


class Insert(View):
    """Something that the method adds at a part."""

    form: Form = Field(description="shape of the added computation")
    site: str = Field(description="where")
    path: str = Field(description="outline as an SVG path")


class Note(View):
    """A form of change in words, for the legend."""

    form: Form = Field(description="shape of the computation")
    text: str = Field(description="what it is")
    path: str = Field(description="its outline on a square of 30 by 30")


class Aside(View):
    """Words beside a group of parts."""

    text: str
    x: int
    y: int


class Diagram(View):
    """The drawing."""

    width: int
    height: int
    parts: tuple[Part, ...] = Field(description="parts in the order of the computation")
    inserts: tuple[Insert, ...] = Field(description="what the method adds")
    lines: tuple[str, ...] = Field(description="how hidden states run, as SVG paths")
    sums: tuple[tuple[int, int], ...] = Field(description="where a module's output is added to the stream")
    product: tuple[int, int] = Field(description="where gate and up projection are multiplied")
    attention: tuple[int, int, int, int] = Field(description="box of the attention itself: left, top, width, height")
    tokens: tuple[bool, ...] = Field(description="vectors of the input, true where they are trained ones in front")
    tokens_at: tuple[int, int] = Field(description="left upper corner of the first of these vectors")
    asides: tuple[Aside, ...] = Field(description="words beside groups of parts")
    cross: bool = Field(description="whether cross-attention is drawn")
    notes: tuple[Note, ...] = Field(description="the forms of change in words")
    summary: str = Field(description="the drawing in one sentence")


def diagram(where: Iterable[str], forms: Iterable[Form], plan: Plan = ACROSS) -> Diagram:
    """The drawing of a method that acts at these sites with these forms.

    ``all_linear`` and ``all_weights`` mark every part that they cover; cross-attention, modules and a side network are
    drawn only where the method acts on them.
    """
    named, shapes = list(where), list(forms)
    marked = set(named)
    if "all_linear" in marked:
        marked |= _INNER
    if "all_weights" in marked:
        marked |= _INNER | {"embedding", "norm", "head"}
    crossed = any(site.startswith("cross_attention") for site in marked)
    parts = [_part(place, named, marked, shapes) for place in (*plan.places, *(plan.cross if crossed else ()))]
    modules = [
        Part(
            site=place.site, label=_label(place, shapes), meaning=SITES[place.site], x=place.x, y=place.y,
            width=place.width, height=place.height, acts=True, trains=True,
        )
        for place in plan.modules
        if place.site in marked
    ]  # fmt: skip
    drawn = (*parts, *modules)
    return Diagram(
        width=plan.width,
        height=max(plan.height, *(part.y + part.height + _MARGIN for part in drawn)),
        parts=drawn,
        inserts=tuple(_inserts(parts, marked, shapes)),
        lines=(*plan.lines, plan.side) if "side_network" in marked else plan.lines,
        sums=plan.sums,
        product=plan.product,
        attention=plan.attention,
        tokens=(*(["input" in marked] * 2), *([False] * 4)),
        tokens_at=plan.tokens,
        asides=tuple(
            Aside(text=text, x=x, y=y) for text, x, y in (*plan.asides, *((plan.cross_aside,) if crossed else ()))
        ),
        cross=crossed,
        notes=tuple(Note(form=form, text=WORDS[form], path=_shape(form, 0, 0)) for form in shapes),
        summary=_summary(named, shapes),
    )


def _part(place: Place, named: list[str], marked: set[str], forms: list[Form]) -> Part:
    """A part with what happens to it. A matrix beside which something stands is frozen, whatever else trains."""
    site, label, x, y, width, height = place
    linear = "." in site
    beside = linear and any(form in _BESIDE for form in forms)
    inside = any(form in _INSIDE for form in forms) or (site in named and not linear)
    return Part(
        site=site,
        label=label,
        meaning=SITES[site],
        x=x,
        y=y,
        width=width,
        height=height,
        acts=site in marked or (linear and "bias" in marked),
        trains=site in marked and inside and not beside,
    )


def _label(place: Place, forms: list[Form]) -> str:
    if place.site == "layer.output":
        return "edit" if "representation" in forms else "hidden states"
    return "prompt" if place.site == "input" and "prompt" in forms else place.label


def _inserts(parts: list[Part], marked: set[str], forms: list[Form]) -> Iterator[Insert]:
    """What stands beside the marked matrices, one form after the other, and biases as bars below them."""
    beside = [form for form in forms if form in _BESIDE]
    step = 30 if len(beside) == 1 else 26
    for part in parts:
        if part.site in marked and "." in part.site:
            for number, form in enumerate(beside):
                path = _shape(form, part.x + part.width + 3 + number * step, part.y + 2)
                yield Insert(form=form, site=part.site, path=path)
        if "bias" in marked and "." in part.site:
            path = f"M{part.x + 4} {part.y + part.height + 3}h{part.width - 8}v5h-{part.width - 8}z"
            yield Insert(form="in_place", site="bias", path=path)


def _shape(form: Form, x: int, y: int) -> str:
    """The outline of a form on a square of 30 by 30, with its left upper corner at a point."""
    at = f"M{x} {y}m"
    return {
        "low_rank": f"{at}3 2l11 9v8l-11 9zM{x} {y}m27 2l-11 9v8l11 9z",
        "dense_delta": f"{at}3 3h24v24h-24zm4 4v16h16v-16z",
        "rotation": f"{at}15 1l14 14-14 14-14-14zm0 8-6 6 6 6 6-6z",
        "scaling": f"{at}8 1h7v28h-7z",
        "bottleneck": f"{at}2 2h26l-9 10v6l9 10h-26l9-10v-6z",
        "prompt": f"{at}2 9h7v12h-7zm10 0h7v12h-7zm10 3h6v6h-6z",
        "prefix": f"{at}2 4h7v22h-7zm10 0h7v22h-7zm10 8h6v6h-6z",
        "in_place": f"{at}2 2h26v26h-26z",
        "mask": f"{at}2 2h8v8h-8zm18 0h8v8h-8zm-9 9h8v8h-8zm-9 9h8v8h-8z",
        "side_network": f"{at}2 18h26v8h-26zm2-15h3v12h-3zm19 0h3v12h-3z",
        "representation": f"{at}2 13h11v-11h4v11h11v4h-11v11h-4v-11h-11z",
        "merge": f"{at}2 3h6l7 9 7-9h6l-10 13v12h-6v-12z",
        "full": f"{at}2 2h26v26h-26z",
    }[form]


def _summary(where: list[str], forms: list[Form]) -> str:
    what = _listed([WORDS[form] for form in forms])
    places = [_short(site) for site in where if site not in forms]
    acts = f"; acts on {_listed(places)}" if places else ""
    return f"Trains {what}{acts}.{'' if 'full' in forms else ' Everything else is frozen.'}"


def acts_on(sites: Iterable[str]) -> str:
    """Places in few words: ``query, value``."""
    return ", ".join(map(_short, sites))


def _short(site: str) -> str:
    """A place in few words."""
    module, _, part = site.partition(".")
    if not part or any(site == place.site for place in ACROSS.modules):
        return {"attention.block": "the attention module", "mlp.block": "the feed-forward module"}.get(
            site, SITES[site]
        )
    return {"attention": part, "cross_attention": f"cross-attention {part}", "mlp": f"feed-forward {part}"}[module]


def _listed(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
