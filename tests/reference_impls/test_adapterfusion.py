"""AdapterFusion: attention over adapters, the pull on V, and the two stages, against naive sums in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import adapterfusion, pfeiffer_adapter
from reference_impls._site import instances
from reference_impls.ladder.base import load_base
from reference_impls.ladder.task import RUNGS, accuracy, exam, stream
from reference_impls.training.checkpoint import adapter_state, load_adapter

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
SMALL = adapterfusion.Config(n_tasks=3, source_steps=2, source_lr=1e-2)


def fused(**settings: object) -> adapterfusion.Fusion:
    """A fusion of three adapters of width 6, all numbers random."""
    fusion = adapterfusion.Fusion(torch.ones(6, dtype=torch.float64), adapterfusion.Config(3, 2, **settings))
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    return fusion.requires_grad_(False)


def answer(fusion: adapterfusion.Fusion, n: int, z: Tensor) -> Tensor:
    """What the n-th adapter gives for one token."""
    adapter = fusion.adapters[n]
    inner = [max(0.0, float(row @ z + bias)) for row, bias in zip(adapter.down.weight, adapter.down.bias, strict=True)]
    return adapter.up.weight @ torch.tensor(inner, dtype=torch.float64) + adapter.up.bias


def test_forward_is_the_papers_equation_token_by_token() -> None:
    fusion = fused()
    z = torch.randn(2, 4, 6, dtype=torch.float64)
    given = fusion(z)
    for b in range(2):
        for t in range(4):
            u = [answer(fusion, n, z[b, t]) for n in range(3)]
            scores = [math.exp((z[b, t] @ fusion.Q) @ (u[n] @ fusion.K)) for n in range(3)]
            expected = sum(scores[n] / sum(scores) * (u[n] @ fusion.V) for n in range(3))
            torch.testing.assert_close(given[b, t], expected, rtol=1e-9, atol=1e-9)


def test_pull_is_the_squared_distance_of_v_from_the_identity() -> None:
    fusion = fused(penalty=0.3)
    expected = sum((fusion.V[i, j] - (1.0 if i == j else 0.0)) ** 2 for i in range(6) for j in range(6))
    torch.testing.assert_close(fusion.pull(), 0.3 * expected, rtol=1e-12, atol=1e-12)


def test_loss_is_the_models_own_plus_every_pull(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    randomise(adapterfusion.attach(model.double(), SMALL))
    pulls = sum(fusion.pull() for _, fusion in instances(model, adapterfusion.Fusion))
    assert pulls > 0.1
    torch.testing.assert_close(adapterfusion.loss(model, batch), model(**batch).loss + pulls, rtol=1e-9, atol=1e-9)


def test_value_starts_as_the_identity_and_the_mixture_as_the_mean_of_like_answers() -> None:
    fusion = adapterfusion.Fusion(torch.ones(400), adapterfusion.Config(n_tasks=2))
    assert (fusion.V - torch.eye(400)).abs().max() < 1e-5
    assert 0.0195 < fusion.Q.std() < 0.0205
    assert 0.0195 < fusion.K.std() < 0.0205
    assert not any(p.requires_grad for p in fusion.adapters.parameters())


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_each_source_adapter_trains_alone_as_pfeiffers_adapter_does(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    other = {name: value.flip(0) for name, value in batch.items()}
    batches = [batch, {k: v[:2] for k, v in other.items()}, {k: v[2:] for k, v in batch.items()}]
    fused_model = adapterfusion.attach(model, SMALL)
    starts = {name: tensor.clone() for name, tensor in adapter_state(fused_model).items()}
    adapterfusion.prepare(fused_model, batches, SMALL)
    after = adapter_state(fused_model)
    for task in range(3):
        single, _ = make_tiny(family)
        pfeiffer_adapter.attach(single)
        own = {name: name.replace(".adapter.", f".adapter.adapters.{task}.") for name in adapter_state(single)}
        load_adapter(single, {mine: starts[theirs] for mine, theirs in own.items()})
        parameters = [p for p in single.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
        for _ in range(2):
            optimizer.zero_grad()
            single(**batches[task]).loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        for mine, theirs in own.items():
            torch.testing.assert_close(after[theirs], adapter_state(single)[mine], rtol=1e-4, atol=1e-6)
            assert not torch.equal(after[theirs], starts[theirs])


def test_second_stage_trains_the_fusion_and_nothing_else(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapterfusion.attach(model, SMALL)
    adapterfusion.prepare(model, [batch], SMALL)
    assert {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad} == {"Q", "K", "V"}
    assert all(p.grad is None for p in model.parameters())
    assert all(fusion.alone is None for _, fusion in instances(model, adapterfusion.Fusion))


def test_batches_go_to_the_tasks_in_turn() -> None:
    """Two source tasks of the ladder, handed over alternately: each adapter learns its own and not the other's."""
    config = adapterfusion.Config(n_tasks=2, reduction=4, source_steps=40, source_lr=2e-2)
    tasks = [RUNGS["rename"], RUNGS["composition"]]
    streams = [stream(task, 16, seed=0) for task in tasks]
    model = adapterfusion.attach(load_base(), config)
    adapterfusion.prepare(model, [next(each) for _ in range(20) for each in streams], config)
    scores = {}
    for n in range(2):
        for _, fusion in instances(model, adapterfusion.Fusion):
            fusion.alone = n
        scores[n] = [accuracy(model, exam(task, 64)).token for task in tasks]
    assert scores[0][0] > scores[1][0] + 0.2
    assert scores[1][1] > scores[0][1] + 0.05


@pytest.mark.parametrize(
    "config", [adapterfusion.Config(n_tasks=0), adapterfusion.Config(reduction=0), adapterfusion.Config(reduction=65)]
)
def test_missing_and_empty_adapters_are_refused(config: adapterfusion.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=r"at least 1|bottleneck of 0"):
        adapterfusion.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())


def test_first_stage_without_data_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    adapterfusion.attach(model, SMALL)
    with pytest.raises(ValueError, match="no batch"):
        adapterfusion.prepare(model, [], SMALL)
