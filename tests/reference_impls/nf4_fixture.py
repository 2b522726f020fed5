"""Writes ``nf4_fixture.safetensors`` beside this file: small weights as bitsandbytes packs them, LoftQ as PEFT starts it.

``python tests/reference_impls/nf4_fixture.py`` in an environment that has bitsandbytes 0.50.2 (its kernels for the CPU
are used) and peft 0.21.2 besides this project's own needs. The tests read the file and need neither.
"""

from pathlib import Path
from unittest.mock import patch

import bitsandbytes
import peft
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft.utils import loftq_utils
from safetensors.torch import save_file
from torch import Tensor

FILE = Path(__file__).with_name("nf4_fixture.safetensors")
CASES = {  # name: shape, type, block, double quantisation
    "many_blocks": ((72, 128), torch.float32, 32, True),  # 288: more than share one scale
    "half": ((32, 64), torch.float16, 64, True),
    "brain": ((48, 64), torch.bfloat16, 64, True),
    "single": ((32, 64), torch.float32, 64, False),
    "short_last_block": ((37, 30), torch.float32, 64, True),
    "odd": ((9, 7), torch.float32, 64, False),
    "wide_blocks": ((8, 256), torch.float32, 256, True),  # rows no shorter: its reading for the CPU mixes blocks else
}
ROUNDS = (1, 5)
RANK = 8


def weight(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal numbers with a few far out, as in a trained matrix."""
    plain = 0.05 * torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.002, 8 * plain, plain).to(dtype)


def packed(name: str, generator: torch.Generator) -> dict[str, Tensor]:
    """A weight, what bitsandbytes makes of it, and what it reads back."""
    shape, dtype, block, double = CASES[name]
    w = weight(shape, dtype, generator)
    codes, state = quantize_4bit(w, blocksize=block, compress_statistics=double, quant_type="nf4")
    parts = {"weight": w, "codes": codes.flatten(), "absmax": state.absmax, "read": dequantize_4bit(codes, state)}
    if double:
        parts |= {"scales": state.state2.absmax, "offset": state.offset}
    return {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}


def on_cpu(method):  # type: ignore[no-untyped-def]  # wraps Tensor.to, whose signature has many forms
    """``Tensor.to`` with a GPU that is not there read as the CPU: PEFT's function asks for one by name."""

    def to(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        args = tuple("cpu" if one == "cuda" else one for one in args)
        return method(self, *args, **{key: "cpu" if value == "cuda" else value for key, value in kwargs.items()})

    return to


def loftq(generator: torch.Generator) -> dict[str, Tensor]:
    """The start of LoftQ by PEFT: quantised weight, A and B, for one round and for five."""
    w = weight((32, 64), torch.float32, generator)  # a row for each block: see above
    found = {"loftq.weight": w}
    kinds = (torch.Tensor, bitsandbytes.nn.Params4bit)
    with patch.object(kinds[0], "to", on_cpu(kinds[0].to)), patch.object(kinds[1], "to", on_cpu(kinds[1].to)):
        for rounds in ROUNDS:
            q, a, b = loftq_utils.loftq_init(w, num_bits=4, reduced_rank=RANK, num_iter=rounds)
            found |= {f"loftq.{rounds}.{name}": t.contiguous() for name, t in (("Q", q), ("A", a), ("B", b))}
    return found


def main() -> None:
    """Writes the file."""
    generator = torch.Generator().manual_seed(0)
    tensors = {key: tensor for name in CASES for key, tensor in packed(name, generator).items()}
    tensors |= loftq(generator)
    save_file(tensors, FILE, {"bitsandbytes": bitsandbytes.__version__, "peft": peft.__version__})


if __name__ == "__main__":
    main()
