"""FAR: the split against the layer that was, scores against priming written out, and what is stored, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import far
from reference_impls._surgery import adapter_state, detach, instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
FAMILY = "bert"
FAST = far.Config(retention=0.3, priming_lr=1e-3)


def halves(batch: Batch) -> list[Batch]:
    return [{k: v[part] for k, v in batch.items()} for part in (slice(0, 2), slice(2, 4))]


def feed_forward(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and name.endswith(("intermediate.dense", "output.dense"))
        and "attention" not in name
    }


@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_the_papers_equation(bias: bool) -> None:
    layer = far.FARLinear(nn.Linear(6, 10, bias=bias).double(), FAST)
    layer.learning.copy_(torch.tensor([1, 4, 9]))
    layer.fill(layer.W_f, layer.b_f)
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    outputs: list[Tensor] = []
    learning, resting = iter(range(3)), iter(range(7))
    for j in range(10):
        part, row, b = ("t", next(learning), layer.b_t) if j in (1, 4, 9) else ("f", next(resting), layer.b_f)
        w = getattr(layer, f"W_{part}")[row]
        outputs.append(torch.einsum("bti,i->bt", x, w) + (b[row] if bias else 0))
    torch.testing.assert_close(layer(x), torch.stack(outputs, dim=-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.merged()(x), layer(x), rtol=1e-12, atol=1e-12)


def test_priming_scores_rows_by_how_far_full_steps_move_them(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    layers = feed_forward(model.double())
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    moments = {name: [torch.zeros_like(w), torch.zeros_like(w)] for name, w in before.items()}
    for t, part in enumerate(halves(batch), start=1):  # Adam, written out
        model.zero_grad()
        model(**part).loss.backward()
        with torch.no_grad():
            for name, layer in layers.items():
                m, v = moments[name]
                m.mul_(0.9).add_(0.1 * layer.weight.grad)
                v.mul_(0.999).add_(0.001 * layer.weight.grad**2)
                layer.weight -= 1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    chosen = {
        name: torch.stack([row.abs().sum() for row in layer.weight.detach() - before[name]]).argsort()
        for name, layer in layers.items()
    }
    model, _ = make_tiny(FAMILY)
    attached = far.attach(model.double(), FAST)
    far.prepare(attached, halves(batch), FAST)
    split = dict(instances(attached, far.FARLinear))
    assert split.keys() == chosen.keys()
    for name, layer in split.items():
        k = round(0.3 * layer.out_features)
        assert set(layer.learning.tolist()) == set(chosen[name][-k:].tolist())


def test_all_rows_return_to_where_they_were_and_only_the_chosen_learn(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    before = model.double()(**batch).logits
    attached = far.attach(model, FAST)
    far.prepare(attached, halves(batch), FAST)
    torch.testing.assert_close(attached(**batch).logits, before, rtol=1e-12, atol=1e-12)
    assert {name.rpartition(".")[2] for name, p in attached.named_parameters() if p.requires_grad} == {"W_t"}
    assert all(p.grad is None for p in attached.parameters())


def test_gradient_of_the_learning_rows_is_that_of_the_whole_matrix(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    model.double()(**batch).loss.backward()
    dense = {name: layer.weight.grad.clone() for name, layer in feed_forward(model).items()}
    model.zero_grad()
    attached = far.attach(model, FAST)
    attached(**batch).loss.backward()
    for name, layer in instances(attached, far.FARLinear):
        torch.testing.assert_close(layer.W_t.grad, dense[name][layer.learning], rtol=1e-9, atol=1e-12)
        assert layer.W_f.grad is None


def test_merge_moves_the_learning_rows_and_no_other(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(FAMILY)
    before = {name: layer.weight.detach().clone() for name, layer in feed_forward(model).items()}
    attached = far.attach(model, FAST)
    far.prepare(attached, halves(batch), FAST)
    learning = {name: set(layer.learning.tolist()) for name, layer in instances(randomise(attached), far.FARLinear)}
    for name, layer in feed_forward(far.merge(attached)).items():
        moved = (layer.weight != before[name]).any(dim=1).nonzero().flatten().tolist()
        assert set(moved) == learning[name]


def test_file_holds_the_learning_rows_and_their_numbers(make_tiny: MakeTiny) -> None:
    for train_biases in (False, True):
        model, _ = make_tiny(FAMILY)
        state = adapter_state(far.attach(model, far.Config(train_biases=train_biases)))
        expected = {"W_t", "learning"} | ({"b_t"} if train_biases else set())
        assert {name.rpartition(".")[2] for name in state} == expected
        detach(model)


@pytest.mark.parametrize("retention", [0.0, 0.001, 1.2])
def test_impossible_retention_is_refused(retention: float, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(FAMILY)
    with pytest.raises(ValueError, match=f"retention of {retention}"):
        far.attach(model, far.Config(retention=retention))
    assert all(p.requires_grad for p in model.parameters())


def test_priming_without_a_batch_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(FAMILY)
    with pytest.raises(ValueError, match="no batch"):
        far.prepare(far.attach(model), [])
