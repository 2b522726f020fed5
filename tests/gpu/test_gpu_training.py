"""Every method learns the default task on the device, and a fresh base with its saved adapter answers alike.

On a card each method trains as its record says and has to climb the rung that the record expects. On a processor, where
``tests/reference_impls/climbs.json`` holds that, one method takes a few steps: the statements stay tested without a card.
"""

import importlib
from pathlib import Path

import pytest
import torch

from kb.loader import KB, load_record
from kb.schema import Method
from reference_impls.ladder import climb, task
from reference_impls.ladder.base import load_base
from reference_impls.training import checkpoint
from reference_impls.training.loop import configure
from tests.reference_impls.climb import MARK, carries
from tests.reference_impls.climb import slugs as climbing

CARD = torch.cuda.is_available()
SLUGS = climbing() if CARD else ["lora"]
FEW = 6


@pytest.mark.gpu
@pytest.mark.parametrize("slug", SLUGS)
def test_method_learns_the_default_task_and_is_loaded_whole(slug: str, tmp_path: Path) -> None:
    device = torch.device("cuda" if CARD else "cpu")
    assert carries(slug)
    reference = load_record(KB / "methods" / f"{slug}.yaml", Method).reference
    assert reference is not None
    method = importlib.import_module(f"reference_impls.{slug}")
    config = configure(method, dict(reference.config))
    expected = reference.expected_rung
    rung = task.RUNGS["rename" if expected == "none" else expected]
    steps = reference.steps if CARD else FEW
    model, result = climb.climb(method, config, rung, lr=reference.learning_rate, steps=steps, device=device)
    assert {parameter.device.type for parameter in model.parameters()} == {device.type}
    if CARD and expected != "none":
        assert result.after.exact >= MARK
    else:
        assert result.losses[-1] < result.losses[0]
    path = checkpoint.save(model, tmp_path / "adapter.safetensors", slug, config)
    loaded = checkpoint.load(load_base(device), path, slug).to(device)
    questions = {name: tensor.to(device) for name, tensor in task.exam(rung).items()}
    assert task.accuracy(loaded, questions) == task.accuracy(model, questions)
