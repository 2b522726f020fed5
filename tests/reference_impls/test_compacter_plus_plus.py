"""Compacter++ is Compacter without the adapter behind attention; the layer has its equation test there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import compacter, compacter_plus_plus
from reference_impls._site import instances
from reference_impls.training.checkpoint import adapter_state, load_adapter

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize(
    ("family", "site", "blocks"),
    [("llama", "mlp.down_proj", 2), ("bert", "output.dense", 2), ("t5", "DenseReluDense.wo", 4), ("vit", "mlp.fc2", 2)],
)
def test_one_adapter_stands_behind_each_feed_forward_network(
    family: str, site: str, blocks: int, make_tiny: MakeTiny
) -> None:
    model, _ = make_tiny(family)
    compacter_plus_plus.attach(model)
    names = [name for name, _ in instances(model, compacter.AfterSublayer)]
    assert len(names) == blocks
    assert all(name.endswith(site) and "attention" not in name for name in names)
    assert len({id(layer.rule) for _, layer in instances(model, compacter.PHMLinear)}) == 1


def test_output_is_compacters_whose_adapters_behind_attention_are_silent(
    make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny("t5")
    randomise(compacter_plus_plus.attach(model.double()))
    whole, _ = make_tiny("t5")
    compacter.attach(whole.double())
    missing = {
        name: torch.zeros_like(tensor)
        for name, tensor in adapter_state(whole).items()
        if name not in adapter_state(model) and not name.endswith("rule.A")
    }
    assert len(missing) == 4 * 2 * 3  # behind each attention two maps of s, t and b
    shared = next(name for name in adapter_state(model) if name.endswith("rule.A"))
    state = adapter_state(model)
    home = next(name for name in adapter_state(whole) if name.endswith("rule.A"))
    state[home] = state.pop(shared)
    load_adapter(whole, state | missing)
    torch.testing.assert_close(model(**batch).logits, whole(**batch).logits, rtol=1e-9, atol=1e-9)


def test_sizes_reach_the_adapters_and_impossible_ones_are_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    compacter_plus_plus.attach(model, compacter_plus_plus.Config(reduction=4, factors=8, rank=3))
    layer = next(layer for _, layer in instances(model, compacter.PHMLinear))
    assert layer.s.shape == (8, 8, 3)
    assert layer.t.shape == (8, 3, 2)
    for config in (compacter_plus_plus.Config(factors=5), compacter_plus_plus.Config(reduction=0)):
        model, _ = make_tiny("llama")
        with pytest.raises(ValueError, match=r"do not make|at least 1"):
            compacter_plus_plus.attach(model, config)
        assert all(p.requires_grad for p in model.parameters())
