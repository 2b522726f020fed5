"""Houlsby's adapter against its equation, in float64, and where it stands."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import houlsby_adapter
from reference_impls._site import instances
from reference_impls._surgery import detach

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def test_forward_is_the_papers_equation() -> None:
    base = nn.Linear(7, 6).double()
    layer = houlsby_adapter.AfterSublayer(base, houlsby_adapter.near_zero(base, 3))
    for parameter in layer.adapter.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 7, dtype=torch.float64)
    h = torch.einsum("bti,oi->bto", x, base.weight) + base.bias
    inner = gelu(torch.einsum("btd,md->btm", h, layer.adapter.down.weight) + layer.adapter.down.bias)
    expected = h + torch.einsum("btm,dm->btd", inner, layer.adapter.up.weight) + layer.adapter.up.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "sites"),
    [
        ("llama", {"self_attn.o_proj", "mlp.down_proj"}),
        ("gpt2", {"attn.c_proj", "mlp.c_proj"}),
        ("bert", {"attention.output.dense", "0.output.dense", "1.output.dense"}),
        ("t5", {"SelfAttention.o", "DenseReluDense.wo"}),
        ("vit", {"attention.o_proj", "mlp.fc2"}),
    ],
)
def test_adapters_stand_behind_both_sublayers_of_every_block_and_nowhere_else(
    family: str, sites: set[str], make_tiny: MakeTiny
) -> None:
    model, _ = make_tiny(family)
    names = [name for name, _ in instances(houlsby_adapter.attach(model), houlsby_adapter.AfterSublayer)]
    assert len(names) == (8 if family == "t5" else 4)
    assert all(any(name.endswith(site) for site in sites) for name in names)
    assert not any("EncDecAttention" in name for name in names)


def test_start_is_a_narrow_normal_cut_at_two_deviations() -> None:
    adapter = houlsby_adapter.near_zero(nn.Linear(200, 200), 100)
    for part in (adapter.down, adapter.up):
        assert part.weight.abs().max() <= 0.02
        assert 0.0086 < part.weight.std() < 0.0090  # what a cut at two deviations leaves of 0.01
        assert not part.bias.any()


def test_norms_train_on_request_and_are_restored(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted = houlsby_adapter.attach(model, houlsby_adapter.Config(bottleneck=4, train_norms=True))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad and "adapter" not in name}
    assert trained == {name for name in before if "LayerNorm" in name}
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 1
    restored = detach(adapted)
    assert all(torch.equal(p, before[name]) for name, p in restored.named_parameters())


def test_empty_bottleneck_is_refused_and_leaves_the_model_plain(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="bottleneck of 0"):
        houlsby_adapter.attach(model, houlsby_adapter.Config(bottleneck=0))
    assert not list(instances(model, houlsby_adapter.AfterSublayer))
    assert all(p.requires_grad for p in model.parameters())
