"""DyLoRA against its equation at every rank, in float64, and how the rank of a step is drawn."""

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import dylora
from reference_impls._site import instances
from reference_impls.training.loop import train

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


def make(frozen: bool) -> dylora.DyLoRALinear:
    layer = dylora.DyLoRALinear(nn.Linear(6, 5).double().requires_grad_(False), 4, 12.0, frozen).double()
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    return layer


def expected(layer: dylora.DyLoRALinear, x: Tensor, k: int) -> Tensor:
    y = x @ layer.base.weight.T + layer.base.bias
    for i in range(k):
        y = y + 12.0 / k * (x @ layer.A[i])[..., None] * layer.B[:, i]
    return y


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_forward_is_the_papers_equation(k: int, frozen: bool) -> None:
    layer, x = make(frozen), torch.randn(2, 3, 6, dtype=torch.float64)
    layer.drawn = torch.tensor(k)
    torch.testing.assert_close(layer.train()(x), expected(layer, x, k), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.eval()(x), expected(layer, x, 4), rtol=1e-12, atol=1e-12)
    layer.kept = k
    torch.testing.assert_close(layer(x), expected(layer, x, k), rtol=1e-12, atol=1e-12)
    merged = copy.deepcopy(layer).merged()
    torch.testing.assert_close(merged(x), expected(layer, x, k), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_frozen_variant_trains_the_last_direction_alone(k: int) -> None:
    x, gradients = torch.randn(7, 6, dtype=torch.float64), []
    for frozen in (True, False):
        torch.manual_seed(1)
        layer = make(frozen).train()
        layer.drawn = torch.tensor(k)
        layer(x).square().sum().backward()
        gradients.append((layer.A.grad.abs().sum(1) > 0, layer.B.grad.abs().sum(0) > 0, layer.A.grad[k - 1]))
    only_last = [i == k - 1 for i in range(4)]
    up_to_k = [i < k for i in range(4)]
    assert gradients[0][0].tolist() == gradients[0][1].tolist() == only_last
    assert gradients[1][0].tolist() == gradients[1][1].tolist() == up_to_k
    torch.testing.assert_close(gradients[0][2], gradients[1][2])


def test_each_step_draws_one_rank_for_all_layers_uniformly(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapted = dylora.attach(model, dylora.Config(rank=4)).train()
    layers = [layer for _, layer in instances(adapted, dylora.DyLoRALinear)]
    seen: Counter[int] = Counter()
    short = {name: tensor[:1, :2] for name, tensor in batch.items()}
    with torch.no_grad():
        for _ in range(200):
            dylora.loss(adapted, short)
            (k,) = {int(layer.drawn) for layer in layers}
            seen[k] += 1
    assert set(seen) == {1, 2, 3, 4}
    assert all(25 <= count <= 75 for count in seen.values())  # 50 ± 4 deviations


def test_every_rank_has_learned(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    config = dylora.Config(rank=4, frozen=False)
    adapted = dylora.attach(model, config)
    start = adapted(**batch).loss.item()
    train(adapted, dylora, config, iter([batch] * 60), lr=1e-2, steps=60)
    after = []
    for k in (1, 2, 3, 4):
        dylora.truncate(adapted, k)
        after.append(adapted(**batch).loss.item())
    assert max(after) < start - 0.5, (start, after)


def test_merge_keeps_the_rank_that_was_chosen(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    weight = model.bert.encoder.layer[0].attention.self.query.weight.detach().clone()
    adapted = randomise(dylora.attach(model))
    dylora.truncate(adapted, 3)
    before = adapted(**batch).logits
    merged = dylora.merge(adapted)
    torch.testing.assert_close(merged(**batch).logits, before, rtol=1e-4, atol=1e-5)
    change = merged.bert.encoder.layer[0].attention.self.query.weight - weight
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 3


@pytest.mark.parametrize("rank", [0, 9])
def test_rank_that_was_not_trained_is_refused(rank: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    adapted = dylora.attach(model)
    with pytest.raises(ValueError, match=f"ranks 1 to 8, not for {rank}"):
        dylora.truncate(adapted, rank)
