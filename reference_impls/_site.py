"""Where things are in a model: the names of layers by their place in a block, and walks over modules and parameters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from reference_impls._layer import Around

M = TypeVar("M", bound=nn.Module)

# Where a layer sits in a block: ends of dotted names. Of GPT-2's fused query, key and value surgery offers the thirds.
QUERY = "q_proj|query|query_proj|q_lin|q"
KEY = "k_proj|key|key_proj|k_lin|k"
VALUE = "v_proj|value|value_proj|v_lin|v"
QKV = "qkv_proj|query_key_value|Wqkv"  # the three in one matrix, which is then adapted as a whole
_ENDS = r"(?:self_attn|self_attention|attention)\.dense|attn\.(?:out_proj|Wo|c_proj)"
OUTPUT = rf"o_proj|(?:self_attn|encoder_attn)\.out_proj|attention\.output\.dense|{_ENDS}|out_lin|o"
FFN_GATE = "gate_proj|wi_0"
FFN_IN = r"up_proj|intermediate\.dense|wi|wi_1|c_fc|fc1|fc_in|dense_h_to_4h|lin1|gate_up_proj|Wi"  # one per block
FFN_OUT = r"down_proj|\d+\.output\.dense|wo|mlp\.(?:c_proj|Wo)|fc2|fc_out|dense_4h_to_h|lin2"
ATTENTION = f"{QUERY}|{KEY}|{VALUE}|{OUTPUT}|{QKV}"
FFN = f"{FFN_GATE}|{FFN_IN}|{FFN_OUT}"  # a gate is apart, or in one matrix with the input
LINEAR = f"{ATTENTION}|{FFN}"  # every matrix of every block, neither embeddings nor head


def instances(model: nn.Module, kind: type[M]) -> Iterator[tuple[str, M]]:
    """Yields name and module of every ``kind`` in ``model``."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, kind))


def backbone(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and parameter of all that was pre-trained: everything but a classification head.

    A language model's head belongs to it; any other head is new, and outside what ``transformers`` calls base model.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    whole = model if head is not None else getattr(model, "base_model", model)
    inside = {id(parameter) for parameter in whole.parameters()}
    yield from ((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in inside)


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields name and module of every normalisation layer: LayerNorm, RMSNorm, and each family's own class of these."""
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Norm") and isinstance(getattr(module, "weight", None), Tensor):
            yield name, module


@dataclass
class Stack:
    """Blocks that follow one another, and the normalisation behind the last of them, if there is one."""

    blocks: list[tuple[str, nn.Module]]
    norm: tuple[str, nn.Module] | None
    width: int


def stacks(model: nn.Module) -> Iterator[Stack]:
    """Every stack of blocks in ``model``; an encoder comes before its decoder."""
    for name, parent in model.named_modules():
        for child, blocks in parent.named_children():
            if isinstance(blocks, nn.ModuleList) and len(blocks) and isinstance(blocks[0], GradientCheckpointingLayer):
                at = f"{name}.{child}".lstrip(".")
                inside = [part for part in norms(parent) if "." not in part[0] and "embed" not in part[0]]
                final = (f"{name}.{inside[0][0]}".lstrip("."), inside[0][1]) if inside else None
                width = min(norms(blocks[0]), key=lambda one: one[0].count("."))[1].weight.shape[0]  # deeper: a head's
                yield Stack([(f"{at}.{i}", block) for i, block in enumerate(blocks)], final, width)


def sites(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yields every ``kind`` layer, or what already stands around it, but nothing that is inside such a thing."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        core = module
        while isinstance(core, Around):
            core = core.base
        if core is not module:
            inside += (f"{name}.",)
        if isinstance(core, kind):
            yield name, module
