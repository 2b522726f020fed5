"""Sparse LoRA: the masked change and the choice of its entries against naive computations in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import sparse_lora
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
RANK, SHARE = 3, 0.4


@pytest.fixture
def layer() -> sparse_lora.SparseLoRALinear:
    layer = sparse_lora.SparseLoRALinear(nn.Linear(6, 5).double(), RANK, alpha=12.0, sparsity=SHARE)
    nn.init.normal_(layer.v)
    return layer


def masked(layer: sparse_lora.SparseLoRALinear) -> tuple[Tensor, Tensor]:
    """A and B with zeros where the mask is zero, number by number."""
    A, B = torch.zeros(RANK, 6, dtype=torch.float64), torch.zeros(5, RANK, dtype=torch.float64)
    for position, number in zip(layer.positions.tolist(), layer.v.tolist(), strict=True):
        if position < RANK * 6:
            A[position // 6, position % 6] = number
        else:
            B[(position - RANK * 6) // RANK, (position - RANK * 6) % RANK] = number
    return A, B


def test_forward_is_the_equation(layer: sparse_lora.SparseLoRALinear) -> None:
    A, B = masked(layer)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = x @ (layer.base.weight + 12.0 / RANK * B @ A).T + layer.base.bias
    assert A.any()
    assert B.any()
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_gradient_is_the_dense_one_at_the_kept_entries(layer: sparse_lora.SparseLoRALinear) -> None:
    A, B = (factor.requires_grad_(True) for factor in masked(layer))
    x, g = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    dense = torch.cat([d.flatten() for d in torch.autograd.grad((x @ A.T @ B.T * g).sum() * 12.0 / RANK, (A, B))])
    (ours,) = torch.autograd.grad((layer(x) * g).sum(), layer.v)
    torch.testing.assert_close(ours, dense[layer.positions], rtol=1e-11, atol=1e-12)


def test_merge_changes_no_output(layer: sparse_lora.SparseLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_kept_entries_are_as_many_as_the_sparsity_leaves(layer: sparse_lora.SparseLoRALinear) -> None:
    assert len(layer.v) == int((1 - SHARE) * RANK * 11) == 19
    assert len(set(layer.positions.tolist())) == 19


def test_snips_score_is_zero_everywhere_at_loras_start() -> None:
    """Why the scores are taken at another start."""
    layer = sparse_lora.SparseLoRALinear(nn.Linear(6, 5), RANK, 1.0, 0.0)
    layer.dense = layer.start(0.0).requires_grad_(True)
    (gradient,) = torch.autograd.grad(layer(torch.randn(4, 6)).square().sum(), layer.dense)
    assert gradient.any()
    assert not (gradient * layer.dense).any()


def test_mask_holds_the_most_salient_entries_of_each_layer(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make_tiny("bert")
    config = sparse_lora.Config(rank=RANK, alpha=RANK)
    adapted = sparse_lora.attach(model.double(), config).eval()
    drawn: list[Tensor] = []
    original = sparse_lora.SparseLoRALinear.start

    def record(self: sparse_lora.SparseLoRALinear, std: float) -> Tensor:
        start = original(self, std)
        if std:
            drawn.append(start.detach().clone())
        return start

    monkeypatch.setattr(sparse_lora.SparseLoRALinear, "start", record)
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    sparse_lora.prepare(adapted, halves, config)
    layers = dict(instances(adapted, sparse_lora.SparseLoRALinear))
    base, _ = make_tiny("bert")
    base = base.double()
    gradients: dict[str, Tensor] = {}
    weights = {}
    with torch.no_grad():
        for (name, layer), start in zip(layers.items(), drawn, strict=True):
            A, B = start[: RANK * 64].view(RANK, 64), start[RANK * 64 :].view(64, RANK)
            assert B.std().item() == pytest.approx(0.02, rel=0.2)
            weights[name] = (A, B, layer)
            base.get_submodule(name).weight += B @ A  # alpha = rank: the scale is 1
    for half in halves:
        base(**half).loss.backward()
    for name, (A, B, layer) in weights.items():
        G = base.get_submodule(name).weight.grad
        gradients[name] = torch.cat([(A * (B.T @ G)).flatten(), (B * (G @ A.T)).flatten()]).abs()
        best = gradients[name].topk(len(layer.v)).indices
        assert set(layer.positions.tolist()) == set(best.tolist())
        in_A = layer.positions < RANK * 64
        assert not layer.v[~in_A].any(), "what is kept of B is zero again"
        assert layer.v[in_A].abs().min() > 0
        assert 0 < in_A.sum() < len(layer.v), "both matrices are pruned"
        assert layer.dense is None


def test_choosing_again_starts_again_from_the_base(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    before = model(**batch).logits
    adapted = sparse_lora.attach(model)
    for _, layer in instances(adapted, sparse_lora.SparseLoRALinear):
        nn.init.normal_(layer.v)
    assert not torch.equal(adapted(**batch).logits, before)
    sparse_lora.prepare(adapted, [batch])
    assert torch.equal(adapted(**batch).logits, before)


def test_optimizer_keeps_only_as_many_states_as_entries(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    adapted = sparse_lora.attach(model)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    adapted(**batch).loss.backward()
    optimizer.step()
    kept = int(0.6 * 16 * 128)
    assert [p.numel() for p in trained] == [kept] * 4
    assert [t.numel() for state in optimizer.state.values() for t in state.values() if t.dim()] == [kept] * 8


def test_no_batch_is_refused(make_tiny: MakeTiny) -> None:
    adapted = sparse_lora.attach(make_tiny("bert")[0])
    with pytest.raises(ValueError, match="no batch"):
        sparse_lora.prepare(adapted, [])
    assert all(layer.dense is None for _, layer in instances(adapted, sparse_lora.SparseLoRALinear))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (sparse_lora.Config(sparsity=1.0), "sparsity of 1.0 is not between 0 and 1"),
        (sparse_lora.Config(sparsity=-0.1), "sparsity of -0.1 is not between 0 and 1"),
        (sparse_lora.Config(sparsity=0.9999), "sparsity 0.9999 leaves nothing of rank 16"),
        (sparse_lora.Config(rank=65), "rank 65 does not fit a 64 x 64 matrix"),
    ],
)
def test_impossible_shares_are_refused(config: sparse_lora.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    with pytest.raises(ValueError, match=message):
        sparse_lora.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
