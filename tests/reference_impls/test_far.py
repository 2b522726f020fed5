"""FAR against its equation, its choice of rows, and what a reader of an adapter's file needs."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reference_impls import far
from reference_impls._site import instances
from reference_impls.training import checkpoint

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


def test_output_is_the_papers_equation(randomise: Randomise) -> None:
    layer = nn.Linear(6, 10).double()
    whole, whole_bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    split = far.FARLinear(layer.requires_grad_(False), 3)
    split.choose(torch.tensor([7, 1, 4]))
    randomise(split)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    for place, row in enumerate((1, 4, 7)):  # the rows of W_t lie in their old order
        whole[row], whole_bias[row] = split.W[place].detach(), split.b[place].detach()
    expected = torch.einsum("bni,oi->bno", x, whole) + whole_bias
    torch.testing.assert_close(split(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(split.merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_frozen_rows_get_no_gradient_at_all(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    far.attach(model)(**batch).loss.backward()
    for name, layer in instances(model, far.FARLinear):
        assert layer.W.grad.any(), name
        assert layer.base.weight.grad is None


def test_rows_that_move_most_are_chosen_and_priming_is_undone(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    before = model(**batch).logits.detach()
    config = far.Config(retention=0.25, passes=3, priming_lr=1e-3)
    primed = far.attach(copy.deepcopy(model), config)
    weights = {name: layer.weight.detach().clone() for name, layer in instances(model, nn.Linear) if "mlp" in name}
    trained = [parameter.requires_grad_("mlp" in name) for name, parameter in model.named_parameters()]
    optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    far.prepare(primed, [batch], config)
    for name, layer in instances(primed, far.FARLinear):
        moved = (model.get_submodule(name).weight - weights[name]).abs().sum(1)
        chosen = torch.zeros_like(moved, dtype=torch.bool).index_fill(0, layer.rows, True)
        assert chosen.sum() == round(0.25 * len(moved))
        assert moved[chosen].min() >= moved[~chosen].max() * (1 - 1e-4), name
    torch.testing.assert_close(primed(**batch).logits, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_file_brings_other_rows_back_onto_a_fresh_base(family: str, make_tiny: MakeTiny, tmp_path: Path) -> None:
    model, batch = make_tiny(family)
    config = far.Config(priming_lr=1e-2)
    adapted = far.attach(model, config)
    far.prepare(adapted, [batch], config)
    with torch.no_grad():
        for _, layer in instances(adapted, far.FARLinear):
            layer.W += 0.1 * torch.randn_like(layer.W)
    path = checkpoint.save(adapted, tmp_path / "far.safetensors", "far", config)
    loaded = checkpoint.load(make_tiny(family)[0], path, "far")
    pairs = zip(instances(adapted, far.FARLinear), instances(loaded, far.FARLinear), strict=True)
    assert any(
        not torch.equal(other.rows, far.FARLinear(other.whole[0], len(other.rows)).rows) for _, (_, other) in pairs
    )
    torch.testing.assert_close(loaded(**batch).logits, adapted(**batch).logits, rtol=0, atol=0)


def test_file_loads_over_a_trained_adapter_of_other_rows(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    first, second = far.attach(copy.deepcopy(model)), far.attach(model)
    far.prepare(first, [batch], far.Config(priming_lr=1e-2))
    with torch.no_grad():
        for _, layer in instances(second, far.FARLinear):
            layer.W.normal_()
    checkpoint.load_adapter(second, checkpoint.adapter_state(first))
    torch.testing.assert_close(second(**batch).logits, first(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("retention", [0.0, 1.0])
def test_retention_that_leaves_one_kind_of_row_is_refused(retention: float, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    with pytest.raises(ValueError, match="both kinds are needed"):
        far.attach(model, far.Config(retention=retention))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_priming_without_a_batch_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    with pytest.raises(ValueError, match="1 passes over 0 batches"):
        far.prepare(far.attach(model), [])
