"""Requirements that a method meets or not, whatever the card."""

from __future__ import annotations

from typing import Literal, NamedTuple

from kb.architecture import Architecture
from kb.schema import Method, Value
from recommender.answer import Excluded
from recommender.constraints import Constraints

Code = Literal["requirement", "not_applicable", "unknown"]
Unmet = tuple[Code, str, str | None]  # kind, reason, and the constraint that asks for it

_KINDS = {
    "decoder": "decoder",
    "encoder": "encoder",
    "encoder_decoder": "encoder_decoder",
    "vision": "vision",
    "multimodal": "decoder",
}
_ONE = {
    "decoder": "a decoder",
    "encoder": "an encoder",
    "encoder_decoder": "an encoder-decoder",
    "vision": "a vision model",
    "diffusion": "a diffusion model",
}


def _required(constraint: str, value: Value[bool], wanted: bool, failing: str, unknown: str) -> Unmet | None:
    if value.value is wanted:
        return None
    return ("unknown", unknown, constraint) if value.value is None else ("requirement", failing, constraint)


class Requirements(NamedTuple):
    """What a request and its model ask of a method, whatever the card."""

    kind: str  # of model, as records say it
    biased: bool  # linear layers have biases
    crossing: bool  # there is cross-attention
    square: bool  # all queries together are as wide as the hidden states
    library: str | None
    family: str | None
    merge: str
    backprop: str
    mixed: bool  # tasks share a batch


def requirements(constraints: Constraints, model: Architecture) -> Requirements:
    """What ``constraints`` and ``model`` ask of every method."""
    return Requirements(
        kind="diffusion" if constraints.task == "diffusion" else _KINDS.get(model.kind, model.kind),
        biased=model.biased,
        crossing=model.cross_attention,
        square=model.heads * model.head_dim == model.d,
        library=constraints.library,
        family=constraints.family,
        merge=constraints.merge,
        backprop=constraints.backprop,
        mixed=constraints.adapters > 1,
    )


def _unmet(method: Method, asked: Requirements) -> Unmet | None:
    cost, kind = method.efficiency, asked.kind
    if kind not in method.applies_to.architectures:
        return (
            "not_applicable",
            f"applies to {', '.join(method.applies_to.architectures).replace('_', '-')} models; this one is {_ONE.get(kind, kind)}",
            None,
        )
    if "biases" in method.applies_to.needs and not asked.biased:
        return "not_applicable", "trains biases, and this model's linear layers have none (survey, finding 6)", None
    if "cross_attention" in method.applies_to.needs and not asked.crossing:
        return "not_applicable", "trains cross-attention, and this model has none", None
    if "square_attention" in method.applies_to.needs and not asked.square:
        reason = "wants all queries together as wide as the hidden states; in this model they are not"
        return "not_applicable", reason, None
    if "fine_tuned_models" in method.applies_to.needs:
        return "not_applicable", "fuses models that are fine-tuned already; it trains nothing itself", None
    if asked.library is not None and asked.library not in {library.name for library in method.code.libraries}:
        return "requirement", f"{asked.library} does not ship it", "library"
    if asked.family is not None and not any(
        leaf == asked.family or leaf.startswith(f"{asked.family}.") or leaf.endswith(f".{asked.family}")
        for leaf in method.taxonomy.classes
    ):
        return "requirement", f"is not of the class {asked.family}", "family"
    if asked.merge == "required":
        found = _required(
            "merge",
            cost.mergeable,
            True,
            "does not merge into one plain model",
            "not known whether it merges into one plain model",
        )
        if found:
            return found
    if asked.backprop == "avoid":
        found = _required(
            "backprop",
            cost.backprop_through_backbone,
            False,
            "sends gradients through the frozen model",
            "not known whether gradients pass through the frozen model",
        )
        if found:
            return found
    if asked.mixed:
        return _required(
            "adapters",
            cost.many_adapters_in_one_batch,
            True,
            "cannot mix tasks in one batch",
            "not known whether tasks can share a batch",
        )
    return None


def unmet(method: Method, asked: Requirements) -> Excluded | None:
    """The requirement that excludes ``method``, or ``None``. A stricter requirement never lets a method in."""
    found = _unmet(method, asked)
    if found is None:
        return None
    code, reason, constraint = found
    return Excluded(
        slug=method.slug,
        name=method.name,
        reason=reason,
        code=code,
        constraint=constraint,
        missing_bytes=None,
        plan=None,
        needed_bytes=None,
    )
