"""AdaMix: several copies of an adapter, of which chance picks one in every pass; after training they are averaged.

    y = h + GELU(h W_d⁽ⁱ⁾ᵀ + b_d⁽ⁱ⁾) W_u⁽ʲ⁾ᵀ + b_u⁽ʲ⁾        i, j ~ U{1 … M}, drawn by each module in each pass
    loss = CE(p) + λ/2 [KL(p̄' ‖ p) + KL(p̄ ‖ p')]              p, p' from two passes over the batch; p̄ takes no gradient

    h (…, d)   W_d⁽ⁱ⁾ (m, d)   b_d⁽ⁱ⁾ (m,)   W_u⁽ʲ⁾ (d, m)   b_u⁽ʲ⁾ (d,)

h is what the feed-forward network gives. The way down and the way up are drawn independently, one for the whole batch;
by default all share one way up. The divergence makes the copies agree, so that their mean serves for all: evaluation
uses the mean of the weights, and ``average`` keeps nothing but it, an adapter of 2 d m + m + d numbers per block. The
copies start equal, from an ordinary linear layer's start; the draws let them differ. GELU stands between the matrices:
the mean cannot be merged.

Paper:     Wang et al. 2022, arXiv:2205.12410, section 3
Official:  github.com/microsoft/AdaMix at d361e9d, src/transformers/models/expert_soup.py and NLG/src/model.py (Apache-2.0)
Differs:   adapters only; the paper does the same with LoRA's A and B. Where a model gives an answer at every token, the
           divergence is the mean over the labelled ones. A single number (regression) has no divergence, as there
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._site import FFN_OUT, instances
from reference_impls._surgery import freeze, refuse, replace
from reference_impls.houlsby_adapter import AfterSublayer, Bottleneck


@dataclass(frozen=True)
class Config:
    """How many copies there are, how large, and how strongly they are held together."""

    n_experts: int = 4  # M, README; 8 for generation
    bottleneck: int = 16  # m, README for RoBERTa-large; 48 for BERT-base
    share_up: bool = True  # README, sharing_up 1
    share_down: bool = False  # README, sharing_down 0
    consistency: float = 1.0  # λ; 100 in the official code for generation


class Copies(nn.Module):
    """M copies of a linear layer."""

    def __init__(self, like: Tensor, d_in: int, d_out: int, copies: int) -> None:
        super().__init__()
        one = nn.Linear(d_in, d_out, device=like.device, dtype=like.dtype)
        self.W = nn.Parameter(one.weight.detach().repeat(copies, 1, 1))  # (M, d_out, d_in)
        self.b = nn.Parameter(one.bias.detach().repeat(copies, 1))  # (M, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out), by one copy in training, by the mean of all otherwise."""
        if not self.training:
            return nn.functional.linear(x, *self.mean())
        drawn = torch.randint(len(self.W), (1,), device=self.W.device)  # stays a tensor: reading it would cost a wait
        return nn.functional.linear(x, self.W[drawn].squeeze(0), self.b[drawn].squeeze(0))

    def mean(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the averaged layer."""
        return self.W.mean(dim=0), self.b.mean(dim=0)


class Mixture(nn.Module):
    """A bottleneck with several ways down and up; the skip connection is around it."""

    def __init__(self, layer: nn.Linear, config: Config) -> None:
        super().__init__()
        d, m = layer.out_features, config.bottleneck
        self.down = Copies(layer.weight, d, m, 1 if config.share_down else config.n_experts)
        self.up = Copies(layer.weight, m, d, 1 if config.share_up else config.n_experts)
        self.consistency = config.consistency

    def forward(self, h: Tensor) -> Tensor:
        """(…, d) -> (…, m) -> (…, d)."""
        return self.up(nn.functional.gelu(self.down(h)))


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a mixture of adapters behind every feed-forward network.

    Raises ``ValueError`` when the model has none under the usual names, or there is no copy or an empty bottleneck.
    """
    freeze(model)
    if config.n_experts < 1 or config.bottleneck < 1:
        refuse(model, f"{config.n_experts} copies of a bottleneck of {config.bottleneck}: both must be at least 1")
    replace(model, FFN_OUT, lambda layer: AfterSublayer(layer, Mixture(layer, config)))
    return model


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The first pass's loss, and the divergence between two passes."""
    first, second = model(**batch), model(**batch)
    weight = next(mixture.consistency for _, mixture in instances(model, Mixture))
    return first.loss + weight * divergence(first.logits, second.logits, counted(model, first.logits, batch["labels"]))


def divergence(p: Tensor, q: Tensor, where: Tensor) -> Tensor:
    """½ [KL(q ‖ p) + KL(p ‖ q)] of two rows of logits (…, classes), each target detached; the mean over ``where``."""
    log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
    kl = nn.functional.kl_div
    both = kl(log_p, log_q.detach(), reduction="none", log_target=True)
    both = both + kl(log_q, log_p.detach(), reduction="none", log_target=True)  # (…, classes)
    return 0.5 * (both.sum(-1) * where).sum() / where.sum().clamp(min=1)


def counted(model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """Which predictions have a label: True everywhere where there is one per example; a causal model's lie one ahead."""
    if logits.dim() == 2:
        return torch.ones_like(logits[:, 0], dtype=torch.bool)
    where = labels != -100
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if not causal or model.config.is_encoder_decoder:
        return where
    return torch.cat((where[:, 1:], torch.zeros_like(where[:, :1])), dim=1)


@torch.no_grad()
def average(model: nn.Module) -> nn.Module:
    """After training: puts the averaged adapter in the place of each mixture, which is what a task has to store."""
    for _, layer in instances(model, AfterSublayer):
        mixture = layer.adapter
        one = Bottleneck(mixture.up.W, layer.out_features, mixture.down.W.shape[1], nn.functional.gelu)
        for part, copies in ((one.down, mixture.down), (one.up, mixture.up)):
            for into, mean in zip((part.weight, part.bias), copies.mean(), strict=True):
                into.copy_(mean)
        layer.adapter = one
    return model
