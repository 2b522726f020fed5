"""Attention fusion against its equation, in float64, and what runs without gradients."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import attention_fusion
from reference_impls._site import stacks
from reference_impls._surgery import detach

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a plain model."""
    return [block for _, block in next(stacks(model)).blocks]


def states(model: nn.Module, batch: Batch) -> list[Tensor]:
    """What each block of a plain model gives."""
    seen: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, args, out: seen.append(out)) for block in blocks(model)]
    model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def naive(q: Tensor, layers: list[Tensor]) -> Tensor:
    """The paper's mixture, token by token."""
    mixed = torch.zeros_like(layers[0])
    for b, i in torch.cartesian_prod(*(torch.arange(n) for n in mixed.shape[:2])).tolist():
        scores = [math.exp(float(q @ h[b, i])) for h in layers]
        mixed[b, i] = sum(score / sum(scores) * h[b, i] for score, h in zip(scores, layers, strict=True))
    return mixed


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_mixture_is_the_equation_and_the_rest_of_the_model_reads_it(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    model.double()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    plain = copy.deepcopy(model)
    attention_fusion.attach(model)
    q = nn.init.normal_(model.attention_fusion.q, std=0.3).detach()
    with torch.no_grad():
        mixed = naive(q, states(plain, batch))
        blocks(plain)[-1].register_forward_hook(lambda *_: mixed)
        torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, rtol=1e-9, atol=1e-9)


def test_zero_query_takes_the_mean_of_the_layers(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    layers = states(copy.deepcopy(model), batch)
    attention_fusion.attach(model)
    seen: list[Tensor] = []
    model.bert.encoder.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    model(**batch)
    torch.testing.assert_close(seen[0], sum(layers) / len(layers))


def test_blocks_run_without_gradients_and_keep_no_state(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    attention_fusion.attach(model).train()
    recorded: list[bool] = []
    for _, module in model.named_modules():
        if isinstance(module, attention_fusion.Layer):
            module.base.register_forward_hook(lambda _, args, out: recorded.append(torch.is_grad_enabled()))
    model(**batch).loss.backward()
    assert recorded == [False, False]
    assert model.attention_fusion.states == []
    assert model.attention_fusion.q.grad.any()


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_head_trains_on_request_and_is_restored(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention_fusion.attach(model, attention_fusion.Config(train_head=True))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {"lm_head.weight"} if family == "llama" else {"classifier.weight", "classifier.bias"}
    assert trained == expected | {"attention_fusion.q"}
    with torch.no_grad():
        for name in trained:
            model.get_parameter(name).add_(1)
    restored = detach(model).state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("family", "reason"), [("t5", "has 2 stacks"), ("gpt2", "is its input embedding")])
def test_models_it_cannot_serve_are_refused(family: str, reason: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    with pytest.raises(ValueError, match=reason):
        attention_fusion.attach(model, attention_fusion.Config(train_head=True))
    assert all(p.requires_grad for p in model.parameters())
