"""FourierFT: describes the change of a weight matrix by a few of its Fourier coefficients and trains these.

    y = x Wᵀ + b + x ΔWᵀ,   ΔW = α Re F⁻¹(C)       x (…, d_in)   W, ΔW, C (d_out, d_in)

    ΔW[p, q] = α / (d_out d_in) Σ_l c_l cos 2π (p u_l / d_out + q v_l / d_in)       l = 1 … n

The spectrum C is zero but for n numbers c at positions (u_l, v_l), which are drawn once from a seed and are the same in
all matrices of a shape. Only c trains: n numbers per matrix, whatever its size. They start as standard normal numbers,
as in the paper, so the model is changed a little before training begins. ΔW adds onto W after training.

The sum above is its own transpose: the gradient of c is the same transform of the gradient of W, read at the positions.
ΔW is formed again in the backward pass instead of kept, so it exists for one layer at a time.

Paper:     Gao et al. 2024, arXiv:2405.03003, equations 2 to 4
Official:  github.com/Chaos96/fourierft at 4986a28 (Apache-2.0)
Differs:   positions are uniform, the paper's option to prefer a band of frequencies is left out; they come from the seed
           of Hugging Face PEFT. Only linear layers, no classifier is trained beside them
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from reference_impls._layer import Around
from reference_impls._site import QKV, QUERY, VALUE
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """How many coefficients, where, and how strong."""

    coefficients: int = 1000  # n, appendix B, tables 9 to 11
    scale: float = 300.0  # α, appendix B, tables 10 to 12; 29 to 141 on GLUE
    seed: int = 777  # of the positions; PEFT's random_loc_seed
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # section 4


class FourierFTLinear(Around):
    """A frozen linear layer with a change given by its spectrum."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        super().__init__(base)
        entries = base.in_features * base.out_features
        if not 0 < config.coefficients <= entries:
            raise ValueError(
                f"{config.coefficients} coefficients do not fit a {base.out_features} x {base.in_features} matrix"
            )
        self.scale = config.scale
        self.c = nn.Parameter(nn.init.normal_(base.weight.new_empty(config.coefficients)))
        order = torch.randperm(entries, generator=torch.Generator().manual_seed(config.seed))
        drawn = order[: config.coefficients].clone()  # a slice would keep the whole order alive
        self.register_buffer("positions", drawn.to(base.weight.device), persistent=False)  # u d_in + v

    def change(self) -> Tensor:
        """ΔW (d_out, d_in)."""
        c = self.c if self.c.dtype == torch.float64 else self.c.float()  # no transform in half precision
        spectrum = c.new_zeros(self.weight.shape).flatten().index_copy(0, self.positions, c).view(self.weight.shape)
        return (self.scale * torch.fft.ifft2(spectrum).real).to(self.c.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the changed weight."""

        def run(x: Tensor) -> Tensor:
            return linear(x, self.weight + self.change(), self.bias)

        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.change()
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives every linear layer that ``config.target`` names a change with n coefficients.

    Raises ``ValueError`` when no layer matches or a matrix has fewer entries than n.
    """
    freeze(model)
    replace(model, config.target, lambda layer: FourierFTLinear(layer, config))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)
