"""Autocast as a CUDA card has it, for fake tensors, which live on the processor.

``torch.autocast`` keeps lists of operations for each kind of device: some are computed in bf16, some in fp32, some in the
widest type of their operands. Those of the processor lack softmax, powers, sums and norms, and change others that a card
leaves alone. Inside ``as_on_a_card`` the processor's autocast follows the card's lists (``ATen/autocast_mode.h``, described in
PyTorch's documentation of ``torch.amp``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, fallthrough_kernel

_CARD, _PROCESSOR = "AutocastCUDA", "AutocastCPU"
_ITSELF = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_TYPED = {
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm",
    "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList",
}  # fmt: skip
"""What is told to give fp32, its operands left as they are."""
_WIDEST = {
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot", "scatter_add",
}  # fmt: skip
"""What takes the widest type of its operands."""
_HALF = {
    "_convolution", "addmv", "addr", "chain_matmul", "convolution", "einsum", "linalg_multi_dot", "mv",
    "_scaled_dot_product_flash_attention",
}  # fmt: skip
"""Products in bf16; all others that are not named here are computed in fp32."""
_ELSEWHERE = ("cudnn", "lstm_cell", "gru_cell", "rnn_")  # a card's library, and networks that no model here is


def _operators(key: str) -> set[str]:
    """The names of PyTorch's operators that an autocast changes."""
    known = torch._C._dispatch_get_all_op_names()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name.removeprefix("aten::") for name in known if name.startswith("aten::") and has(name, key)}


@lru_cache(maxsize=1)
def _differing() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Operators that a card's autocast changes and the processor's does not, and the other way round."""
    card, processor = _operators(_CARD), _operators(_PROCESSOR)
    added = (name for name in card - processor if not any(word in name for word in _ELSEWHERE))
    return tuple(sorted(added)), tuple(sorted(processor - card))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Numbers in ``dtype``, wherever they are in an argument; fp64 and whole numbers as they are."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dtype != torch.float64 else value
    return type(value)(_cast(one, dtype) for one in value) if isinstance(value, list | tuple) else value


def _floats(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value
        elif isinstance(value, list | tuple):
            yield from _floats(value)


def _dtype(name: str, values: Iterable[Any]) -> torch.dtype:
    """The type in which an operator computes."""
    if name in _HALF:
        return torch.bfloat16
    if name in _WIDEST:
        return max((x.dtype for x in _floats(values)), key=lambda dtype: dtype.itemsize, default=torch.float32)
    return torch.float32


def _kernel(name: str) -> Callable[..., Any]:
    """What autocast does before an operator."""
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    named = [argument.name for argument in operator._schema.arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(named, args, strict=False)), **kwargs}
        if name not in _TYPED:
            dtype = _dtype(name, given.values())
            given = {key: _cast(value, dtype) for key, value in given.items()}
        elif next(_floats(args[:1]), None) is not None:
            given["dtype"] = given.get("dtype") or torch.float32
        with torch._C._ExcludeDispatchKeyGuard(_ITSELF):
            return operator(**given)

    return run


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Within, the autocast of the processor changes what a card's would, and nothing else."""
    added, left = _differing()
    library = Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a kernel of PyTorch's own is replaced
            for name in added:
                library.impl(name, _kernel(name), _PROCESSOR)
            for name in left:
                library.impl(name, fallthrough_kernel, _PROCESSOR)
        yield
    finally:
        library._destroy()
