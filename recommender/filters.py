"""Requirements that a method meets or not, whatever the card."""

from __future__ import annotations

from typing import Literal

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


def _required(constraint: str, value: Value[bool], wanted: bool, failing: str, unknown: str) -> Unmet | None:
    if value.value is wanted:
        return None
    return ("unknown", unknown, constraint) if value.value is None else ("requirement", failing, constraint)


def _unmet(method: Method, constraints: Constraints, model: Architecture) -> Unmet | None:
    cost = method.efficiency
    kind = "diffusion" if constraints.task == "diffusion" else _KINDS.get(model.kind, model.kind)
    if kind not in method.applies_to.architectures:
        return (
            "not_applicable",
            f"applies to {', '.join(method.applies_to.architectures).replace('_', '-')} models; this one is {kind.replace('_', '-')}",
            None,
        )
    if "biases" in method.applies_to.needs and not (model.bias_qkv or model.bias_out or model.bias_mlp):
        return "not_applicable", "trains biases, and this model's linear layers have none (survey, finding 6)", None
    if "cross_attention" in method.applies_to.needs and not model.cross_attention:
        return "not_applicable", "trains cross-attention, and this model has none", None
    if "square_attention" in method.applies_to.needs and model.heads * model.head_dim != model.d:
        reason = "wants all queries together as wide as the hidden states; in this model they are not"
        return "not_applicable", reason, None
    if "fine_tuned_models" in method.applies_to.needs:
        return "not_applicable", "fuses models that are fine-tuned already; it trains nothing itself", None
    if constraints.library is not None and constraints.library not in {
        library.name for library in method.code.libraries
    }:
        return "requirement", f"{constraints.library} does not ship it", "library"
    if constraints.family is not None and not any(
        leaf == constraints.family
        or leaf.startswith(f"{constraints.family}.")
        or leaf.endswith(f".{constraints.family}")
        for leaf in method.taxonomy.classes
    ):
        return "requirement", f"is not of the class {constraints.family}", "family"
    if constraints.merge == "required":
        found = _required(
            "merge",
            cost.mergeable,
            True,
            "does not merge into one plain model",
            "not known whether it merges into one plain model",
        )
        if found:
            return found
    if constraints.backprop == "avoid":
        found = _required(
            "backprop",
            cost.backprop_through_backbone,
            False,
            "sends gradients through the frozen model",
            "not known whether gradients pass through the frozen model",
        )
        if found:
            return found
    if constraints.adapters > 1:
        return _required(
            "adapters",
            cost.many_adapters_in_one_batch,
            True,
            "cannot mix tasks in one batch",
            "not known whether tasks can share a batch",
        )
    return None


def unmet(method: Method, constraints: Constraints, model: Architecture) -> Excluded | None:
    """The requirement that excludes ``method``, or ``None``. A stricter requirement never lets a method in."""
    found = _unmet(method, constraints, model)
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
