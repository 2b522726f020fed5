"""Pfeiffer's adapter against its equation, in float64, where it stands, and what it reads."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import pfeiffer_adapter
from reference_impls._site import instances
from reference_impls.houlsby_adapter import Bottleneck
from reference_impls.pfeiffer_adapter import BehindNetwork, BehindSum
from tests.reference_impls.tiny import opt

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


def change(adapter: Bottleneck, z: Tensor) -> Tensor:
    """What the paper's bottleneck makes of z, written out."""
    inner = (torch.einsum("btd,md->btm", z, adapter.down.weight) + adapter.down.bias).clamp(min=0)
    return torch.einsum("btm,dm->btd", inner, adapter.up.weight) + adapter.up.bias


def parts(family: str, block: nn.Module, x: Tensor) -> tuple[Tensor, nn.Module]:
    """What the feed-forward part of a plain block gives to the residual ``x``, and the block's norm beside it."""
    if family == "bert":
        inner = nn.functional.gelu(block.intermediate.dense(x))
        return block.output.dense(inner), block.output.LayerNorm
    if family == "t5":
        part = block.layer[-1]
        return part.DenseReluDense(part.layer_norm(x)), part.layer_norm
    norm = {"llama": "post_attention_layernorm", "gpt2": "ln_2", "vit": "layernorm_after"}[family]
    return block.mlp(getattr(block, norm)(x)), getattr(block, norm)


def run_feed_forward(family: str, block: nn.Module, x: Tensor) -> Tensor:
    """The second half of an adapted block, from the residual ``x`` on."""
    if family == "bert":
        return block.feed_forward_chunk(x)
    if family == "t5":
        return block.layer[-1](x)
    return x + parts(family, block, x)[0]


BLOCKS = {
    "llama": ["model.layers.1"],
    "gpt2": ["transformer.h.1"],
    "bert": ["bert.encoder.layer.1"],
    "vit": ["vit.layers.1"],
    "t5": ["encoder.block.1", "decoder.block.1"],
}


@pytest.mark.parametrize(("family", "path"), [(family, path) for family, paths in BLOCKS.items() for path in paths])
def test_block_with_an_adapter_is_the_papers_equation(
    family: str, path: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, _ = make_tiny(family)
    plain = copy.deepcopy(model.double().get_submodule(path))
    block = randomise(pfeiffer_adapter.attach(model)).get_submodule(path)
    (adapter,) = (module for _, module in instances(block, Bottleneck))
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    h, norm = parts(family, plain, x)
    last = norm if family == "bert" else nn.Identity()
    expected = last(x + h + change(adapter, last(x + h)))
    torch.testing.assert_close(run_feed_forward(family, block, x), expected, rtol=1e-10, atol=1e-10)
    assert (expected - last(x + h)).abs().max() > 0.05


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "vit"])
def test_every_block_has_exactly_one_adapter_behind_its_feed_forward_network(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    pfeiffer_adapter.attach(model)
    names = [name for name, _ in instances(model, BehindSum if family == "bert" else BehindNetwork)]
    blocks = {name.split(".layer.1.")[0] if family == "t5" else name for name in names}
    assert len(names) == len(blocks) == (4 if family == "t5" else 2)
    assert not any("ttention" in name for name in names)


@pytest.mark.parametrize("first", [True, False])
def test_opts_blocks_follow_the_equation_on_either_side_of_their_norm(first: bool, randomise: Randomise) -> None:
    model = opt(do_layer_norm_before=first).double()
    plain = copy.deepcopy(model.get_submodule("model.decoder.layers.1"))
    block = randomise(pfeiffer_adapter.attach(model)).get_submodule("model.decoder.layers.1")
    (adapter,) = (module for _, module in instances(block, Bottleneck))
    seen: list[Tensor] = []
    for each in (plain, block):  # attention gives nothing, so that x alone reaches the second half
        each.self_attn.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)
    plain.fc1.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    plain(x)
    residual = x if first else plain.self_attn_layer_norm(x)
    h = plain.fc2(plain.activation_fn(plain.fc1(seen[0].view_as(x))))
    last = nn.Identity() if first else plain.final_layer_norm
    expected = last(residual + h + change(adapter, last(residual + h)))
    found = block(x)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, expected, rtol=1e-10, atol=1e-10)


def test_bottleneck_is_a_sixteenth_of_the_width_and_starts_near_zero() -> None:
    adapter = pfeiffer_adapter.bottleneck(torch.ones(800), 800 // pfeiffer_adapter.Config().reduction)
    assert adapter.down.out_features == 50
    for part in (adapter.down, adapter.up):
        assert 0.0195 < part.weight.std() < 0.0205
        assert not part.bias.any()


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_blocks_can_be_chosen(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    pfeiffer_adapter.freeze(model)
    pfeiffer_adapter.behind_ffn(
        model, lambda like: pfeiffer_adapter.bottleneck(like, 3), within=BLOCKS[family][0].replace(".", r"\.") + r"\."
    )
    (name,) = (name for name, _ in instances(model, Bottleneck))
    assert name.startswith(BLOCKS[family][0])


@pytest.mark.parametrize("reduction", [0, 65])
def test_empty_bottleneck_is_refused_and_leaves_the_model_plain(reduction: int, make_tiny: MakeTiny) -> None:
    for family in ("llama", "bert"):
        model, batch = make_tiny(family)
        before = model(**batch).logits
        with pytest.raises(ValueError, match="bottleneck"):
            pfeiffer_adapter.attach(model, pfeiffer_adapter.Config(reduction=reduction))
        assert all(p.requires_grad for p in model.parameters())
        assert torch.equal(model(**batch).logits, before)


def test_feed_forward_network_without_a_known_norm_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    layer = model.model.layers[1]
    layer.mystery = layer.post_attention_layernorm
    del layer.post_attention_layernorm
    with pytest.raises(ValueError, match="more feed-forward networks than norms"):
        pfeiffer_adapter.attach(model)
    assert all(p.requires_grad for p in model.parameters())
