"""What a request decides about a closed form: length, optimizer, pieces of the head, and how many cards share the work."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from kb.closed_form import Storage

BF16, FP32 = 2, 4
"""Bytes of a number."""
QUANTIZATION: dict[Storage, str] = {"bf16": "none", "int8": "8bit", "nf4": "4bit"}
"""What a request calls a storage of the base."""
STORED_AS = {word: storage for storage, word in QUANTIZATION.items()}


class Optimizer(NamedTuple):
    """An optimizer beside AdamW on lists of tensors, for which the forms were read off."""

    state: float | None  # bytes per trained number; None for two states in the number's own format
    temporaries: float  # share of the temporaries of AdamW on lists, one copy of all that trains


OPTIMIZERS = {
    "adamw": Optimizer(None, 1.0),
    "adamw_fused": Optimizer(None, 0.0),
    "adamw_8bit": Optimizer(2 + 2 * 4 / 256, 0.0),  # two bytes, and a scale for each 256 numbers, 2110.02861 section 2
    "adamw_paged_8bit": Optimizer(0.0, 0.0),  # its states lie in the computer's memory
    "adafactor": Optimizer(0.02, 0.0),  # a row and a column for each matrix, 1804.04235 section 3
    "sgd": Optimizer(0.0, 0.0),
}


class Sharing(NamedTuple):
    """What a request decides about a form, but for the length of its sequences."""

    optimizer: str
    head_chunks: int
    shards: int
    replicas: int


PLAIN = Sharing("adamw", 1, 1, 1)  # what forms were read off for


class Setting(NamedTuple):
    """What a request decides about a form."""

    seq: int
    sharing: Sharing = PLAIN


@lru_cache(maxsize=256)
def setting(seq: int, optimizer: str, head_chunks: int, shards: int, replicas: int) -> Setting:
    """A setting, one object for all methods: a model keeps hundreds of ways to run one."""
    return Setting(seq, Sharing(optimizer, head_chunks, shards, replicas))


SHARED = ("weights", "adapter", "gradients", "optimizer")  # parts that sharding divides


@lru_cache(maxsize=1024)
def changed(sharing: Sharing) -> tuple[str, ...]:
    """The parts that ``sharing`` may make larger or smaller."""
    optimizer, chunks, shards, replicas = sharing
    several = (*SHARED, "overhead") if shards > 1 else ("overhead",) if replicas > 1 else ()
    single = (*(("optimizer",) if optimizer != "adamw" else ()), *(("logits",) if chunks > 1 else ()))
    return tuple(dict.fromkeys((*several, *single)))


def in_pieces(phase: str, pieces: int) -> float:
    """What head and loss in pieces take at a phase, as a share of what they take whole.

    Until the backward pass, all logits stay in bf16 and their fp32 copies for the loss; each piece takes one more fp32 copy.
    Then its gradient takes a copy of both kinds, while the bf16 logits of the pieces are gone. Before the backward pass
    begins, the forward pass may have been higher.
    """
    forward, backward = BF16 + FP32 + FP32 / pieces, FP32 + (2 * BF16 + FP32) / pieces
    if phase == "head":
        return forward / (BF16 + 2 * FP32)
    return max(forward, backward) / (2 * BF16 + 2 * FP32)
