"""LLM.int8(): weights in 8 bits, and a frozen linear layer that multiplies in them.

A weight becomes, for each row, one scale (the largest size in it) and for each number an integer from -127 to 127; the rows
of an input are treated alike, and the product of integers is exact. An input's columns with numbers of 6 and above, which
would leave little of all others, are multiplied in 16 bits instead. As in bitsandbytes (arXiv:2208.07339, section 3).
"""

from importlib import import_module, util

import torch
from torch import Tensor, nn

from reference_impls.parts.packed import PackedLinear

THRESHOLD = 6.0  # numbers from here on are outliers (section 3.2)


def _kernels(x: Tensor) -> bool:
    """Whether bitsandbytes' kernels take over: on a card, where it is installed."""
    return x.is_cuda and util.find_spec("bitsandbytes") is not None and bool(import_module("bitsandbytes"))


@torch.no_grad()
def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W (d_out, d_in) of any floating type to codes, int8 (d_out, d_in), and scales, float32 (d_out,)."""
    return rounded(weight.to(torch.float16), torch.inf)


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that codes (d_out, d_in) and scales (d_out,) stand for."""
    return codes.to(dtype, copy=True).mul_(scales.unsqueeze(1).mul(1 / 127))


@torch.library.custom_op("peft_atlas::int8_rows", mutates_args=())
def rounded(rows: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Rows (n, d) in float16 as codes, int8 (n, d), and scales, float32 (n,), with 0 in place of outliers."""
    if _kernels(rows):
        codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(
            rows, 0.0 if threshold == torch.inf else threshold
        )
        return codes, scales
    usual = rows.masked_fill(rows.abs() >= threshold, 0)
    scales = usual.abs().amax(1).float()
    return (usual * (127 / scales[:, None])).nan_to_num().round().to(torch.int8), scales


@torch.library.custom_op("peft_atlas::int8_product", mutates_args=())
def product(rows: Tensor, codes: Tensor) -> Tensor:
    """(n, d_in) and (d_out, d_in), both int8, to (n, d_out) in int32."""
    if _kernels(rows):
        return torch.ops.bitsandbytes.int8_linear_matmul(rows, codes)
    return torch._int_mm(rows, codes.T)


@torch.library.custom_op("peft_atlas::int8_scaled", mutates_args=())
def scaled(sums: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums (n, d_out) in int32 and the scales of both factors, (n,) and (d_out,), to their product in float16."""
    if _kernels(sums):
        return torch.ops.bitsandbytes.int8_mm_dequant(sums, rows, columns)
    return (sums * (rows[:, None] * columns) / 127**2).to(torch.float16)


rounded.register_fake(
    lambda rows, threshold: (rows.new_empty(rows.shape, dtype=torch.int8), rows.new_empty(len(rows)).float())
)
product.register_fake(lambda rows, codes: rows.new_empty(len(rows), len(codes), dtype=torch.int32))
scaled.register_fake(lambda sums, rows, columns: sums.new_empty(sums.shape, dtype=torch.float16))


class Int8Linear(PackedLinear):
    """A frozen linear layer in 8 bits."""

    def __init__(self, layer: nn.Linear, packed: tuple[Tensor, Tensor]) -> None:
        super().__init__(layer, dict(zip(("codes", "scales"), packed, strict=True)))

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """W (d_out, d_in)."""
        return dequantise(self.codes, self.scales, dtype)

    def packed(self, matrix: Tensor) -> dict[str, Tensor]:
        """The codes of ``matrix`` and the scales of its rows."""
        return dict(zip(("codes", "scales"), quantise(matrix), strict=True))

    def product(self, x: Tensor) -> Tensor:
        """X (…, d_in) -> x Wᵀ + b (…, d_out), in the type of x."""
        rows = x.reshape(-1, self.in_features).to(torch.float16)
        columns = self.outliers((rows.abs() >= THRESHOLD).any(0))
        codes, scales = rounded(rows, THRESHOLD)
        if len(columns):
            codes[:, columns] = 0
        out = scaled(product(codes, self.codes), scales, self.scales)
        if len(columns):
            exact = dequantise(self.codes[:, columns], self.scales, rows.dtype)  # (d_out, columns)
            out += rows[:, columns] @ exact.T
        out = out if self.bias is None else out.add_(self.bias)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def outliers(self, found: Tensor) -> Tensor:
        """The numbers of the columns that are ``found`` to hold some, bool (d_in,)."""
        return found.nonzero().flatten()
