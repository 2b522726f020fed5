"""A base in fewer bits: which of its layers are stored so, and storing them."""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from reference_impls.parts import int8, nf4


def in_blocks(model: nn.Module, storage: str) -> list[tuple[str, Any]]:
    """Name and layer of what is stored in fewer bits: the blocks' linear layers that transformers chooses for it.

    Head, embeddings, norms and experts that are one tensor keep their type. Raises ``ValueError`` when none is left.
    """
    stacks = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    found = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and name.startswith(stacks)
    ]
    if found:
        kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        found = [(name, module) for name, module in found if should_convert_module(name, kept)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer in its blocks that could be stored as {storage}")
    return found


def pack(model: nn.Module, storage: str, device: torch.device) -> nn.Module:
    """Stores the blocks of ``model`` as ``storage`` says, "int8" or "nf4", layer by layer on ``device``; in place.

    Raises ``ValueError`` as ``in_blocks`` does.
    """
    for name, layer in in_blocks(model, storage):
        layer.to(device)
        four = storage == "nf4"
        packed = (
            nf4.NF4Linear(layer, nf4.quantise(layer.weight))
            if four
            else int8.Int8Linear(layer, int8.quantise(layer.weight))
        )
        model.set_submodule(name, packed)
    return model
