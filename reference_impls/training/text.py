"""Texts as a model learns them: tokens, batches, and a held-out score."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reference_impls.training.loop import Batch
from reference_impls.training.row import Row

_HELD_OUT = 0.1  # share of the rows that training never sees, one row at least


@dataclass(frozen=True)
class Example:
    """One example in tokens: what the model reads, and what it is scored on."""

    inputs: list[int]
    labels: list[int]  # a token for each of the inputs, or the number of the one class


@dataclass(frozen=True)
class Score:
    """How well a model predicts the held-out completions, given the true tokens before each, or the held-out labels."""

    loss: float  # mean over tokens, in nats; a label counts as one token
    token: float  # share of tokens that are the likeliest one
    exact: float  # share of completions that are so throughout


def encode(rows: Sequence[Row], tokenizer: Any, longest: int, encoder_decoder: bool) -> list[Example]:
    """Tokens of each row, at most ``longest``; a prompt that is too long loses its beginning.

    A decoder reads prompt, completion and end mark as one row and is scored after the prompt; an encoder-decoder reads
    the prompt and is scored on the completion.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    examples = []
    for row in rows:
        answer = list(tokenizer(row.completion, add_special_tokens=not row.prompt and not encoder_decoder).input_ids)
        if not end or answer[-1:] != end:
            answer = answer + end
        answer = answer[:longest]
        if encoder_decoder:
            if not row.prompt:
                raise ValueError("an encoder-decoder model needs rows with 'prompt' and 'completion'")
            examples.append(Example(tokenizer(row.prompt).input_ids[-longest:], answer))
            continue
        question = tokenizer(row.prompt).input_ids if row.prompt else []
        if question[-1:] == end and end:
            question = question[:-1]  # some tokenizers end every text
        question = question[len(question) - min(len(question), longest - len(answer)) :]
        examples.append(Example(question + answer, [-100] * len(question) + answer))
    return examples


def encode_labels(rows: Sequence[Row], names: Sequence[str], tokenizer: Any, longest: int) -> list[Example]:
    """Tokens of each labelled row, at most ``longest``, with the number of its label in ``names``.

    A text that is too long loses its end, as is usual in classification.
    """
    numbers = {name: number for number, name in enumerate(names)}
    texts = tokenizer([row.prompt for row in rows], truncation=True, max_length=longest).input_ids
    return [Example(list(tokens), [numbers[row.completion]]) for tokens, row in zip(texts, rows, strict=True)]


def hold_out(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and examples to be examined on, chosen by ``seed``; none stands on both sides.

    What repeats a held-out example is left out of those to learn from. Raises ``ValueError`` when nothing is left.
    """
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    size = max(1, math.floor(_HELD_OUT * len(examples)))
    held = [examples[i] for i in order[:size]]
    learned = [examples[i] for i in order[size:] if examples[i] not in held]
    if not learned:
        raise ValueError("all rows say the same, so that none is left to learn from; two different rows are needed")
    return learned, held


def majority(learned: Sequence[Example], held: Sequence[Example]) -> float:
    """Share of the held-out rows whose class is the commonest of the learned ones: right without reading."""
    ((common, _),) = Counter(example.labels[0] for example in learned).most_common(1)
    return sum(example.labels == [common] for example in held) / len(held)


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Examples padded on the right to one length."""

    def padded(lists: list[list[int]], fill: int) -> torch.Tensor:
        width = max(map(len, lists))
        return torch.tensor([one + [fill] * (width - len(one)) for one in lists])

    return {
        "input_ids": padded([example.inputs for example in examples], pad),
        "attention_mask": padded([[1] * len(example.inputs) for example in examples], 0),
        "labels": padded([example.labels for example in examples], -100),
    }


def endless(examples: Sequence[Example], size: int, pad: int, seed: int) -> Iterator[Batch]:
    """Batches without end, in a new order at every pass: the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), size):
            yield collate([examples[i] for i in order[start : start + size]], pad)


@torch.no_grad()
def examine(model: nn.Module, examples: Sequence[Example], size: int, pad: int, encoder_decoder: bool) -> Score:
    """The score of ``model`` on ``examples``, in batches of ``size``; of a classifier's when it gives one answer a row."""
    device = next(model.parameters()).device
    model.eval()
    loss, right, counted, exact = 0.0, 0, 0, 0
    for start in range(0, len(examples), size):
        batch = {name: x.to(device) for name, x in collate(examples[start : start + size], pad).items()}
        logits, labels = model(**batch).logits, batch["labels"]
        if logits.dim() == 2:
            logits = logits[:, None]  # (rows, classes) -> (rows, 1, classes)
        elif not encoder_decoder:  # a decoder's output at a token is its guess at the next
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss += nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum").item()
        scored = labels != -100
        hit = (logits.argmax(-1) == labels) & scored
        right, counted = right + int(hit.sum()), counted + int(scored.sum())
        exact += int((hit == scored).all(dim=1).sum())
    return Score(loss / max(1, counted), right / max(1, counted), exact / len(examples))
