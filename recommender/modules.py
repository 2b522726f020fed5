"""What released models call their linear layers, by the model's type: training libraries are told by these names."""

from __future__ import annotations

from collections.abc import Iterable

from kb.architecture import Architecture

_ROLES = ("query", "key", "value", "output", "gate", "up", "down")
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NEOX = ("query_key_value", "query_key_value", "query_key_value", "dense", None, "dense_h_to_4h", "dense_4h_to_h")
_FC = ("q_proj", "k_proj", "v_proj", "out_proj", None, "fc1", "fc2")
_T5 = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
_DENSE = (r"attention\.output\.dense", None, r"intermediate\.dense", r"\d+\.output\.dense")
_BERT = ("query", "key", "value", *_DENSE)
_NAMES: dict[str, tuple[str | None, ...]] = {
    "bart": _FC,
    "bert": _BERT,
    "bloom": _NEOX,
    "clip": _FC,
    "deberta-v2": ("query_proj", "key_proj", "value_proj", *_DENSE),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", None, "lin1", "lin2"),
    "falcon": _NEOX,
    "gpt2": ("c_attn", "c_attn", "c_attn", r"attn\.c_proj", None, "c_fc", r"mlp\.c_proj"),
    "gpt_neox": _NEOX,
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", None, "fc_in", "fc_out"),
    "modernbert": ("Wqkv", "Wqkv", "Wqkv", r"attn\.Wo", "Wi", "Wi", r"mlp\.Wo"),
    "opt": _FC,
    "phi": ("q_proj", "k_proj", "v_proj", "dense", None, "fc1", "fc2"),
    "phi3": ("qkv_proj", "qkv_proj", "qkv_proj", "o_proj", "gate_up_proj", "gate_up_proj", "down_proj"),
    "roberta": _BERT,
    "starcoder2": ("q_proj", "k_proj", "v_proj", "o_proj", None, "c_fc", "c_proj"),
    "t5": _T5,
    "mt5": _T5,
    "vit": ("q_proj", "k_proj", "v_proj", "o_proj", None, "fc1", "fc2"),
    "whisper": _FC,
    "xlm-roberta": _BERT,
}
"""Families that do not use the names of Llama; parts of a pattern where a plain name would fit other layers too."""

SENSES = r"(?:.*\.)?(?:visual|vision_tower|vision_model|multi_modal_projector)\..*"
"""Layers beside the text decoder of a model that reads images; some have the names of the decoder's."""


def module_names(model: Architecture, sites: Iterable[str]) -> tuple[str, ...] | None:
    """The names of the linear layers at ``sites``, each once; ``None`` if a site is no single linear layer.

    ``all-linear`` stands for all of them, as PEFT reads it.
    """
    names: list[str] = []
    known = dict(zip(_ROLES, _NAMES.get(model.model_type, _LLAMA), strict=True))
    if model.model_type in ("t5", "mt5") and not model.gated:
        known |= {"gate": None, "up": "wi"}
    for site in sites:
        if site == "all_linear":
            return ("all-linear",)
        place, _, role = site.partition(".")
        if role not in known or place not in ("attention", "cross_attention", "mlp"):
            return None
        name = known[role]
        if name is not None:
            names.append(name)
    return tuple(dict.fromkeys(names))


def is_pattern(names: Iterable[str]) -> bool:
    """Whether a name among ``names`` is a part of a pattern, so that all have to be given as one."""
    return any("\\" in name for name in names)


def pattern(names: Iterable[str]) -> str:
    """The names as one regular expression over the whole name of a module."""
    return rf".*\.(?:{'|'.join(names)})"
