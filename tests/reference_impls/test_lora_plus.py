"""LoRA+: the layer is LoRA's (its equation is tested there); what differs is how fast B moves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import lora, lora_plus
from reference_impls._site import instances
from reference_impls.training.loop import train

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


def test_b_has_lambda_times_the_rate_of_a(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    adapted = lora_plus.attach(model)
    slow, fast = lora_plus.optimizer(adapted, 1e-3, lora_plus.Config(lr_ratio=7.0)).param_groups
    assert (slow["lr"], fast["lr"]) == (1e-3, 7e-3)
    layers = [layer for _, layer in instances(adapted, lora.LoRALinear)]
    assert [id(p) for p in slow["params"]] == [id(layer.A) for layer in layers]
    assert [id(p) for p in fast["params"]] == [id(layer.B) for layer in layers]
    assert sum(p.requires_grad for p in adapted.parameters()) == 2 * len(layers)


def test_layer_is_loras(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    ours = randomise(lora_plus.attach(model.double()))
    theirs = lora.attach(make_tiny("bert")[0].double(), lora.Config())
    for (name, p), (other, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        q.data.copy_(p)
    torch.testing.assert_close(ours(**batch).logits, theirs(**batch).logits, rtol=0, atol=0)


def moved(model: nn.Module, start: dict[str, Tensor], leaf: str) -> float:
    return max((p - start[n]).abs().max().item() for n, p in model.named_parameters() if n.endswith(f".{leaf}"))


def test_schedule_scales_both_rates_and_b_moves_further(make_tiny: MakeTiny, randomise: Randomise) -> None:
    distances = []
    for ratio in (1.0, 16.0):
        torch.manual_seed(3)
        model, batch = make_tiny("llama")
        config = lora_plus.Config(lr_ratio=ratio)
        adapted = randomise(lora_plus.attach(model, config))
        start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
        train(adapted, lora_plus, config, iter([batch]), lr=1e-4, steps=1)
        distances.append((moved(adapted, start, "A"), moved(adapted, start, "B")))
    (a, b), (a_plus, b_plus) = distances
    assert a_plus == pytest.approx(a, rel=1e-3)  # one step of Adam moves each number by its rate
    assert b_plus == pytest.approx(16 * b, rel=1e-3)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan")])
def test_ratio_that_trains_nothing_is_refused(ratio: float, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="lr_ratio"):
        lora_plus.attach(model, lora_plus.Config(lr_ratio=ratio))
    assert all(p.requires_grad for p in model.parameters())
