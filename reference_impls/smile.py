"""SMILE: fuses fine-tuned copies of a model; each becomes a low-rank expert, and every token is sent where it fits best.

    y = W_0 x + b_0 + Σ_{i in top} p_i (U_i S_i V_iᵀ x + c_i),   p = softmax_i ‖R_iᵀ x‖₂, over the K best made to sum to one

    x (d_in,) one token   W_i − W_0 = U_i S_i V_iᵀ + rest:  U_i (d_out, k)   S_i (k,)   V_i (d_in, k)
    R_i (d_in, g) the first g columns of V_i   c_i = b_i − b_0 (d_out,)          i = 1 … M

Nothing is trained and no data are needed: ``fuse`` takes the difference between each fine-tuned weight and the base's,
keeps its k largest singular values as an expert, and its g leading input directions as a router. The longer a token's
projection onto these, the better the expert fits. With one expert per token (K = 1) its weight is one. Embeddings and
norms stay the base's. ``attach`` leaves the experts empty, so the model is the base until ``fuse``; as the expert depends
on the token, nothing can be merged.

Paper:     Tang et al. 2024, arXiv:2408.10174, section 4
Official:  github.com/tanganke/fusion_bench at 01dd49f, method/smile_upscaling and models/smile_moe (MIT)
Differs:   the linear layers of the blocks are fused, in the code also those of a head. ``k`` and ``g`` are cut to what a
           matrix allows, as there. Every expert runs on every token and those not chosen get the share zero, there each
           runs on its own tokens: the same numbers. A layer that no copy has changed keeps experts of zeros
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from reference_impls._layer import Around
from reference_impls._site import LINEAR, instances
from reference_impls._surgery import detach, freeze, refuse, replace


@dataclass(frozen=True)
class Config:
    """How many experts there are, how large, and how a token finds its own."""

    experts: int = 8  # M, docs/algorithms/smile_upscaling.md: eight image tasks
    rank: int = 128  # k, the method's configuration in fusion_bench; 32 in its image example
    gate_rank: int = 1  # g, same place; 16 in its image example
    top: int = 1  # K, same place
    target: str = LINEAR  # every linear layer


class SmileLinear(Around):
    """A linear layer with a router and M low-rank experts beside it."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        super().__init__(base)
        d_out, d_in = base.out_features, base.in_features
        self.k = min(config.rank, d_in, d_out)
        self.g, self.top = min(config.gate_rank, d_in, d_out), config.top
        new, M = base.weight.new_zeros, config.experts
        self.register_buffer("SV", new(M, self.k, d_in))  # S_i V_iᵀ
        self.register_buffer("U", new(M, d_out, self.k))
        self.register_buffer("R", new(M, self.g, d_in))  # R_iᵀ
        self.register_buffer("c", None if base.bias is None else new(M, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """What the frozen layer gives, plus each token's experts."""
        y = self.base(x)
        lengths = torch.einsum("...d,mgd->...mg", x, self.R).norm(dim=-1)  # (…, M)
        best = torch.softmax(lengths, dim=-1).topk(self.top, dim=-1)
        shares = best.values / best.values.sum(-1, keepdim=True)
        p = torch.zeros_like(lengths).scatter(-1, best.indices, shares.to(lengths.dtype))  # zero for all but the best
        for i in range(len(self.U)):
            expert = linear(linear(x, self.SV[i]), self.U[i], None if self.c is None else self.c[i])
            y = y + p[..., i : i + 1].to(y.dtype) * expert
        return y

    @torch.no_grad()
    def learn(self, i: int, weight: Tensor, bias: Tensor | None) -> None:
        """Makes expert ``i`` of a fine-tuned layer's weight (d_out, d_in) and bias (d_out,)."""
        change = weight.to(self.weight.device, torch.float32) - self.weight.float()
        U, S, Vh = torch.linalg.svd(change, full_matrices=False)  # S descends
        self.U[i].copy_(U[:, : self.k])
        self.SV[i].copy_(S[: self.k, None] * Vh[: self.k])
        self.R[i].copy_(Vh[: self.g])
        if self.c is not None:
            self.c[i].copy_(bias.to(self.c.device, torch.float32) - self.bias.float())


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts empty experts beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or a size is impossible.
    """
    freeze(model)
    if min(config.experts, config.rank, config.gate_rank) < 1 or not 1 <= config.top <= config.experts:
        sizes = f"{config.experts} experts of rank {config.rank}, routers of rank {config.gate_rank}"
        refuse(model, f"{sizes}, {config.top} per token: all at least 1, and no more per token than there are")
    replace(model, config.target, lambda layer: SmileLinear(layer, config))
    return model


def fuse(model: nn.Module, tuned: Sequence[nn.Module], config: Config = Config()) -> nn.Module:
    """Fills the experts from fine-tuned copies of the same base, one copy each; the copies are left as they are.

    Raises ``ValueError`` when there are not as many copies as experts, or one is built otherwise than ``model``.
    """
    layers = list(instances(model, SmileLinear))
    small = Config(experts=1, rank=1, target=config.target)
    if len(tuned) != config.experts:
        raise ValueError(f"{len(tuned)} fine-tuned models for {config.experts} experts: give one for each")
    for i, copy in enumerate(tuned):
        try:
            attach(copy, small)  # names its layers as those of ``model``, and opens GPT-2's fused matrices
        except ValueError as error:
            raise ValueError(f"fine-tuned model {i}: {error}") from None
        try:
            theirs = {name: layer.base for name, layer in instances(copy, SmileLinear)}
            for name, layer in layers:
                if name not in theirs or _shape(theirs[name]) != _shape(layer):
                    raise ValueError(f"fine-tuned model {i} has no layer {name} of shape {tuple(layer.weight.shape)}")
                layer.learn(i, theirs[name].weight, theirs[name].bias)
        finally:
            detach(copy)
    return model


def _shape(layer: nn.Module) -> tuple[torch.Size, bool]:
    return layer.weight.shape, layer.bias is not None
