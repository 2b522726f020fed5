"""SHiRA: the sparse change, its gradient and every kind of mask against naive computations in float64."""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import shira
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
RANK = 2


@pytest.fixture
def layer() -> shira.SHiRALinear:
    base = nn.Linear(12, 10).double().requires_grad_(False)
    layer = shira.SHiRALinear(base, RANK, "random", scale=0.7)
    nn.init.normal_(layer.v)
    return layer


def sparse(layer: shira.SHiRALinear) -> Tensor:
    """S, number by number."""
    change = torch.zeros(10, 12, dtype=torch.float64)
    for position, number in zip(layer.positions.tolist(), layer.v.tolist(), strict=True):
        change[position // 12, position % 12] = number
    return change


def test_forward_is_the_papers_equation(layer: shira.SHiRALinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    expected = x @ (layer.base.weight + 0.7 * sparse(layer)).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_dense_matrix(layer: shira.SHiRALinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 4, 10, dtype=torch.float64)
    dense = (layer.base.weight + 0.7 * sparse(layer)).detach().requires_grad_(True)
    to_x, to_dense = torch.autograd.grad((x @ dense.T * g).sum(), (x, dense))
    ours_x, ours_v = torch.autograd.grad((layer(x) * g).sum(), (x, layer.v))
    torch.testing.assert_close(ours_x, to_x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours_v, 0.7 * to_dense.flatten()[layer.positions], rtol=1e-12, atol=1e-12)


def test_merge_changes_no_output(layer: shira.SHiRALinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_change_is_of_higher_rank_than_a_lora_of_its_size(layer: shira.SHiRALinear) -> None:
    assert len(layer.v) == RANK * (12 + 10)
    assert torch.linalg.matrix_rank(sparse(layer)) > RANK


def test_no_tensor_of_the_weights_size_waits_for_the_backward_pass(
    layer: shira.SHiRALinear, monkeypatch: pytest.MonkeyPatch
) -> None:
    formed: list[weakref.ref[Tensor]] = []
    original = shira.SHiRALinear.changed

    def spy(self: shira.SHiRALinear) -> Tensor:
        changed = original(self)
        formed.append(weakref.ref(changed))
        return changed

    monkeypatch.setattr(shira.SHiRALinear, "changed", spy)
    loss = layer(torch.randn(3, 12, dtype=torch.float64)).sum()
    gc.collect()
    assert [matrix() for matrix in formed] == [None]
    loss.backward()
    assert len(formed) == 2, "formed again in the backward pass"
    assert layer.v.grad is not None
    assert layer.base.weight.grad is None


def kept(weight: Tensor, mask_type: str) -> Tensor:
    """The mask that a layer of this weight chooses."""
    base = nn.Linear(weight.shape[1], weight.shape[0])
    base.weight = nn.Parameter(weight)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[shira.SHiRALinear(base, RANK, mask_type, 1.0).positions.long()] = True
    return mask.view_as(weight)


def test_magnitude_mask_holds_the_largest_weights() -> None:
    weight = torch.randn(10, 12)
    mask = kept(weight, "magnitude")
    assert mask.sum() == 44
    assert weight[mask].abs().min() >= weight[~mask].abs().max()


def test_structured_mask_is_the_diagonal_and_evenly_spaced_rows_and_columns() -> None:
    mask = kept(torch.randn(10, 12), "structured")
    assert mask.sum() == 44
    lines = torch.zeros(10, 12, dtype=torch.bool)
    lines[[0, 5]] = lines[:, [0, 6]] = True
    assert mask.diagonal().all()
    assert not (mask & ~lines).fill_diagonal_(False).any(), "nothing outside the lines and the diagonal"
    assert (lines & ~mask).nonzero().tolist() == [[8, 6], [9, 0], [9, 6]], "of 47 entries the last three do not fit"


def test_random_masks_differ_from_layer_to_layer() -> None:
    weight = torch.randn(10, 12)
    assert not torch.equal(kept(weight, "random"), kept(weight, "random"))


@pytest.mark.parametrize("mask_type", ["gradient", "snip"])
def test_masks_from_data_hold_the_largest_scores(mask_type: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model = model.double()
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    for half in halves:
        model(**half).loss.backward()
    naive = {
        name: (p.grad * p if mask_type == "snip" else p.grad).detach().abs()
        for name, p in model.named_parameters()
        if name.endswith("proj.weight")
    }
    model.zero_grad()
    config = shira.Config(rank=RANK, mask_type=mask_type)
    adapted = shira.attach(model, config)
    shira.prepare(adapted, halves, config)
    for name, layer in instances(adapted, shira.SHiRALinear):
        score = naive[f"{name}.weight"].flatten()
        assert set(layer.positions.tolist()) == set(score.topk(len(layer.v)).indices.tolist())
        assert not layer.v.any()
    assert all(p.grad is None for p in adapted.parameters()), "the dense gradients are gone"
    assert [p for p in adapted.parameters() if p.requires_grad] == [
        layer.v for _, layer in instances(adapted, shira.SHiRALinear)
    ]


def test_prepare_keeps_a_mask_that_needs_no_data(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    config = shira.Config(rank=RANK)
    adapted = shira.attach(model, config)
    before = [layer.positions.clone() for _, layer in instances(adapted, shira.SHiRALinear)]
    shira.prepare(adapted, [batch], config)
    after = [layer.positions for _, layer in instances(adapted, shira.SHiRALinear)]
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_no_batch_is_refused(make_tiny: MakeTiny) -> None:
    config = shira.Config(rank=RANK, mask_type="snip")
    adapted = shira.attach(make_tiny("llama")[0], config)
    with pytest.raises(ValueError, match="no batch to measure the snip mask on"):
        shira.prepare(adapted, [], config)
    assert not any(layer.weight.requires_grad for _, layer in instances(adapted, shira.SHiRALinear))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (shira.Config(rank=0), "rank 0 makes 0 trained entries"),
        (shira.Config(rank=33), "rank 33 makes 4224 trained entries of a 64 x 64 matrix"),
        (shira.Config(rank=2, mask_type="largest"), "mask_type 'largest' is none of random"),
    ],
)
def test_impossible_masks_are_refused(config: shira.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=message):
        shira.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
