"""The scaled parallel adapter is the parallel one with a factor, which has the equation test."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import scaled_parallel_adapter
from reference_impls._branch import Beside
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


@pytest.mark.parametrize(("family", "path"), [("llama", "model.layers.0.mlp"), ("gpt2", "transformer.h.1.mlp")])
@pytest.mark.parametrize("s", [4.0, 0.5])
def test_output_is_the_papers_equation(family: str, path: str, s: float, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    model.double()
    plain = copy.deepcopy(model.get_submodule(path))
    scaled_parallel_adapter.attach(model, scaled_parallel_adapter.Config(bottleneck=3, scale=s))
    network = model.get_submodule(path)
    branch = next(module for _, module in instances(network, Beside)).branch
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    inner = (x @ branch.down.weight.T + branch.down.bias).relu()
    expected = plain(x) + s * (inner @ branch.up.weight.T) + s * branch.up.bias
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)


def test_default_is_the_papers_and_starts_at_the_base_model(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    before = model(**batch).logits
    scaled_parallel_adapter.attach(model)
    branches = [branch.branch for _, branch in instances(model, Beside)]
    assert {(branch.scale, branch.down.out_features) for branch in branches} == {(4.0, 512)}
    assert all(branch.down.weight.any() and not branch.up.weight.any() for branch in branches)
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=1e-6)


def test_empty_bottleneck_is_refused_and_leaves_the_model_plain(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="bottleneck of 0"):
        scaled_parallel_adapter.attach(model, scaled_parallel_adapter.Config(bottleneck=0))
    assert all(p.requires_grad for p in model.parameters())
    assert not list(instances(model, Beside))
