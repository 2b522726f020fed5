"""UniPELT against its equations, in float64, and the direction in which its gates may look."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import houlsby_adapter, pfeiffer_adapter, unipelt
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
CONFIG = unipelt.Config(rank=2, prefix_length=3, bottleneck=4, hidden=5)


def gate(layer: unipelt.Gate, z: Tensor) -> Tensor:
    """The mean of the sigmoids of one example (n, d)."""
    return torch.stack([1 / (1 + torch.exp(-(row @ layer.score.weight[0] + layer.score.bias[0]))) for row in z]).mean()


def test_gated_low_rank_change_is_the_papers_equation(randomise: Randomise) -> None:
    layer = randomise(unipelt.GatedLoRA(nn.Linear(6, 5).double(), rank=2))
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    expected = [layer.base(one) + gate(layer.gate, one) * (one @ (layer.B @ layer.A).T) for one in x]
    torch.testing.assert_close(layer(x), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_gated_adapter_is_the_papers_equation(randomise: Randomise) -> None:
    bottleneck = randomise(unipelt.GatedBottleneck(torch.empty(6, dtype=torch.float64), 3))
    s = torch.randn(3, 4, 6, dtype=torch.float64)
    expected = []
    for one in s:
        inner = (one @ bottleneck.down.weight.T + bottleneck.down.bias).clamp(min=0)
        expected.append(gate(bottleneck.gate, one) * (inner @ bottleneck.up.weight.T + bottleneck.up.bias))
    torch.testing.assert_close(bottleneck(s), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_adapter_stands_where_pfeiffers_does(make_tiny: MakeTiny) -> None:
    for family in ("bert", "llama", "t5"):
        gated, plain = (method.attach(make_tiny(family)[0]) for method in (unipelt, pfeiffer_adapter))
        there = {name for name, _ in instances(plain, houlsby_adapter.Bottleneck)}
        assert {name for name, _ in instances(gated, unipelt.GatedBottleneck)} == there


def test_gated_prefix_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("bert")
    randomise(unipelt.attach(model.double(), CONFIG))
    attention = model.bert.encoder.layer[0].attention.self
    base, (P_k, P_v) = attention.base, attention.prefix()
    d, heads = model.config.hidden_size, model.config.num_attention_heads
    x = torch.randn(2, 4, d, dtype=torch.float64)
    given = attention(x, attention_mask=None)[0]
    for one, got, q, k, v in zip(x, given, base.query(x), base.key(x), base.value(x), strict=True):
        g = gate(attention.gate, one)
        k, v = torch.cat((g * P_k, k)), torch.cat((g * P_v, v))
        parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
        expected = [torch.softmax(a @ b.T * (d / heads) ** -0.5, -1) @ c for a, b, c in parts]
        torch.testing.assert_close(got, torch.cat(expected, -1), rtol=1e-10, atol=1e-10)


def test_gate_so_far_is_the_mean_over_the_tokens_so_far(randomise: Randomise) -> None:
    layer = randomise(unipelt.Gate(torch.empty(1, dtype=torch.float64), 6))
    layer.causal = True
    z = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = [[gate(layer, one[: t + 1]) for t in range(4)] for one in z]
    torch.testing.assert_close(layer(z)[..., 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_no_token_of_a_decoder_knows_a_later_one(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(family)
    randomise(unipelt.attach(model, CONFIG))
    tokens = batch["input_ids"][:1].clone()
    before = model(input_ids=tokens).logits
    tokens[:, 6:] = (tokens[:, 6:] + 7) % 90
    after = model(input_ids=tokens).logits
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert (after[:, 6:] - before[:, 6:]).abs().max() > 1e-3


def test_no_token_of_an_encoder_decoder_knows_a_later_one(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("t5")
    randomise(unipelt.attach(model, CONFIG))
    told = torch.randint(3, 90, (4, 6))
    before = model(input_ids=batch["input_ids"], decoder_input_ids=told).logits
    told[:, 4:] += 3
    torch.testing.assert_close(model(input_ids=batch["input_ids"], decoder_input_ids=told).logits[:, :4], before[:, :4])


def test_gates_know_in_which_stack_they_are(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    unipelt.attach(model, CONFIG)
    causal = {name: one.causal for name, one in instances(model, unipelt.Gate)}
    assert len(causal) == 6 * 3 + 4
    for name, told in causal.items():
        reads_the_source = name.startswith("encoder") or name.endswith("EncDecAttention.base.v.gate")
        assert told != reads_the_source, name


def test_decoding_with_a_cache_is_refused(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    unipelt.attach(model, CONFIG)
    with pytest.raises(ValueError, match="use_cache=False"):
        model.generate(input_ids=batch["input_ids"][:1], max_new_tokens=3, min_new_tokens=3, use_cache=True)
    assert model.generate(input_ids=batch["input_ids"][:1], max_new_tokens=3, use_cache=False).shape[1] > 10


def test_gated_change_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="depends on the input"):
        unipelt.GatedLoRA(nn.Linear(6, 5), rank=2).merged()
