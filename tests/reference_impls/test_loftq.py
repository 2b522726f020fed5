"""LoftQ: its rounds against PEFT's on the same matrix and against a plain search; what starts, trains and is saved."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reference_impls import loftq, qlora
from reference_impls._surgery import detach
from reference_impls.parts.nf4 import NORMAL, NF4Linear
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
THEIRS = load_file(Path(__file__).with_name("nf4_fixture.safetensors"))
SMALL = loftq.Config(rank=8)


def layer_of(weight: Tensor, config: loftq.Config) -> loftq.LoftQLinear:
    base = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    base.weight = nn.Parameter(weight.clone())
    return loftq.LoftQLinear(base, config)


def rounded(W: Tensor) -> Tensor:
    """NF4 of a matrix whose rows are blocks, number by number."""
    levels = torch.tensor(NORMAL, dtype=W.dtype)
    rows = []
    for row in W:
        largest = row.abs().max()
        nearest = [(levels - number / largest).abs().argmin() for number in row]
        rows.append(largest * levels[torch.stack(nearest)])
    return torch.stack(rows)


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_those_of_the_paper(rounds: int) -> None:
    W = torch.randn(10, 64)
    layer = layer_of(W, loftq.Config(rank=3, rounds=rounds))
    product = torch.zeros_like(W, dtype=torch.float64)
    for _ in range(rounds):
        Q = rounded(W.double() - product)
        vectors = torch.linalg.eigh((W - Q).T @ (W - Q)).eigenvectors[:, -3:]  # the leading right singular vectors
        product = (W - Q) @ vectors @ vectors.T
    torch.testing.assert_close(layer.weight.double(), Q, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((layer.B @ layer.A).double(), product, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 5])
def test_start_is_that_of_peft(rounds: int) -> None:
    Q, A, B = (THEIRS[f"loftq.{rounds}.{name}"] for name in "QAB")
    layer = layer_of(THEIRS["loftq.weight"], loftq.Config(rank=8, rounds=rounds))
    torch.testing.assert_close(layer.weight, Q, rtol=1e-4, atol=1e-6)
    sign = (layer.A * A).sum(1).sign()[:, None]  # a pair of singular vectors is known up to a common sign
    torch.testing.assert_close(sign * layer.A, A, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layer.B * sign.T, B, rtol=1e-3, atol=1e-5)


def test_forward_is_the_papers_equation() -> None:
    layer = layer_of(torch.randn(5, 6, dtype=torch.float64), loftq.Config(rank=3))
    Q = layer.weight
    for p in (layer.A, layer.B):
        nn.init.normal_(p)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = x @ Q.T + layer.bias + torch.einsum("bti,ri,or->bto", x, layer.A, layer.B)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_each_factor_takes_the_roots_of_the_singular_values() -> None:
    layer = layer_of(torch.randn(24, 32), loftq.Config(rank=4))
    torch.testing.assert_close(layer.A.square().sum(1), layer.B.square().sum(0), rtol=1e-4, atol=1e-6)
    gram = layer.B.T @ layer.B
    torch.testing.assert_close(gram, gram.diag().diag(), rtol=0, atol=1e-5)


def test_start_is_nearer_to_the_model_than_that_of_qlora_and_more_rounds_are_nearer() -> None:
    W = torch.randn(64, 64)
    plain = qlora.QLoRALinear(qlora.pack(nn.Linear(64, 64), 64), 8, 8)
    plain.base = NF4Linear(plain.base, loftq.quantise(W, double=False))
    distances = [(plain.weight - W).norm()]
    for rounds in (1, 5):
        layer = layer_of(W, loftq.Config(rank=8, rounds=rounds))
        distances.append((layer.weight + layer.B @ layer.A - W).norm())
    assert distances[0] > distances[1] > distances[2]


def test_full_rank_loses_nothing() -> None:
    W = torch.randn(12, 64)
    layer = layer_of(W, loftq.Config(rank=12, rounds=1))
    torch.testing.assert_close(layer.merged().weight, W, rtol=1e-5, atol=1e-5)


def test_file_of_the_adapter_holds_the_matrix_that_was_made_with_it(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    attached = loftq.attach(model, SMALL)
    leaves = {name.rpartition(".")[2] for name in adapter_state(attached)}
    assert leaves == {"A", "B", "codes", "absmax", "scales", "offset"}
    assert {name.rpartition(".")[2] for name, p in attached.named_parameters() if p.requires_grad} == {"A", "B"}


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_rounds_are_refused(rounds: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=f"{rounds} rounds"):
        loftq.attach(model, loftq.Config(rank=4, rounds=rounds))
    assert all(p.requires_grad for p in model.parameters())


def test_model_that_is_rounded_already_is_refused_and_left_as_it_was(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model.model.layers[1].mlp.up_proj = qlora.pack(model.model.layers[1].mlp.up_proj, 64)
    before = model(**batch).logits
    with pytest.raises(ValueError, match="few bits cannot be packed again"):
        loftq.attach(model, SMALL)
    assert torch.equal(model(**batch).logits, before)
    assert torch.equal(detach(qlora.attach(model, qlora.Config(rank=4)))(**batch).logits, before)
