"""Chunked losses: the same number, in fewer bytes."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from profiler import loss
from profiler.dry_run import dry_run
from profiler.settings import Settings
from tests.profiler.test_fake import FAMILIES

WIDE = FAMILIES["llama"] | {"vocab_size": 32768}
LONG = Settings(batch=2, seq=256)
KNOBS = [{"loss_chunk": 5}, {"head_chunks": 4}, {"head_chunks": 3, "loss_chunk": 7}, {"loss_fp32": False}]


@pytest.mark.parametrize("knobs", KNOBS)
def test_pieces_give_the_loss_and_the_gradients_of_the_whole(knobs: dict) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**{key: value for key, value in FAMILIES["llama"].items() if key != "model_type"})
    model, ids = LlamaForCausalLM(config), torch.randint(256, (2, 16))
    whole = model(input_ids=ids, labels=ids).loss
    want = torch.autograd.grad(whole, model.lm_head.weight)[0]
    loss.chunk(model, Settings(batch=2, seq=16, **knobs))
    pieces = model(input_ids=ids, labels=ids).loss
    # transformers divides by the tokens that have a next one, the pieces by all
    torch.testing.assert_close(pieces * 16 / 15, whole)
    torch.testing.assert_close(torch.autograd.grad(pieces, model.lm_head.weight)[0] * 16 / 15, want)


def test_what_is_saved_is_a_copy_of_all_logits() -> None:
    whole, chunked = (dry_run(WIDE, "lora", LONG.model_copy(update=knobs)) for knobs in ({}, {"loss_chunk": 64}))
    rows, fp32 = 2 * 256, 4 * 32768
    # whole: logits in fp32, their log-probabilities, the gradient of these; chunked: log-probabilities only, all rows
    assert abs(whole.parts["logits"] - 3 * rows * fp32) < rows * fp32 * 0.51
    assert whole.allocated_bytes - chunked.allocated_bytes > rows * fp32 * 0.9


def test_a_model_without_vocabulary_and_too_many_pieces_are_refused() -> None:
    with pytest.raises(ValueError, match="no head over a vocabulary"):
        dry_run(FAMILIES["vit"], "lora", Settings(batch=2, seq=2, loss_chunk=1))
    with pytest.raises(ValueError, match="loss_chunk 1 cuts"):
        Settings(batch=64, seq=4096, loss_chunk=1)
