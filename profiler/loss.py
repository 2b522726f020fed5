"""The head and its loss in chunks, as fine-tuning frameworks compute them to save memory.

litgpt applies the head to 128 tokens of each example at a time, and takes the cross-entropy of each piece in the base's own
type (``litgpt/utils.py``, ``chunked_cross_entropy``; without pieces of the head it cuts finished logits every 128 rows).
torchtune applies the head to eight pieces and makes each piece fp32 for its loss (``CEWithChunkedOutputLoss``). In both,
the pieces' logits stay until the backward pass: what is saved are copies of all logits at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from profiler.settings import Settings


def chunk(model: nn.Module, settings: Settings) -> None:
    """Lets ``model`` compute head and loss in the pieces that ``settings`` ask for.

    Raises ``ValueError`` when the model has no head over a vocabulary.
    """
    if settings.loss_chunk is None and settings.head_chunks == 1 and settings.loss_fp32:
        return
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no head over a vocabulary: loss_chunk and head_chunks are not for it"
        )
    if settings.head_chunks > 1:
        whole = head.forward

        def pieces(hidden: Tensor) -> tuple[Tensor, ...]:
            return tuple(whole(piece) for piece in hidden.chunk(settings.head_chunks, dim=1))

        head.forward = pieces
    model.loss_function = _Loss(settings)


class _Loss:
    """``transformers``' loss function for causal models, in pieces."""

    def __init__(self, settings: Settings) -> None:
        self.rows, self.full = settings.loss_chunk, settings.loss_fp32

    def __call__(
        self, logits: Tensor | tuple[Tensor, ...], labels: Tensor, vocab_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        """The mean over all tokens of logits (batch, tokens, vocabulary), whole or in pieces, against labels."""
        whole = logits if isinstance(logits, tuple) else (logits,)
        shifted = functional.pad(labels, (0, 1), value=-100)[..., 1:]
        targets = shifted.split([piece.shape[1] for piece in whole], dim=1)
        losses = []
        for piece, target in zip(whole, targets, strict=True):
            rows, aims = piece.reshape(-1, piece.shape[-1]), target.reshape(-1)
            size = self.rows or rows.shape[0]
            for some, aim in zip(rows.split(size), aims.split(size), strict=True):
                some = some.float() if self.full else some
                losses.append(functional.cross_entropy(some, aim, reduction="sum"))
        return torch.stack(losses).sum() / labels.numel()
