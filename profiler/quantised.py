"""Base weights in 4 or 8 bits: layers with the buffers and the temporaries of bitsandbytes, and no values.

PEFT tells its quantised layers by the classes of bitsandbytes. Inside ``pretended`` a module of that name with the classes
below stands where bitsandbytes would be imported, so that PEFT's own code for quantised bases runs; nothing of
bitsandbytes is needed, and nothing of it is left afterwards. What is imitated was read from bitsandbytes 0.50.2:

- 4 bits (``nn/modules.py``, ``functional.py`` ``quantize_4bit``): codes of half a byte, a scale in one byte for every 64
  numbers, a scale of scales in fp32 for every 256 of these, their mean, two tables of codes (16 and 256 numbers). The
  forward pass unpacks the scales, then the weight, in the type of its input, and drops them; so does the backward pass
  (``autograd/_functions.py``, the way that is taken from 1,537 rows on; fewer rows may use a kernel that unpacks nothing).
- 8 bits (``MatMul8bitLt``): codes of a byte, a scale in fp32 for every row. The input is made fp16 and then int8, looked
  through for numbers of 6.0 and above, multiplied into int32, and made fp16 and then its own type again. The layer keeps
  its input for the backward pass, though only the unpacked weight is used there. Which columns hold numbers of 6.0 and
  above depends on values: none is assumed.

As ``transformers`` chooses them, linear layers in the blocks are quantised; head, embeddings, norms and experts that are
stored as one tensor keep their type, and so do T5's ``wo`` and all of Falcon's, which are of a class of their own.
Nothing is made fp32 beforehand, as ``prepare_model_for_kbit_training`` would.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from types import ModuleType, SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula
from transformers.pytorch_utils import Conv1D

from reference_impls.parts import int8
from reference_impls.parts.int8 import THRESHOLD
from reference_impls.parts.nf4 import NF4Linear, Packed
from reference_impls.parts.storage import in_blocks

BLOCK = 64  # numbers that share a scale
SCALES = 256  # scales that share one of their own
Storage = Literal["int8", "nf4"]


@torch.library.custom_op("peft_atlas::unpack_4bit", mutates_args=())
def _unpack(codes: Tensor, scales: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """One kernel: codes (n / 2, 1) and scales (n / 64,) to the weight (rows, columns)."""
    raise NotImplementedError("there are no values here")


_unpack.register_fake(
    lambda codes, scales, rows, columns, dtype: codes.new_empty(rows, columns, dtype=dtype)  # type: ignore[misc]  # a lambda is untyped
)


class _Shared(SimpleNamespace):
    """A deep copy of it is itself, as of ``_named`` parameters."""

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


class State(_Shared):
    """What belongs to a quantised weight; the names are those of bitsandbytes' ``QuantState``."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, nested: bool = True) -> None:
        super().__init__()
        blocks = -(-rows * columns // BLOCK)
        self.shape, self.dtype, self.nested = torch.Size((rows, columns)), dtype, nested
        self.blocksize, self.quant_type = BLOCK, "nf4"
        self.absmax = torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32)
        self.code = torch.empty(16, dtype=torch.float32)
        if not nested:
            return
        self.offset = torch.empty((), dtype=torch.float32)
        self.state2 = SimpleNamespace(
            absmax=torch.empty(-(-blocks // SCALES), dtype=torch.float32),
            code=torch.empty(256, dtype=torch.float32),
            blocksize=SCALES,
        )

    def tensors(self) -> list[Tensor]:
        """All of them."""
        if not self.nested:
            return [self.absmax, self.code]
        return [self.absmax, self.code, self.offset, self.state2.absmax, self.state2.code]


def dequantise_4bit(codes: Tensor, state: State, dtype: torch.dtype | None = None) -> Tensor:
    """``functional.dequantize_4bit``: scales to fp32, their mean added, the weight unpacked."""
    scales = state.absmax
    if state.nested:
        scales = scales.to(torch.float32)
        scales += state.offset
    return _unpack(codes, scales, *state.shape, dtype or state.dtype)  # type: ignore[no-any-return]  # a custom operation is untyped


def _dequantise_8bit(codes: Tensor, scales: Tensor) -> Tensor:
    """``functional.int8_vectorwise_dequant``: fp32, row by row."""
    return codes * scales.view(-1, 1) * (1 / 127)


class _Product4(torch.autograd.Function):
    """``MatMul4Bit``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, bias: Tensor | None, state: State) -> Tensor:
        ctx.codes, ctx.state = codes, state
        scales = state.absmax.to(torch.float32)
        scales = scales + state.offset
        weight = _unpack(codes, scales, *state.shape, x.dtype)
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        to_bias = g.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        to_x = g @ dequantise_4bit(ctx.codes, ctx.state).to(g.dtype) if ctx.needs_input_grad[0] else None
        return to_x, None, to_bias, None


class _Product8(torch.autograd.Function):
    """``MatMul8bitLt`` for a frozen weight, of an input (…, d_in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        small, _stats = _rounded(rows.to(torch.float16))
        sums = int8.product(small, codes)
        out = sums.to(torch.float16)
        del sums
        if bias is not None:
            out.add_(bias)
        out = out.to(x.dtype)
        ctx.codes, ctx.scales, ctx.dtype, ctx.shape = codes, scales, x.dtype, x.shape
        ctx.kept = rows  # the original keeps it as an attribute, needed or not
        return out.reshape(*x.shape[:-1], codes.shape[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        rows = g.reshape(-1, g.shape[-1]).contiguous()
        to_bias = rows.sum(0) if ctx.needs_input_grad[3] else None
        to_x = None
        if ctx.needs_input_grad[0]:
            weight = int8.dequantise(ctx.codes, ctx.scales, ctx.dtype)
            to_x = (rows.to(ctx.dtype) @ weight).view(ctx.shape)
        return to_x, None, None, to_bias


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``int8_vectorwise_quant`` with a threshold: int8 rows and a scale for each."""
    stats = torch.empty(rows.shape[0])
    small = torch.empty(rows.shape, dtype=torch.int8)
    outliers = rows.abs() >= THRESHOLD
    outliers.any(dim=0)
    return small, stats


@register_flop_formula(torch.ops.peft_atlas.int8_product)
def _int8_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x_shape[0] * x_shape[1] * weight_shape[0]


def _named(tensor: Tensor, name: str, **attributes: object) -> nn.Parameter:
    """A frozen parameter of a class of that ``name``, by which PEFT tells quantised weights.

    A deep copy of it is itself: DoRA makes one while the model is built, only to read it.
    """
    parameter = nn.Parameter(tensor, requires_grad=False)
    parameter.__class__ = type(name, (type(parameter),), {"__deepcopy__": lambda self, memo: self})
    for key, value in attributes.items():
        setattr(parameter, key, value)
    return parameter


class Linear4bit(nn.Linear):
    """bitsandbytes' layer of that name, frozen, with double quantisation if ``nested``."""

    def __init__(
        self, rows: int, columns: int, bias: nn.Parameter | None, dtype: torch.dtype, nested: bool = True
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = columns, rows, bias
        self.compute_dtype: torch.dtype | None = dtype
        self.quant_state = State(rows, columns, dtype, nested)
        self.weight = _named(
            torch.empty((rows * columns + 1) // 2, 1, dtype=torch.uint8),
            "Params4bit",
            quant_state=self.quant_state,
            compress_statistics=nested,
            quant_type="nf4",
            blocksize=BLOCK,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        asked = x.dtype
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        out: Tensor = _Product4.apply(x.to(self.compute_dtype), self.weight, bias, self.quant_state)
        return out.to(asked)


class Linear8bitLt(nn.Linear):
    """bitsandbytes' layer of that name, frozen."""

    def __init__(self, rows: int, columns: int, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias, self.index = columns, rows, bias, None
        scales = torch.empty(rows)
        self.weight = _named(
            torch.empty(rows, columns, dtype=torch.int8), "Int8Params", SCB=scales, CB=None, has_fp16_weights=False
        )
        self.state = _Shared(CB=self.weight, SCB=scales, has_fp16_weights=False, threshold=THRESHOLD, is_training=True)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        return _Product8.apply(x, self.weight, self.state.SCB, self.bias)  # type: ignore[no-any-return]  # apply is untyped


class Int8Linear(int8.Int8Linear):
    """Our own layer in 8 bits, in which no column is taken to hold outliers."""

    def __init__(self, rows: int, columns: int, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        packed = torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows)
        super().__init__(_bare(rows, columns, bias, dtype), packed)

    def outliers(self, found: Tensor) -> Tensor:
        """None of them."""
        return torch.empty(0, dtype=torch.long)


def _bare(rows: int, columns: int, bias: nn.Parameter | None, dtype: torch.dtype) -> Any:
    """What our layers read of the layer that they replace: sizes, bias and type."""
    return SimpleNamespace(in_features=columns, out_features=rows, bias=bias, weight=torch.empty(0, dtype=dtype))


def _nf4(rows: int, columns: int, bias: nn.Parameter | None, dtype: torch.dtype) -> NF4Linear:
    """Our own layer in 4 bits, with buffers of the right size."""
    blocks = -(-rows * columns // BLOCK)
    packed = Packed(
        torch.empty((rows * columns + 1) // 2, dtype=torch.uint8),
        torch.empty(blocks, dtype=torch.uint8),
        torch.empty(-(-blocks // SCALES)),
        torch.empty(()),
    )
    return NF4Linear(_bare(rows, columns, bias, dtype), packed, BLOCK)


_KINDS: dict[tuple[str, str], Any] = {
    ("int8", "ours"): Int8Linear,
    ("nf4", "ours"): _nf4,
    ("int8", "peft"): Linear8bitLt,
    ("nf4", "peft"): Linear4bit,
}


def quantise(model: nn.Module, storage: Storage, implementation: str) -> None:
    """Replaces every linear layer in the blocks of ``model``.

    Raises ``ValueError`` when there is none, as in a mixture whose experts are stored as one tensor only.
    """
    kind = _KINDS[storage, implementation]
    for name, module in in_blocks(model, storage):
        columns, rows = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, kind(rows, columns, module.bias, module.weight.dtype))
    if implementation == "peft":
        setattr(model, {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}[storage], True)


def beside(model: nn.Module, deep: bool = True) -> list[Tensor]:
    """Tensors of quantised layers that no module has registered; of ``model`` itself only, unless ``deep``."""
    found: list[Tensor] = []
    for module in model.modules() if deep else (model,):
        if isinstance(module, Linear4bit):
            found += module.quant_state.tensors()
        elif isinstance(module, Linear8bitLt):
            found.append(module.state.SCB)
    return found


def _bitsandbytes() -> dict[str, ModuleType]:
    """The names of bitsandbytes that PEFT looks up."""
    whole, layers, functions = (ModuleType(f"bitsandbytes{part}") for part in ("", ".nn", ".functional"))
    layers.__dict__.update(
        Linear4bit=Linear4bit, Linear8bitLt=Linear8bitLt, Params4bit=nn.Parameter, Int8Params=nn.Parameter
    )
    functions.__dict__.update(dequantize_4bit=dequantise_4bit, int8_vectorwise_dequant=_dequantise_8bit)
    whole.__dict__.update(nn=layers, functional=functions, __version__="0.50.2")
    for module in (whole, layers, functions):
        module.__spec__ = util.spec_from_loader(module.__name__, loader=None)
    return {module.__name__: module for module in (whole, layers, functions)}


@contextmanager
def pretended() -> Iterator[None]:
    """Inside, PEFT finds a bitsandbytes, and loads its code for quantised layers afresh."""
    from peft import import_utils

    yes = (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available)
    with patch.dict(sys.modules, _bitsandbytes()):
        for name in [name for name in sys.modules if name.startswith("peft.tuners.") and name.endswith(".bnb")]:
            del sys.modules[name]  # patch.dict brings it back
        for module in [module for name, module in [*sys.modules.items()] if name.startswith("peft.")]:
            for word in ("is_bnb_available", "is_bnb_4bit_available"):
                if getattr(module, word, None) in yes:
                    patcher = patch.object(module, word, lambda: True)
                    patcher.start()
                    _UNDO.append(patcher)
        try:
            yield
        finally:
            while _UNDO:
                _UNDO.pop().stop()


_UNDO: list[Any] = []
