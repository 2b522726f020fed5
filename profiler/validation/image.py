"""PEFT's 31 image-generation runs: the FLUX.2-klein-base-4B transformer, batches of two, 512 x 512, one NVIDIA L40S.

The transformer is built by ``diffusers`` from its sizes, which give the published 3,875,544,576 parameters exactly. As in
the public script, blocks are computed again in the backward pass, text and images come encoded (1,024 image tokens of 128
channels, 512 text tokens of 3 x 2,560), the loss is a mean of squares in fp32, gradients are clipped, and what the
script leaves on the card stays there: the DINOv2 encoder that judges the images, and the encoded prompts and images of all
14 training examples. The script moves the finished model away and back, so that all of it lies on the card but the weights
that FRoD replaces, which it moves away again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kb.closed_form import Implementation
from profiler import build
from profiler.account import requests
from profiler.allocator import replay
from profiler.run import run
from profiler.settings import Settings
from profiler.validation.published import PublishedRun, adapted, after_step, offloaded, optimizer_of
from profiler.validation.values import assumed

SIZES = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
SETTINGS = Settings(batch=2, seq=1024, checkpointing=True, emptied=True)
_IMAGE, _TEXT, _EXAMPLES = 1024, 512, 14  # tokens, tokens, training examples
_ENCODER = 86_580_480  # parameters of facebook/dinov2-base, in fp32
_MODULE = "diffusers.models.transformers.transformer_flux2"


def _base(
    config: Mapping[str, object], settings: Settings, implementation: Implementation, slug: str = ""
) -> nn.Module:
    model = import_module(_MODULE).Flux2Transformer2DModel(**SIZES).to(torch.bfloat16)
    model.enable_gradient_checkpointing(_computed_again)
    return model  # type: ignore[no-any-return]  # diffusers is untyped


def _batch(model: nn.Module, config: Mapping[str, object], settings: Settings, tokens: int) -> dict[str, Tensor]:
    half = torch.bfloat16
    return {
        "hidden_states": torch.zeros(settings.batch, _IMAGE, 128, dtype=half),
        "encoder_hidden_states": torch.zeros(settings.batch, _TEXT, 7680, dtype=half),
        "timestep": torch.zeros(settings.batch),
        "img_ids": torch.zeros(settings.batch, _IMAGE, 4, dtype=torch.long),
        "txt_ids": torch.zeros(settings.batch, _TEXT, 4, dtype=torch.long),
    }


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with assumed():
        found = model(**batch, return_dict=False)[0]
    target = torch.zeros_like(found)
    return ((found.float() - target.float()) ** 2).reshape(found.shape[0], -1).mean(1).mean()


def _computed_again(block: nn.Module, *args: Any) -> Any:
    """The default of diffusers, but when a block is computed again, its questions about values are answered again."""

    def answered(*args: Any) -> Any:
        with assumed(moved=True):
            return block(*args)

    return checkpoint(answered, *args, use_reentrant=False)


@contextmanager
def _world(published: PublishedRun) -> Iterator[None]:
    resident: list[Tensor] = []

    def training(model: nn.Module, *args: Any) -> build.Training:
        resident.append(torch.zeros(_ENCODER))
        resident.append(torch.zeros(_EXAMPLES, _TEXT * 7680 + _IMAGE * 128, dtype=torch.bfloat16))
        with assumed(moved=True):
            changed = adapted(model, published)
        return build.Training(
            changed, _loss, optimizer_of(changed, published), after_step(changed, published), offloaded(changed)
        )

    with (
        patch.object(build, "ready", lambda *args: import_module("peft")),
        patch.object(build, "base", _base),
        patch.object(build, "batch_for", _batch),
        patch.object(build, "training", training),
    ):
        yield


def memory(published: PublishedRun) -> dict[str, float]:
    """The maximum of reserved bytes of one run. Raises ``ImportError`` when diffusers is not installed."""
    if find_spec("diffusers") is None:
        raise ImportError("the image-generation runs need diffusers: pip install 'peft-atlas[bench]'")
    import_module(_MODULE)
    with _world(published):
        done = run({}, "full_fine_tuning", SETTINGS, "peft", {})
    return {"reserved": replay(requests(done.trace, SETTINGS.emptied)), "trainable": done.trainable}
