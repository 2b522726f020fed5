"""Reading a file of texts for a run on a model of the user's: JSONL rows, tokens, batches, and a held-out score.

A row is ``{"prompt": …, "completion": …}``, whose completion alone is learned, or ``{"text": …}``, learned whole.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reference_impls.training.loop import Batch

_HELD_OUT = 0.1  # share of the rows that training never sees, one row at least


@dataclass(frozen=True)
class Row:
    """One example."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Example:
    """One example in tokens: what the model reads, and what it is scored on."""

    inputs: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Score:
    """How well a model predicts the held-out completions, given the true tokens before each."""

    loss: float  # mean over tokens, in nats
    token: float  # share of tokens that are the likeliest one
    exact: float  # share of completions that are so throughout


def read_rows(source: str, split: str = "train") -> list[Row]:
    """The rows of a JSONL file, or of a dataset of that id if no such file exists; at least two.

    Raises ``ValueError`` with the file and line of a row that cannot be used.
    """
    path = Path(source)
    if path.is_file():
        rows = list(_from_file(path))
    elif path.suffix in (".jsonl", ".json") or path.exists():
        raise ValueError(f"{source} is not a file; give a JSONL file or the id of a dataset")
    else:
        rows = [_row(item, f"{source}, row {i}") for i, item in enumerate(_dataset(source, split))]
    if len(rows) < 2:
        raise ValueError(f"{source} has {len(rows)} usable rows; two are needed, one to learn from and one to examine")
    return rows


def _from_file(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from None
            yield _row(item, f"{path}:{number}")


def _row(item: Any, place: str) -> Row:
    if isinstance(item, dict):
        match item:
            case {"prompt": str(prompt), "completion": str(completion)} if completion:
                return Row(prompt, completion)
            case {"text": str(text)} if text:
                return Row("", text)
    keys = ", ".join(map(repr, item)) if isinstance(item, dict) else type(item).__name__
    raise ValueError(f"{place}: expected the texts 'prompt' and 'completion', or 'text'; found {keys or 'nothing'}")


def _dataset(name: str, split: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError(f"{name!r} is no file here; to load a dataset of that id, pip install datasets") from None
    return datasets.load_dataset(name, split=split)


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


def hold_out(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and examples to be examined on, chosen by ``seed``."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(1, math.floor(_HELD_OUT * len(examples)))
    return [examples[i] for i in order[held:]], [examples[i] for i in order[:held]]


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
    """The score of ``model`` on ``examples``, in batches of ``size``."""
    device = next(model.parameters()).device
    model.eval()
    loss, right, counted, exact = 0.0, 0, 0, 0
    for start in range(0, len(examples), size):
        batch = {name: x.to(device) for name, x in collate(examples[start : start + size], pad).items()}
        logits, labels = model(**batch).logits, batch["labels"]
        if not encoder_decoder:  # a decoder's output at a token is its guess at the next
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss += nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum").item()
        scored = labels != -100
        hit = (logits.argmax(-1) == labels) & scored
        right, counted = right + int(hit.sum()), counted + int(scored.sum())
        exact += int((hit == scored).all(dim=1).sum())
    return Score(loss / max(1, counted), right / max(1, counted), exact / len(examples))
