"""Cross-attention tuning: which tensors train, in each family of encoder-decoders, and that only they move."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration

from reference_impls import cross_attention_tuning
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
Config = cross_attention_tuning.Config


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def bart() -> nn.Module:
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    inner = {"encoder_ffn_dim": 20, "decoder_ffn_dim": 20}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=50, encoder_layers=1, decoder_layers=1, **sizes, **inner)
    ).eval()


def test_t5_trains_four_matrices_and_a_norm_per_decoder_block(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    cross_attention_tuning.attach(model)
    at = [f"decoder.block.{i}.layer.1" for i in range(2)]
    expected = {f"{place}.EncDecAttention.{leaf}.weight" for place in at for leaf in "qkvo"}
    assert trained(model) == expected | {f"{place}.layer_norm.weight" for place in at}


def test_bart_trains_biases_and_its_norm_too() -> None:
    model = cross_attention_tuning.attach(bart())
    place = "model.decoder.layers.0.encoder_attn"
    leaves = [f".{part}_proj" for part in ("q", "k", "v", "out")] + ["_layer_norm"]
    assert trained(model) == {f"{place}{leaf}.{kind}" for leaf in leaves for kind in ("weight", "bias")}


def test_norm_can_stay_frozen(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    cross_attention_tuning.attach(model, Config(train_norm=False))
    assert not any("norm" in name for name in trained(model))
    assert not any("norm" in name for name in trained(cross_attention_tuning.attach(bart(), Config(train_norm=False))))


def test_cross_attention_with_trained_weights_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("t5")
    randomise(cross_attention_tuning.attach(model.double()))
    state = {name.rpartition("layer.1.")[2]: t for name, t in adapter_state(model).items() if ".block.1." in name}
    assert len(state) == 5
    W_q, W_k, W_v, W_o = (state[f"EncDecAttention.{leaf}.weight"] for leaf in "qkvo")
    h, e = torch.randn(3, 64, dtype=torch.float64), torch.randn(5, 64, dtype=torch.float64)
    g = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state["layer_norm.weight"]
    heads = []
    for part in range(4):
        rows = slice(8 * part, 8 * part + 8)
        scores = (g @ W_q[rows].T) @ (e @ W_k[rows].T).T  # T5's weights hold the scale 1 / √m
        heads.append(torch.softmax(scores, -1) @ (e @ W_v[rows].T))
    expected = h + torch.cat(heads, -1) @ W_o.T
    given = model.decoder.block[1].layer[1](h[None], key_value_states=e[None])[0][0]
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)  # T5 takes its norms in fp32


@pytest.mark.parametrize("side", ["source", "target"])
def test_new_embeddings_train_along(side: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    config = Config(new_embeddings=side)  # type: ignore[arg-type]
    assert "shared.weight" in trained(cross_attention_tuning.attach(model, config)), "T5's table serves both sides"
    apart = bart()
    apart.model.encoder.embed_tokens = nn.Embedding(60, 16)  # a child language's own table
    name = {"source": "model.encoder.embed_tokens.weight", "target": "model.shared.weight"}[side]
    tables = {one for one in trained(cross_attention_tuning.attach(apart, config)) if "encoder_attn" not in one}
    assert tables == {name}


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_model_without_cross_attention_is_refused(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    with pytest.raises(ValueError, match="has no cross-attention"):
        cross_attention_tuning.attach(model)
    assert all(p.requires_grad for p in model.parameters())


def test_unknown_side_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    with pytest.raises(ValueError, match="new_embeddings is 'both'"):
        cross_attention_tuning.attach(model, Config(new_embeddings="both"))  # type: ignore[arg-type]
    assert all(p.requires_grad for p in model.parameters())
