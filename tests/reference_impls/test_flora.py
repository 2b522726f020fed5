"""fLoRA against its equation, in float64, and a batch of different adapters against each adapter by itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import flora
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_multiplies_the_weight_entry_by_entry(rank: int, bias: bool) -> None:
    base = nn.Linear(7, 5, bias=bias).double()
    layer = flora.FLoRALinear(base, rank)
    for parameter in (layer.A, layer.B):
        nn.init.normal_(parameter)
    weight = torch.empty(5, 7, dtype=torch.float64)
    for o in range(5):
        for i in range(7):
            weight[o, i] = base.weight[o, i] * sum(layer.B[o, j] * layer.A[j, i] for j in range(rank)) / rank
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    expected = x @ weight.T + (base.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.merged().weight, weight, rtol=1e-12, atol=1e-12)


def test_change_may_have_full_rank_at_rank_one() -> None:
    base = nn.Linear(6, 6)
    before = base.weight.detach().clone()
    layer = flora.FLoRALinear(base, 1)
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    assert torch.linalg.matrix_rank(layer.merged().weight - before) == 6


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_mixed_batch_equals_each_adapter_by_itself(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    adapters, alone = [], []
    for _ in range(3):
        model, batch = make_tiny(family)
        flora.attach(model, flora.Config(rank=2))
        randomise(model)
        adapters.append({name: tensor.clone() for name, tensor in adapter_state(model).items()})
        alone.append(model(**batch).logits)
    plain = model(**batch).logits
    which = [2, 0, 1, 2]
    with flora.mixed(model, adapters, which):
        logits = model(**batch).logits
    expected = torch.stack([alone[task][row] for row, task in enumerate(which)])
    assert (expected - plain).abs().max() > 1e-3, "the adapters are alike: the test would be blind"
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(**batch).logits, plain), "outside, the model has its own adapter again"


def test_gradients_of_a_mixed_batch_reach_each_adapter_from_its_rows_only(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    flora.attach(model)
    adapters = [{name: t.clone().requires_grad_() for name, t in adapter_state(model).items()} for _ in range(3)]
    with flora.mixed(model, adapters, [0, 1, 1, 0]):
        model(**batch).loss.backward()
    reached = [any(t.grad is not None and t.grad.abs().max() > 0 for t in one.values()) for one in adapters]
    assert reached == [True, True, False]


def test_columns_differ_at_higher_rank_and_their_mean_is_one() -> None:
    layer = flora.FLoRALinear(nn.Linear(40, 30), 4)
    torch.testing.assert_close(layer.B @ layer.A / 4, torch.ones(30, 40))
    assert (layer.B - 1).std() > 0.05
    assert torch.equal(flora.FLoRALinear(nn.Linear(40, 30), 1).B, torch.ones(30, 1))


def test_adapters_that_do_not_fit_are_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    state = adapter_state(flora.attach(model))
    with (
        pytest.raises(ValueError, match=r"1 adapters, rows that ask for \[0, 1\]"),
        flora.mixed(model, [state], [0, 1]),
    ):
        pass
    name = next(iter(state))
    lacking = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ValueError, match=name), flora.mixed(model, [lacking], [0]):
        pass


@pytest.mark.parametrize("rank", [0, 65])
def test_impossible_rank_is_refused(rank: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=f"rank {rank} does not fit"):
        flora.attach(model, flora.Config(rank=rank))
    assert all(p.requires_grad for p in model.parameters())
