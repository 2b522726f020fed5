"""P-tuning v2: what it trains, where it starts, and that its layers attend to it as the equation says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import p_tuning_v2, prefix_tuning
from reference_impls._site import instances
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]


def test_attention_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("bert")
    randomise(p_tuning_v2.attach(model.double(), p_tuning_v2.Config(prompt_length=3)))
    attention = model.bert.encoder.layer[0].attention.self
    base, d, heads = attention.base, 64, 4
    x = torch.randn(2, 5, d, dtype=torch.float64)
    expected = torch.empty(2, 5, d, dtype=torch.float64)
    for b in range(2):
        keys = torch.cat((attention.prefix.P_k, base.key(x[b])))
        values = torch.cat((attention.prefix.P_v, base.value(x[b])))
        queries = base.query(x[b])
        for h in range(heads):
            part = slice(h * d // heads, (h + 1) * d // heads)
            weights = torch.softmax(queries[:, part] @ keys[:, part].T / (d / heads) ** 0.5, -1)
            expected[b, :, part] = weights @ values[:, part]
    torch.testing.assert_close(attention(x, attention_mask=None)[0], expected, rtol=1e-9, atol=1e-9)


def test_prompts_are_trained_directly_and_start_standard_normal(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    p_tuning_v2.attach(model, p_tuning_v2.Config(prompt_length=100))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rsplit(".", 1)[-1] for name in trained} == {"P_k", "P_v"}
    numbers = torch.cat([p.flatten() for p in trained.values()])
    assert len(numbers) == 2 * 2 * 100 * 32  # keys and values, layers, prompts, width of the keys
    assert numbers.mean().abs() < 0.03
    assert 0.97 < numbers.std() < 1.03


def test_network_is_prefix_tunings_and_can_be_dropped(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    randomise(p_tuning_v2.attach(model, p_tuning_v2.Config(prompt_length=3, hidden=6)))
    assert {id(g.network) for _, g in instances(model, prefix_tuning.Generated)} != set()
    expected = model(**batch).logits
    state = adapter_state(p_tuning_v2.flatten(model))
    torch.testing.assert_close(model(**batch).logits, expected)
    assert sum(tensor.numel() for tensor in state.values()) == 2 * 2 * 3 * 64


@pytest.mark.parametrize("config", [p_tuning_v2.Config(prompt_length=0), p_tuning_v2.Config(hidden=0)])
def test_impossible_sizes_are_refused(config: p_tuning_v2.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="both must be at least 1"):
        p_tuning_v2.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
