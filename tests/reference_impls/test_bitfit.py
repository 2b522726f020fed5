"""BitFit: exactly the biases train, and a change of one shifts its layer's output by itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from reference_impls import bitfit
from reference_impls._site import FFN_IN, QUERY

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_every_bias_trains_and_nothing_else(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    for name, parameter in bitfit.attach(model).named_parameters():
        assert parameter.requires_grad == (name.endswith(".bias") and not name.startswith("classifier")), name


def test_bert_base_has_the_papers_share_of_biases() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig(), add_pooling_layer=False)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in bitfit.attach(model).parameters() if p.requires_grad)
    blocks = 12 * (4 * 768 + 3072 + 768 + 2 * 768)  # query, key, value, output, two of the network, two norms
    assert trained == blocks + 768  # and the norm at the embeddings
    assert 0.0008 < trained / total < 0.0011  # the paper: 0.08 % to 0.1 %


def test_change_of_a_bias_shifts_the_output_by_itself(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    layer = bitfit.attach(model.double()).bert.encoder.layer[0].intermediate.dense
    x, change = torch.randn(3, 64, dtype=torch.float64), torch.randn(96, dtype=torch.float64)
    before = torch.einsum("ti,oi->to", x, layer.weight) + layer.bias
    with torch.no_grad():
        layer.bias += change
    torch.testing.assert_close(layer(x), before + change, rtol=1e-12, atol=1e-12)


def test_target_chooses_the_papers_smaller_variant(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    attached = bitfit.attach(model, bitfit.Config(target=f"{QUERY}|{FFN_IN}"))
    trained = {name for name, p in attached.named_parameters() if p.requires_grad}
    assert trained == {
        f"bert.encoder.layer.{i}.{site}.bias" for i in (0, 1) for site in ("attention.self.query", "intermediate.dense")
    }


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_model_without_biases_is_refused_with_the_reason(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no bias"):
        bitfit.attach(model)
