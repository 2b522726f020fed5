"""What a CUDA card would do where the CPU takes another way: attention and dropout.

Fake tensors live on the CPU, where PyTorch picks other kernels, which keep other tensors for the backward pass.
Inside ``cuda_kernels`` the two functions concerned use the operators that a CUDA build would choose; their shapes are known
to PyTorch without a card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from profiler.autocast import as_on_a_card

FREE = frozenset(
    {
        "detach", "view", "_unsafe_view", "t", "transpose", "expand", "alias", "slice", "select", "unsqueeze",
        "squeeze", "permute", "as_strided", "empty", "empty_like", "empty_strided", "new_empty", "set_", "resize_",
    }
)  # fmt: skip
"""Operations that launch no kernel."""

_ALIGNED = 8  # elements; the memory-efficient kernel wants the rows of its mask so aligned (PyTorch, preprocess_mask)
_WIDEST_HEAD = 256  # of the flash kernel
HEAD_STEP = 8  # elements; the flash kernel wants heads of whole steps


_is_autocast_enabled = torch.is_autocast_enabled


def _casting(device: str = "cuda") -> bool:
    """On on a card; of the processor the truth, for autocast asks what state it has to put back."""
    return device == "cuda" or _is_autocast_enabled(device)


@contextmanager
def cuda_kernels(autocast: bool = False) -> Iterator[None]:
    """Attention by the flash or memory-efficient kernel, dropout by the fused one, as on a CUDA card.

    With ``autocast``, the autocast of the processor becomes that of a card, and PEFT learns that autocast is on.
    """
    with ExitStack() as stack:
        stack.enter_context(patch.object(functional, "scaled_dot_product_attention", _attention))
        stack.enter_context(patch.object(functional, "dropout", _dropout))
        if autocast:
            stack.enter_context(patch.object(torch, "is_autocast_enabled", _casting))
            stack.enter_context(as_on_a_card())
        yield


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout that keeps one byte per element, not a scaled mask in the type of ``x``."""
    if not training or p == 0:
        return x
    return torch.native_dropout(x, p, True)[0]


def _attention(
    query: Tensor,  # (batch, heads, queries, width), as the next two
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention`` with the order of choice of a CUDA build: flash, memory-efficient, plain."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    half = query.dtype in (torch.float16, torch.bfloat16)
    width = query.shape[-1]
    if query.dim() != 4:
        return _plain(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is None and half and width == value.shape[-1] <= _WIDEST_HEAD:
        short = -width % HEAD_STEP
        if short:
            query, key, value = (functional.pad(x, (0, short)) for x in (query, key, value))
        scale = scale if scale is not None else width**-0.5
        out = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
        return out[..., :width]
    if enable_gqa and key.shape[1] != query.shape[1]:
        return _plain(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is not None:
        attn_mask = _bias(attn_mask, query, key)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The mask as the memory-efficient kernel takes it: numbers to add, in aligned rows, for every head."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), -math.inf)
    keys = key.shape[-2]
    if mask.shape[-1] % _ALIGNED and mask.shape[-1] == keys:
        mask = functional.pad(mask, (0, -keys % _ALIGNED))[..., :keys]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], keys)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
    grouped: bool,
) -> Tensor:
    """Attention written out: what remains when no fused kernel applies."""
    if grouped:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = (query * (scale if scale is not None else query.shape[-1] ** -0.5)) @ key.transpose(-2, -1)
    if causal:
        allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(allowed.logical_not(), -math.inf)
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), -math.inf) if mask.dtype == torch.bool else scores + mask
    return _dropout(scores.softmax(-1), dropout) @ value


def workspace(name: str, args: tuple[Any, ...]) -> int:
    """Bytes that a kernel allocates for itself while it runs, beyond what PyTorch can see from outside.

    Both attention kernels sum the query's gradient in fp32; the flash kernel also makes the gradients of shared keys and
    values once per query head. Read from the kernels' launch code (PyTorch 2.x). A complex transform over several
    dimensions works in an area as large as its data, the least that cuFFT's documentation names for a plan's work area.
    Other kernels count as needing none.
    """
    if name == "_fft_c2c" and len(args[1]) > 1:
        return int(args[0].numel() * args[0].element_size())
    if name not in ("_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_efficient_attention_backward"):
        return 0
    query, key = args[1], args[2]
    batch, heads, rows, width = query.shape
    rows_padded, width_padded = -(-rows // 128) * 128, -(-width // 32) * 32
    lent = 4 * batch * heads * rows_padded * width_padded
    if "flash" in name and key.shape[1] != heads:
        lent += 2 * 2 * batch * heads * key.shape[2] * width
    return int(lent)


# Libraries that decompose a matrix or solve equations take one column after the other; a singular value decomposition
# reduces the matrix from both sides, and then iterates about as long again (Golub and Van Loan, Matrix Computations, 8.6).
_SOLVERS = {
    "_linalg_solve_ex": 1,
    "linalg_lu_factor_ex": 1,
    "linalg_inv_ex": 1,
    "linalg_cholesky_ex": 1,
    "linalg_qr": 1,
    "linalg_pinv": 4,
    "_linalg_svd": 4,
    "_linalg_eigh": 4,
}


def solver_steps(name: str, args: tuple[Any, ...]) -> int:
    """Columns that an operation on (a batch of) matrices goes through, one waiting for the last; 0 for other operations."""
    return int(_SOLVERS[name] * min(args[0].shape[-2:])) if name in _SOLVERS else 0


def passes(name: str, args: tuple[Any, ...]) -> int:
    """How often an operation goes through its data: a Fourier transform once for each dimension."""
    return max(1, len(args[1])) if name.startswith("_fft_") else 1


def inside(name: str, args: tuple[Any, ...]) -> int:
    """Kernels that an operation launches beside its first."""
    if name == "block_diag":
        return len(args[0])  # every block is copied to its place
    return passes(name, args) - 1
