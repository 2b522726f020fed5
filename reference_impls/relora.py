"""ReLoRA: trains LoRA in rounds; after each, the change goes into the weight and a new one starts.

    y = x Wᵀ + b + (α / r) (x Aᵀ) Bᵀ          x (…, d_in)   W (d_out, d_in)   A (r, d_in)   B (d_out, r)
    W ← W + (α / r) B A,   A ← new, random,   B ← 0          after every T steps

N rounds of rank r sum up to a change of rank up to N r. A starts random and B at zero in each round, so a restart does
not change the model. So that the new pair does not run on in the old one's directions, a restart also erases most of
Adam's two moments, the smallest entries first, and the learning rate falls to zero and warms up again to a cosine that
spans the whole run. At the end the last round merges like the others.

Paper:     Lialin, Muckatira, Shivagunde, Rumshisky 2023, arXiv:2307.05695, section 3 and algorithm 1
Official:  github.com/Guitaricet/relora at 176f376, peft_pretraining/relora.py and training_utils.py (Apache-2.0)
Differs:   A is random in the first round too; the official code zeroes it, so that nothing trains before the first
           restart. It prunes each moment by itself, which leaves first moments without a second: see ``prune``.
           Restart and zero rate fall on the same step, there the rate is zero one step before. Only the changes train:
           embeddings, norms and head, which pre-training trains along, stay frozen, and the warm start is the
           pre-trained model. No weight decay. The weights of before are kept on the CPU for detaching. A base in 4 or 8
           bits takes a change in as there: unpacked, added, packed again. What is smaller than half the distance of two
           levels is rounded away then
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._journal import tensors
from reference_impls._site import LINEAR, instances
from reference_impls._surgery import add, freeze, refuse, replace, settle, train_in_place
from reference_impls.lora import LoRALinear


@dataclass(frozen=True)
class Config:
    """The official script's defaults and, for the rounds, its 1B configuration."""

    rank: int = 128
    alpha: float = 32.0
    restart_every: int = 1000  # T, in steps; 5,000 in the README
    warmup: int = 500  # steps to the full rate in the first round
    restart_warmup: int = 100  # steps back to the cosine after a restart
    min_lr_share: float = 0.1  # where the cosine ends
    prune_state: float = 0.9  # share of each of Adam's moments that a restart erases: README; 0.8 in the configuration
    target: str = LINEAR  # every matrix of attention and feed-forward


class ReLoRALinear(LoRALinear):
    """A linear layer with a low-rank change that it takes in from time to time."""

    @torch.no_grad()
    def restart(self) -> None:
        """Moves the change into the weight and starts a new one: the layer's output stays."""
        self.merged()
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as LoRA starts
        self.B.zero_()


class Rounds(nn.Module):
    """What ``step`` has to know: the configuration and the optimizer whose state and rate it changes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.optimizer: torch.optim.Optimizer | None = None


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the rank exceeds a matrix or a warm-up does not fit into a round.
    """
    freeze(model)
    longest = max(config.warmup, config.restart_warmup)
    if not 0 <= longest < config.restart_every:
        refuse(model, f"a warm-up of {longest} steps does not fit into a round of {config.restart_every}")
    if not 0 <= config.prune_state <= 1:
        refuse(model, f"prune_state {config.prune_state} is no share; give a number from 0 to 1")
    replace(model, config.target, lambda layer: ReLoRALinear(layer, config.rank, config.alpha))
    for name, layer in instances(model, ReLoRALinear):
        held = [leaf for leaf, _ in tensors(layer.base) if leaf != "bias"]  # the weight, or the codes that stand for it
        train_in_place(model, [f"{name}.base.{leaf}" for leaf in held], by_gradient=False)
    add(model, "relora", Rounds(config))
    return model


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW for the changes; ``step`` prunes its state and sets its rate."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW([{"params": trainable, "lr": lr, "initial_lr": lr}], weight_decay=0.0)
    ((_, rounds),) = instances(model, Rounds)
    rounds.optimizer = adamw
    return adamw


def step(model: nn.Module, t: int, total: int) -> None:
    """Sets the learning rate of the next step; after every T steps but the last it restarts.

    Raises ``ValueError`` when ``optimizer`` was not used.
    """
    ((_, rounds),) = instances(model, Rounds)
    if rounds.optimizer is None:
        raise ValueError("ReLoRA resets the state of its optimizer; make it with relora.optimizer")
    if t % rounds.config.restart_every == 0 and t < total:
        for _, layer in instances(model, ReLoRALinear):
            layer.restart()
            for parameter in (layer.A, layer.B):
                prune(rounds.optimizer.state[parameter], rounds.config.prune_state)
    for group in rounds.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_share(t, total, rounds.config)
    if t == total:
        rounds.optimizer = None  # its state need not outlive the training


@torch.no_grad()
def prune(state: dict[str, Tensor], share: float) -> None:
    """Sets the ``share`` of smallest entries of Adam's two moments to zero, in place.

    The first moment goes where the second has gone, too: Adam would divide what is left there by nearly nothing, and
    A has no gradient yet that would fill the second moment again.
    """
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    erased = round(share * mean.numel())
    if erased:
        sizes = mean.abs()
        square[square <= square.flatten().kthvalue(erased).values] = 0
        mean[(sizes <= sizes.flatten().kthvalue(erased).values) | (square == 0)] = 0


def lr_share(done: int, total: int, config: Config) -> float:
    """The part of the learning rate that a step uses before which ``done`` were made: the jagged cosine."""

    def cosine(at: int) -> float:
        progress = (at - config.warmup) / max(1, total - config.warmup)
        return config.min_lr_share + (1 - config.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))

    if done < config.warmup:
        return done / config.warmup
    since = done % config.restart_every
    if done >= config.restart_every and since < config.restart_warmup:
        return since / config.restart_warmup * cosine(done - since + config.restart_warmup)
    return cosine(done)


def merge(model: nn.Module) -> nn.Module:
    """Adds the last round's changes to their weights and restores plain linear layers."""
    return settle(model)
