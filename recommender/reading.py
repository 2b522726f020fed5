"""Reading what was asked for: which model, which card, how each value was understood."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rapidfuzz import process

from kb.architecture import Architecture, from_config, representative
from kb.catalogue import Gpu, load_gpus, load_models
from kb.device import ANY, Context, context
from recommender.answer import CardView, ModelView
from recommender.constraints import Constraints
from recommender.naming import cards_like
from recommender.speed import PCI_EXPRESS, Rates
from recommender.units import parse_bytes, parse_count, show_bytes, show_count
from recommender.variant import meaning, unknown


class ConstraintError(ValueError):
    """A constraint that cannot be met by reading alone: it names its field and the nearest right values."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def near(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with up to three near names, or an empty text."""
    names = [name for name, _, _ in process.extract(word, list(known), limit=3, score_cutoff=60)]
    return f"; did you mean {' or '.join(names)}?" if names else ""


Half = Literal["bf16", "fp16"]


@dataclass(frozen=True)
class Card:
    """The card of a request."""

    usable: int
    rates: Rates | None
    view: CardView
    context: Context = ANY  # what a process holds beside what its allocator holds
    half: Half = "bf16"  # the 16-bit type in which it computes
    shared: bool = False  # memory is the computer's own


@lru_cache(maxsize=256)
def _catalogued(model_id: str) -> Architecture:
    return from_config(load_models()[model_id].config)


@lru_cache(maxsize=256)
def _sized(count: int) -> Architecture:
    return representative(count)


def read_model(constraints: Constraints) -> tuple[Architecture, ModelView]:
    """The architecture that ``model``, ``params`` or ``config`` describes; ``ConstraintError`` if there is none."""
    meant = None
    if constraints.model is not None:
        meant = meaning(constraints.model)
        if meant is None:
            raise ConstraintError("model", unknown(constraints.model))
        architecture, name = _catalogued(meant.id), load_models()[meant.id].name
    elif constraints.config is not None:
        try:
            architecture = from_config(constraints.config)
        except ValueError as error:
            raise ConstraintError("config", str(error)) from None
        name = str(constraints.config.get("_name_or_path") or f"a {architecture.model_type} model of your own")
    else:
        count = parse_count(constraints.params or "")
        architecture = _sized(count)
        name = f"a dense decoder of {show_count(count)} parameters"
    view = ModelView(
        id=None if meant is None else meant.id,
        name=name,
        repository=None if meant is None else meant.repository,
        read_as=None if meant is None else meant.said,
        parameters=architecture.parameters,
        kind=architecture.kind,
        layers=architecture.layers,
        hidden_size=architecture.d,
        notes=architecture.notes,
    )
    return architecture, view


def within(constraints: Constraints, model: Architecture) -> Constraints:
    """The constraints with sequences that ``model`` can take, where their length was left as it stands for all models."""
    usual, longest = Constraints.model_fields["seq"].default, longest_input(constraints, model)
    if constraints.seq != usual or longest is None or longest >= usual:
        return constraints
    return constraints.model_copy(update={"seq": longest})


def longest_input(constraints: Constraints, model: Architecture) -> int | None:
    """The tokens that ``model`` was made for; ``None`` where that is not known: a size tells no length, an image has its own."""
    return None if constraints.params is not None or model.kind == "vision" else model.context


