"""Every implementation attaches and trains on tensors without values: what a dry run needs."""

import importlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import reference_impls
from kb.loader import KB, load_record
from kb.schema import Method
from reference_impls.training.loop import configure
from tests.reference_impls import tiny

SLUGS = reference_impls.slugs()


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
@pytest.mark.parametrize("slug", SLUGS)
def test_step_needs_no_values(slug: str, family: str) -> None:
    method = importlib.import_module(f"reference_impls.{slug}")
    reference = load_record(KB / "methods" / f"{slug}.yaml", Method).reference
    config = configure(method, dict(reference.config) if reference else {})  # the paper's may not fit a tiny model
    batch = tiny.tiny(family)[1]
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = tiny._model(family)
        batch = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in batch.items()}
        try:
            model = method.attach(model, config).train()
        except ValueError as error:
            pytest.skip(f"not for {family}: {error}")
        loss = method.loss(model, batch) if hasattr(method, "loss") else model(**batch).loss
        if loss.requires_grad:  # a fusion of models trains nothing
            loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
