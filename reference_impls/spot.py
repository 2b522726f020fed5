"""SPoT: prompt tuning that starts from a prompt trained on other tasks, chosen by how alike the prompts are.

    H₀ = [P_t ; E(x)],   P_t⁽⁰⁾ = P_s  or  Σ_s w_s P_s,   w_s = sim(P_s, P̃_t) / Σ sim        P (p, d)   E(x) (n, d)
    sim(P, Q) = cos(mean_i P_i, mean_j Q_j)  or  mean_ij cos(P_i, Q_j)

Source prompts P_s are trained on the source tasks, and a short run on the target gives its task vector P̃_t. ``prepare``
does both and starts P_t from the most similar source, from the average of the most similar, weighted by similarity, or,
with nothing to choose, from one prompt trained on the mixture of all sources. P_t then trains as in prompt tuning: p d
numbers, and the model itself is not touched. It does not start where it was, and there is nothing to merge.

Batches with ``task_ids`` (b,) hold rows of source tasks, by number; those without belong to the target. When there are
no source rows each target batch stands in for a source task of its own.

Paper:     Vu et al. 2021, arXiv:2110.07904, sections 2.1 and 3
Official:  github.com/google-research/prompt-tuning at 72285ee, prompt_tuning/spot (Apache-2.0)
Differs:   sources are trained with AdamW and clipped gradients, in the paper with Adafactor. Of its best of the k nearest
           sources, judged by k target runs, only the nearest is taken (k = 1); its mixture is of the k nearest, here of
           all. A negative similarity gets no weight. The official code holds the transfer alone, not the choice
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from reference_impls import prompt_tuning
from reference_impls.prompt_tuning import PromptModel

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Config:
    """The prompt, how its sources are trained and how one is chosen."""

    prompt_length: int = 100  # section 2.1.4
    vocabulary: int = 5000  # section 2.1.4, as in prompt tuning: the words that prompts of the sources start from
    source_steps: int = 262_144  # section 2.1.4
    probe_steps: int = 10_000  # section 3: steps after which a prompt is its task's vector
    source_lr: float = 0.3  # section 2.1.4
    choice: Literal["nearest", "average", "mixture"] = "nearest"  # section 3; mixture as in section 2
    top: int = 3  # sources that the average takes; the paper tries several
    similarity: Literal["averaged", "pairwise"] = "pairwise"  # section 3 has both; the choice is ours


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and returns it with a prompt around it, as prompt tuning does; ``prepare`` gives its start.

    Raises ``ValueError`` when the model embeds no tokens, the prompt is empty or a choice is unknown.
    """
    if min(config.source_steps, config.probe_steps, config.top) < 1:
        raise ValueError(f"{config.source_steps} and {config.probe_steps} steps, best {config.top}: at least 1 of each")
    for wanted, known in ((config.choice, ("nearest", "average", "mixture")), (config.similarity, tuple(_LIKE))):
        if wanted not in known:
            raise ValueError(f"there is no {wanted!r}; take {' or '.join(known)}")
    return prompt_tuning.attach(model, prompt_tuning.Config(config.prompt_length, config.vocabulary))


def prepare(model: PromptModel, batches: Iterable[Batch], config: Config = Config()) -> None:
    """Trains the source prompts and the target's task vector, and starts the prompt from what is chosen."""
    sources, target = split(batches)
    words, lr, early = config.vocabulary, config.source_lr, config.probe_steps
    if config.choice == "mixture":
        rows = [batch for task in sources for batch in task]
        start, _ = learned(model, rows, words, lr, config.source_steps, early)
    elif not target:
        raise ValueError(f"choice {config.choice!r} needs batches of the target, which have no task_ids")
    else:
        runs = [learned(model, task, words, lr, config.source_steps, early) for task in sources]
        _, goal = learned(model, target, words, lr, early, early)
        likeness = torch.stack([_LIKE[config.similarity](vector, goal) for _, vector in runs])
        start = blend([prompt for prompt, _ in runs], likeness, 1 if config.choice == "nearest" else config.top)
    with torch.no_grad():
        model.P.copy_(start)


def split(batches: Iterable[Batch]) -> tuple[list[list[Batch]], list[Batch]]:
    """The batches of each source task, and those of the target; without sources each target batch is one."""
    tasks: dict[int, list[Batch]] = {}
    target: list[Batch] = []
    for batch in batches:
        if "task_ids" not in batch:
            target.append(batch)
            continue
        ids = batch["task_ids"]
        for task in ids.unique().tolist():
            rows = {name: value[ids == task] for name, value in batch.items() if name != "task_ids"}
            tasks.setdefault(task, []).append(rows)
    if not tasks and not target:
        raise ValueError("there is no batch to train a source prompt on")
    return [tasks[task] for task in sorted(tasks)] or [[batch] for batch in target], target


def learned(
    model: PromptModel, batches: Sequence[Batch], vocabulary: int, lr: float, steps: int, early: int
) -> tuple[Tensor, Tensor]:
    """A new prompt (p, d) trained on ``batches`` for ``steps``, and its task vector: what it was after ``early``."""
    prompted = PromptModel(model.base, model.p, vocabulary).train(model.training)
    optimizer = torch.optim.AdamW([prompted.P], lr=lr, weight_decay=0.0)
    vector = prompted.P
    for t, batch in enumerate(islice(cycle(batches), steps), start=1):
        optimizer.zero_grad()
        prompted(**batch).loss.backward()
        nn.utils.clip_grad_norm_([prompted.P], 1.0)
        optimizer.step()
        if t == min(early, steps):
            vector = prompted.P.detach().clone()
    return prompted.P.detach(), vector


def averaged(P: Tensor, Q: Tensor) -> Tensor:
    """Cosine between the mean vectors of two prompts (p, d)."""
    return normalize(P.mean(0), dim=0) @ normalize(Q.mean(0), dim=0)


def pairwise(P: Tensor, Q: Tensor) -> Tensor:
    """Mean cosine over all pairs of a vector of P and one of Q."""
    return (normalize(P, dim=1) @ normalize(Q, dim=1).T).mean()


_LIKE = {"averaged": averaged, "pairwise": pairwise}


def blend(prompts: Sequence[Tensor], likeness: Tensor, top: int) -> Tensor:
    """The average of the ``top`` most similar prompts, weighted by their similarity."""
    best = likeness.topk(min(top, len(prompts)))
    weights = best.values.clamp(min=0)
    weights = weights / weights.sum() if bool(weights.any()) else torch.full_like(weights, 1 / len(weights))
    return torch.einsum("s,spd->pd", weights, torch.stack([prompts[i] for i in best.indices.tolist()]))
