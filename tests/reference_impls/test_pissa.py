"""PiSSA: the start against the singular values, the layer against the paper's equation in float64, and the way back."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import pissa
from reference_impls._site import instances
from reference_impls._surgery import detach
from reference_impls.training.checkpoint import adapter_state

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
SCALE = 12.0 / 3


@pytest.fixture
def layer() -> pissa.ShiftedLoRALinear:
    return next(iter(pissa.attach(nn.Sequential(nn.Linear(6, 5).double()), pissa.Config(3, 12.0, "0")).children()))


def test_pair_starts_as_the_leading_singular_triplets(layer: pissa.ShiftedLoRALinear) -> None:
    values = torch.linalg.eigvalsh(layer.weight @ layer.weight.T).flip(0).sqrt()  # without any SVD
    remainder = layer.weight - SCALE * layer.B @ layer.A
    left = torch.linalg.eigvalsh(remainder @ remainder.T).flip(0).clamp(min=0).sqrt()
    torch.testing.assert_close(left[:2], values[3:], rtol=1e-9, atol=1e-9)
    assert left[2:].max() < 1e-7
    balanced = (layer.B.norm(dim=0), layer.A.norm(dim=1), (values[:3] / SCALE).sqrt())
    torch.testing.assert_close(balanced[0], balanced[2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(balanced[1], balanced[2], rtol=1e-9, atol=1e-9)


def test_start_leaves_the_output_exactly(layer: pissa.ShiftedLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    assert torch.equal(layer(x), layer.base(x))


def test_forward_is_the_papers_equation(layer: pissa.ShiftedLoRALinear) -> None:
    x, weight, bias = torch.randn(2, 4, 6, dtype=torch.float64), layer.base.weight, layer.base.bias
    U, S, Vt = torch.linalg.svd(weight)
    remainder = U[:, 3:] @ torch.diag(S[3:]) @ Vt[3:5]
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    expected = torch.einsum("bti,oi->bto", x, remainder + SCALE * layer.B @ layer.A) + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-10, atol=1e-10)


def test_change_of_the_weight_has_rank_2r() -> None:
    layer = next(iter(pissa.attach(nn.Sequential(nn.Linear(20, 30)), pissa.Config(3, 3.0, "0")).children()))
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    before = layer.weight.clone()
    assert torch.linalg.matrix_rank(layer.merged().weight - before, rtol=1e-5) == 6


def test_randomised_decomposition_is_close_to_the_exact_one() -> None:
    weight = torch.randn(40, 8) @ torch.randn(8, 30) + 0.01 * torch.randn(40, 30)
    (A, B), (A_fast, B_fast) = (pissa.leading(weight, 8, iterations) for iterations in (0, 8))
    torch.testing.assert_close(B_fast @ A_fast, B @ A, rtol=1e-3, atol=1e-3)


def test_detach_restores_the_weights_to_the_bit_even_in_bf16(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    model = model.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = randomise(pissa.attach(model, pissa.Config(rank=8, alpha=8.0)))
    adapted(**batch).loss.backward()
    after = detach(adapted).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_file_holds_both_pairs_and_no_weight(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    state = adapter_state(pissa.attach(model, pissa.Config(rank=8, alpha=8.0)))
    assert {name.rpartition(".")[2] for name in state} == {"A", "B", "A0", "B0"}
    layers = [layer for _, layer in instances(model, pissa.ShiftedLoRALinear)]
    assert sum(t.numel() for t in state.values()) == sum(2 * 8 * (m.in_features + m.out_features) for m in layers)


def test_rank_beyond_a_matrix_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="rank 128 does not fit"):
        pissa.attach(model)
    assert all(p.requires_grad for p in model.parameters())
