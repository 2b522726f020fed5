"""Intrinsic prompt tuning: learns a small space in which the prompts of many tasks lie, then trains a point of it.

    P̂ = W_3 tanh(W_2 z + b_2) + b_3        z (m,)   W_2 (c, m)   b_2 (c,)   W_3 (p d, c)   b_3 (p d,)   P̂ as (p, d)
    H₀ = [P̂ ; E(x)]
    first:  min Σ_s task(P̂_s) + α mean((P̂_s − P_s)²)   with   z_s = W_1 vec(P_s) + b_1        W_1 (m, p d)   b_1 (m,)

Three stages. A soft prompt P_s is trained on each source task. An autoencoder learns to rebuild them all, and what it
rebuilds must still solve the tasks in the frozen model. Then W_1 is dropped, W_2 and W_3 are frozen, and for the new task
only z trains: m numbers, from near zero. ``prepare`` takes the first two stages. ``recover`` decodes z once and goes on
with the prompt itself, as in prompt tuning. The prompt is part of the input: nothing starts where it was, or merges.

Source tasks come as SPoT's do: batches with ``task_ids``; without any, each batch stands in for a task of its own.

Paper:     Qin et al. 2021, arXiv:2110.07867, section 3
Official:  github.com/thunlp/Intrinsic-Prompt-Tuning at db07de8, bartPrompt.py and example_scripts (no licence given)
Differs:   of the code's autoencoders the one of its example scripts (``AE_type=1``); sources are met in turn, there drawn at
           random. AdamW without decay, gradients clipped at 1 (there 0.01 and 0.1)
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reference_impls._surgery import freeze, refuse
from reference_impls.prompt_tuning import PromptModel, check
from reference_impls.spot import Batch, learned, split


@dataclass(frozen=True)
class Config:
    """Sizes of prompt and space, and how the first two stages are trained."""

    intrinsic_dimension: int = 250  # m, example_scripts/MSF_prompt.sh
    prompt_length: int = 100  # p, the official code's prompt_num
    width: int = 768  # c, bartPrompt.py
    reconstruction: float = 200.0  # α, the official alpha_AE
    smoothing: float = 0.1  # of the labels in the two later stages, bartPrompt.py
    vocabulary: int = 5000  # words that source prompts start from, as in prompt tuning
    source_steps: int = 100_000  # example_scripts/promptTune.sh
    source_lr: float = 1e-4  # same place, the largest that it tries
    space_steps: int = 100_000  # example_scripts/MSF_prompt.sh
    space_lr: float = 3e-5  # cli_multitask_AE.py


class IntrinsicModel(PromptModel):
    """A model whose prompt is decoded from a few trained numbers."""

    def __init__(self, base: nn.Module, config: Config) -> None:
        super().__init__(base, config.prompt_length, vocabulary=0)
        like, m, c = self.P, config.intrinsic_dimension, config.width
        del self.P
        self.smoothing = config.smoothing
        place = {"device": like.device, "dtype": like.dtype}
        self.inner = nn.Linear(m, c, **place).requires_grad_(False)
        self.outer = nn.Linear(c, like.numel(), **place).requires_grad_(False)
        self.z = nn.Parameter(torch.empty(m, **place))
        nn.init.normal_(self.z, std=0.02)  # bartPrompt.py
        self.code: Tensor | None = None  # a source task's z_s, while the space is learned

    def prompt(self) -> Tensor:
        """P̂ (p, d), decoded from z."""
        z = self.z if self.code is None else self.code
        return self.outer(torch.tanh(self.inner(z))).view(self.p, -1)  # (m,) -> (c,) -> (p d,) -> (p, d)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and returns it with a decoded prompt around it; ``prepare`` gives the decoder its values.

    Raises ``ValueError`` when the model embeds no tokens or a size is not positive.
    """
    check(freeze(model), config.prompt_length, config.vocabulary)
    m, c = config.intrinsic_dimension, config.width
    if min(m, c, config.source_steps, config.space_steps) < 1:
        refuse(
            model,
            f"a space of {m} dimensions through {c}, {config.source_steps} and {config.space_steps} steps: at least 1",
        )
    return IntrinsicModel(model, config)


def prepare(model: IntrinsicModel, batches: Iterable[Batch], config: Config = Config()) -> None:
    """Trains a prompt for each source task, then the space in which they lie; z restarts near zero."""
    sources, _ = split(batches)
    steps, lr = config.source_steps, config.source_lr
    prompts = [learned(model, task, config.vocabulary, lr, steps, early=steps)[0] for task in sources]
    decoder = [*model.inner.parameters(), *model.outer.parameters()]
    encoder = nn.Linear(prompts[0].numel(), len(model.z), device=model.z.device, dtype=model.z.dtype)  # W_1, b_1
    for parameter in decoder:
        parameter.requires_grad_(True)
    trained = [*encoder.parameters(), *decoder]
    optimizer = torch.optim.AdamW(trained, lr=config.space_lr, weight_decay=0.0)
    for t in range(config.space_steps):
        turn, which = divmod(t, len(sources))
        task, P = sources[which], prompts[which]
        optimizer.zero_grad()
        model.code = encoder(P.flatten())  # (p d,) -> (m,)
        distance = (model.prompt() - P).square().mean()
        (loss(model, task[turn % len(task)]) + config.reconstruction * distance).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    model.code = None
    for parameter in decoder:
        parameter.requires_grad_(False)
        parameter.grad = None
    model.z.grad = None
    nn.init.normal_(model.z, std=0.02)


def loss(model: IntrinsicModel, batch: Batch) -> Tensor:
    """The task's loss with smoothed labels."""
    labels = batch["labels"]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if model.base.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = model.base.prepare_decoder_input_ids_from_labels(labels=labels)
    logits = model(**inputs).logits
    if logits.dim() == 3 and model.at == 0 and not model.base.config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]  # each token predicts the next
    return cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), label_smoothing=model.smoothing)


@torch.no_grad()
def recover(model: IntrinsicModel) -> PromptModel:
    """The last, optional stage: the decoded prompt itself, p d numbers free to train as in prompt tuning."""
    free = PromptModel(model.base, model.p, vocabulary=0).train(model.training)
    free.P.copy_(model.prompt())
    return free
