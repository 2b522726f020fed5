"""MAM is its two parts and nothing else; the parts have equation tests of their own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import mam_adapter, parallel_adapter, prefix_tuning
from reference_impls._site import instances
from reference_impls._surgery import freeze
from reference_impls.training.checkpoint import adapter_state, load_adapter

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
CONFIG = mam_adapter.Config(prefix_length=3, hidden=5, bottleneck=4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_output_is_that_of_prefix_and_scaled_branch_together(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    randomise(mam_adapter.attach(model, CONFIG))
    other, _ = make_tiny(family)
    prefix_tuning.insert(freeze(other), prefix_tuning.Config(prefix_length=3, hidden=5))
    parallel_adapter.insert(other, parallel_adapter.Config(bottleneck=4, scale=1.0))
    load_adapter(other, adapter_state(model))
    for _, branch in instances(other, parallel_adapter.Branch):  # s = 4 in the equation: four times the map up
        with torch.no_grad():
            branch.up.weight *= 4
            branch.up.bias *= 4
    torch.testing.assert_close(model(**batch).logits, other(**batch).logits, rtol=1e-4, atol=1e-4)


def test_defaults_are_the_papers() -> None:
    config = mam_adapter.Config()
    assert (config.prefix_length, config.bottleneck, config.scale) == (30, 512, 4.0)


def test_flattening_keeps_the_output(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    randomise(mam_adapter.attach(model, CONFIG))
    expected = model(**batch).logits
    torch.testing.assert_close(mam_adapter.flatten(model)(**batch).logits, expected)


def test_model_without_room_for_a_prefix_is_left_as_it_was(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("vit")
    with pytest.raises(ValueError, match="no way in"):
        mam_adapter.attach(model, CONFIG)
    assert all(p.requires_grad for p in model.parameters())
    assert not list(instances(model, parallel_adapter.Branch))
