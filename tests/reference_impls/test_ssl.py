"""SSL against its equation in float64, and against what it does to a singular value decomposition."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import ia3, ssl
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
WHERE = {
    "llama": {"k_proj", "v_proj", "up_proj"},
    "bert": {"key", "value", "dense"},
    "gpt2": {"key", "value", "c_fc"},
    "t5": {"k", "v", "wi"},
}


@pytest.fixture
def layer() -> nn.Module:
    model = ssl.attach(nn.ModuleDict({"v_proj": nn.Linear(6, 5)}).double())
    nn.init.normal_(model.v_proj.l)
    return model.v_proj


def test_forward_is_the_papers_equation(layer: nn.Module) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    weight = torch.einsum("oi,i->oi", layer.base.weight, layer.l)
    torch.testing.assert_close(layer(x), torch.einsum("bti,oi->bto", x, weight) + layer.base.bias, rtol=1e-12, atol=0)


def test_one_set_of_singular_vectors_is_rescaled_and_the_rest_stays(layer: nn.Module) -> None:
    u, sigma, vh = torch.linalg.svd(layer.base.weight, full_matrices=False)
    merged = copy.deepcopy(layer).merged().weight
    torch.testing.assert_close(merged, u @ torch.diag(sigma) @ (vh * layer.l), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", WHERE)
def test_keys_values_and_the_first_feed_forward_matrix_are_scaled(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    attached = ssl.attach(model)
    assert {name.rpartition(".")[2] for name, _ in instances(attached, ia3.ScaledInput)} == WHERE[family]


def test_first_matrix_of_the_network_is_scaled_and_not_the_last(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    names = [name for name, _ in instances(ssl.attach(model), ia3.ScaledInput) if name.endswith("dense")]
    assert names == [f"bert.encoder.layer.{i}.intermediate.dense" for i in range(2)]


def test_scales_start_at_one_and_their_number_is_that_of_the_inputs() -> None:
    model = ssl.attach(nn.ModuleDict({"key": nn.Linear(6, 5)}))
    assert torch.equal(model.key.l, torch.ones(6))