def read_card(constraints: Constraints) -> Card | None:
    """The card that ``gpu`` or ``gpu_mem`` describes, or ``None`` if neither is given; ``ConstraintError`` if unknown."""
    limit = None if constraints.gpu_mem is None else parse_bytes(constraints.gpu_mem)
    if constraints.gpu is None:
        if limit is None:
            return None
        note = f"{constraints.gpu_mem} read as {limit:,} bytes, {show_bytes(limit)}; what a card of that name reports may differ by a few percent"
        return Card(
            limit,
            None,
            CardView(
                id=None,
                name=f"a card with {constraints.gpu_mem}",
                usable_bytes=limit,
                count=constraints.gpus,
                note=note,
            ),
        )
    gpus = load_gpus()
    if constraints.gpu not in gpus:
        raise ConstraintError(
            "gpu", f"there is no card {constraints.gpu!r} in the catalogue{cards_like(constraints.gpu)}"
        )
    gpu = gpus[constraints.gpu]
    usable = gpu.usable_bytes()
    note = (
        f"{show_bytes(usable)} as the driver reports"
        if gpu.memory_reported_mib.value is not None
        else f"{show_bytes(usable)} as sold; the driver may report less"
    )
    if limit is not None:
        usable = min(usable, limit)
        note += f", limited to {show_bytes(usable)} by gpu_mem"
    return Card(
        usable,
        _rates(gpu),
        CardView(id=constraints.gpu, name=gpu.name, usable_bytes=usable, count=constraints.gpus, note=note),
        context(gpu.id, gpu.architecture),
        half="fp16" if gpu.bf16 is False else "bf16",
        shared=gpu.vendor == "Apple",
    )


def _rates(gpu: Gpu) -> Rates | None:
    if gpu.tensor_tflops.value is None or gpu.bandwidth_gbs.value is None:
        return None
    full = gpu.fp32_tflops.value or gpu.tensor_tflops.value / 8  # an eighth: what tensor cores are ahead at the least
    link = PCI_EXPRESS if gpu.link_gbs.value is None else gpu.link_gbs.value * 1e9
    return Rates(gpu.tensor_tflops.value * 1e12, gpu.bandwidth_gbs.value * 1e9, full * 1e12, link)


SITES = {
    "attention.query": ("q_proj", "query", "q", "q_lin"),
    "attention.key": ("k_proj", "key", "k", "k_lin"),
    "attention.value": ("v_proj", "value", "v", "v_lin"),
    "attention.output": ("o_proj", "out_proj", "o", "out_lin"),
    "mlp.gate": ("gate_proj", "wi_0"),
    "mlp.up": ("up_proj", "fc1", "wi", "wi_1", "lin1"),
    "mlp.down": ("down_proj", "fc2", "wo", "lin2"),
}
"""Linear layers of a block with the names that released models give them."""


def read_targets(constraints: Constraints) -> tuple[str, ...]:
    """The places that ``targets`` names; empty if it is not given, or says ``paper``. Raises as ``read_sites``."""
    return () if constraints.targets is None else read_sites(constraints.targets)


def read_sites(text: str) -> tuple[str, ...]:
    """The places that a list of layers names, in the order of a block; empty for ``paper``, those of a method's paper.

    Raises ``ConstraintError`` with the nearest name for one that is not known.
    """
    words = [word for word in text.replace(" ", "").split(",") if word]
    if words == ["paper"]:
        return ()
    if "all_linear" in words or "all-linear" in words:
        return ("all_linear",)
    known = {name: site for site, names in SITES.items() for name in (site, *names)}
    for word in words:
        if word not in known:
            nearest = near(word, [*known, "all_linear", "paper"])
            raise ConstraintError("targets", f"no linear layer is called {word!r}{nearest}")
    wanted = {known[word] for word in words}
    return tuple(site for site in SITES if site in wanted) if len(wanted) < len(SITES) else ("all_linear",)


def echo(constraints: Constraints) -> dict[str, Any]:
    """The constraints as read: every field with its value, sizes also in plain numbers."""
    shown: dict[str, Any] = constraints.model_dump(exclude={"config"})
    if constraints.gpu_mem is not None:
        shown["gpu_mem_bytes"] = parse_bytes(constraints.gpu_mem)
    if constraints.params is not None:
        shown["params_count"] = parse_count(constraints.params)
    if constraints.config is not None:
        shown["config"] = {"model_type": constraints.config.get("model_type")}
    return shown
