"""The default tasks: rewriting six letters by a named rule, and a ladder of three rungs above what the base knows.

A row is ``<name> x x x x x x = y y y y y y <eos>``. The base (``reference_impls/ladder/base``) was trained on the eight rules
in ``SKILLS``; in its training, words without meaning stood around the name, so that it looks for the name anywhere
before the letters, as a language model looks for an instruction. The rungs use names that it never saw:

- ``rename``: a rule it knows, under a new name. Steering the base is enough, as a soft prompt does.
- ``composition``: two rules it knows, one after the other, which it never had to do in one pass.
- ``new_skill``: a rule whose steps depend on what the letters are, and one of whose two branches it does not know.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls.training.loop import Batch

LETTERS = 12  # letters in the alphabet: 12^6 rows, too many to learn by heart
LENGTH = 6  # letters in a row
ANSWER = LENGTH + 1  # the answer's letters and the end mark

Rule = Callable[[Tensor], Tensor]  # letters (n, LENGTH) in 0 … LETTERS - 1 -> letters of the same shape


def _mirror(x: Tensor) -> Tensor:
    half = x[:, : LENGTH // 2]
    return torch.cat([half, half.flip(1)], dim=1)


def _swap_pairs(x: Tensor) -> Tensor:
    return x.reshape(-1, LENGTH // 2, 2).flip(2).reshape(-1, LENGTH)


SKILLS: dict[str, Rule] = {
    "copy": lambda x: x,
    "reverse": lambda x: x.flip(1),
    "shift_up": lambda x: (x + 1) % LETTERS,
    "shift_down": lambda x: (x - 1) % LETTERS,
    "sort": lambda x: x.sort(dim=1).values,
    "rotate": lambda x: x.roll(-1, dims=1),
    "swap_pairs": _swap_pairs,
    "mirror": _mirror,
}


@dataclass(frozen=True)
class Rung:
    """A task that the base cannot do: the new name it goes by, and its rule."""

    name: str
    says: str  # what a reader is told
    rule: Rule


RUNGS: dict[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung("rename", "a new name for a known skill (reverse)", SKILLS["reverse"]),
        Rung(
            "composition",
            "two known skills in one pass (reverse, then shift up)",
            lambda x: SKILLS["shift_up"](SKILLS["reverse"](x)),
        ),
        Rung(
            "new_skill",
            "a new skill (reverse if the first letter is one of a to f, else rotate to the right)",
            lambda x: torch.where(x[:, :1] < LETTERS // 2, x.flip(1), x.roll(1, dims=1)),
        ),
    )
}

FILLERS = 24
VOCABULARY: tuple[str, ...] = (
    "<pad>",
    "<eos>",
    "=",
    *(chr(ord("a") + i) for i in range(LETTERS)),
    *SKILLS,
    *(f"<word{i}>" for i in range(FILLERS)),
    *RUNGS,
)
PAD, EOS, EQUALS, FIRST_LETTER = (VOCABULARY.index(token) for token in ("<pad>", "<eos>", "=", "a"))
FIRST_FILLER = VOCABULARY.index("<word0>")


def text(ids: Tensor) -> str:
    """The tokens of one row, written with spaces."""
    return " ".join(VOCABULARY[i] for i in ids.tolist())


def rows(prefix: Tensor, x: Tensor, y: Tensor) -> Batch:
    """A batch for a causal language model: prefix (n, p), letters x and y (n, LENGTH).

    The labels are the answer and the end mark; everything before is ``-100``, which the loss leaves out.
    """
    mark = torch.full((len(x), 1), EQUALS)
    ids = torch.cat([prefix, x + FIRST_LETTER, mark, y + FIRST_LETTER, torch.full_like(mark, EOS)], dim=1)
    labels = ids.clone()
    labels[:, :-ANSWER] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def named_batch(name: str, rule: Rule, size: int, generator: torch.Generator) -> Batch:
    """``size`` random rows of one task."""
    x = torch.randint(LETTERS, (size, LENGTH), generator=generator)
    return rows(torch.full((size, 1), VOCABULARY.index(name)), x, rule(x))


def skill_batch(size: int, generator: torch.Generator, words: int = 0) -> Batch:
    """``size`` random rows over all base skills; ``words`` tokens without meaning stand around the name."""
    x = torch.randint(LETTERS, (size, LENGTH), generator=generator)
    which = torch.randint(len(SKILLS), (size,), generator=generator)
    y = torch.stack([rule(x) for rule in SKILLS.values()])[which, torch.arange(size)]  # (skills, n, L) -> (n, L)
    prefix = torch.randint(FILLERS, (size, words + 1), generator=generator) + FIRST_FILLER
    names = torch.tensor([VOCABULARY.index(name) for name in SKILLS])[which]
    place = torch.randint(words + 1, (size,), generator=generator)
    prefix[torch.arange(size), place] = names
    return rows(prefix, x, y)


def stream(rung: Rung, size: int, seed: int) -> Iterator[Batch]:
    """Endless training batches of a rung: the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield named_batch(rung.name, rung.rule, size, generator)


def exam(rung: Rung, size: int = 512) -> Batch:
    """The rows on which a rung is examined: always the same, from a seed that no training uses."""
    return named_batch(rung.name, rung.rule, size, torch.Generator().manual_seed(2**40 + 1))


@dataclass(frozen=True)
class Accuracy:
    """Shares between 0 and 1: whole answers right, and single tokens right."""

    exact: float
    token: float


@torch.no_grad()
def accuracy(model: nn.Module, batch: Mapping[str, Tensor]) -> Accuracy:
    """How well ``model`` predicts each labelled token from the true tokens before it.

    ``exact`` is what greedy decoding would score: if every prediction is right, greedy decoding has the true tokens
    before each step too; if one is wrong, its first wrong one is greedy decoding's error as well. ``token`` is given
    the true tokens before, so it may be above the share of right tokens in a decoded answer.
    """
    was_training = model.training
    model.eval()
    guess = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].argmax(-1)
    model.train(was_training)
    labels = batch["labels"][:, 1:]
    counted = labels != -100
    right = (guess == labels) | ~counted
    return Accuracy(
        exact=right.all(dim=1).double().mean().item(),
        token=(right & counted).sum().item() / int(counted.sum()),
    )


@torch.no_grad()
def decode(model: nn.Module, question: Tensor, tokens: int = ANSWER) -> Tensor:
    """Greedy answers (n, tokens) to questions (n, q) of equal length, each token from a call on the whole row.

    No cache: a soft prompt or a side network changes what a cached key would hold.
    """
    was_training = model.training
    model.eval()
    ids = question
    for _ in range(tokens):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    model.train(was_training)
    return ids[:, question.shape[1] :]
