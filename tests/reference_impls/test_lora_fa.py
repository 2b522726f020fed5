"""LoRA-FA against its equations, in float64: the layer, the gradient correction, and what is kept for the backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import lora, lora_fa
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]


@pytest.fixture
def layer() -> lora_fa.LoRAFALinear:
    layer = lora_fa.LoRAFALinear(nn.Linear(6, 5).double().requires_grad_(False), rank=3, alpha=12.0).double()
    with torch.no_grad():
        layer.A.normal_()
        layer.B.normal_()
    return layer


def test_forward_is_the_papers_equation(layer: lora_fa.LoRAFALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    change = torch.einsum("or,ri->oi", layer.B, layer.A) * 12.0 / 3
    expected = torch.einsum("bti,oi->bto", x, layer.base.weight + change) + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_only_b_trains(layer: lora_fa.LoRAFALinear) -> None:
    layer(torch.randn(4, 6, dtype=torch.float64)).sum().backward()
    assert layer.A.grad is None
    assert layer.B.grad is not None


def test_corrected_step_is_the_nearest_to_the_full_gradient(layer: lora_fa.LoRAFALinear) -> None:
    """Of all steps Δ in B, the corrected gradient brings s Δ A closest to the gradient of the whole weight."""
    x, direction = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    (layer(x) * direction).sum().backward()
    full = direction.T @ x  # ∂L/∂W for L = Σ direction · y
    nearest = torch.linalg.lstsq(4.0 * layer.A.T, full.T).solution.T  # Δ (5, 3) of min ‖s Δ A − full‖
    assert not torch.allclose(layer.B.grad, nearest, rtol=1e-2)
    layer.correct()
    torch.testing.assert_close(layer.B.grad, nearest, rtol=1e-4, atol=1e-5)  # it is solved in float32


@pytest.mark.parametrize("correct", [True, False])
def test_optimizer_corrects_before_it_steps(correct: bool, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    config = lora_fa.Config(correct=correct)
    adapted = lora_fa.attach(model, config)
    adapted(**batch).loss.backward()
    expected = {}
    for name, layer in instances(adapted, lora_fa.LoRAFALinear):
        inverse = torch.linalg.inv(layer.A.double() @ layer.A.T.double())
        expected[name] = layer.B.grad.double() @ inverse if correct else layer.B.grad.double()  # s = 1
    lora_fa.optimizer(adapted, 1e-3, config).step()
    for name, layer in instances(adapted, lora_fa.LoRAFALinear):
        torch.testing.assert_close(layer.B.grad.double(), expected[name], rtol=1e-3, atol=1e-7)
        assert layer.B.abs().max() > 1e-4


def kept_widths(layer: nn.Module, x: Tensor) -> set[int]:
    """Last dimension of every tensor that a forward pass keeps for the backward, parameters left out."""
    shapes: set[int] = set()
    own = {p.data_ptr() for p in layer.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own and tensor.numel():
            shapes.add(tensor.shape[-1])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return shapes


def test_rank_numbers_per_token_are_kept_instead_of_the_whole_input() -> None:
    x = torch.randn(4, 40, requires_grad=True)
    for kind, expected in ((lora.LoRALinear, {40, 3}), (lora_fa.LoRAFALinear, {3})):
        base = nn.Linear(40, 50).requires_grad_(False)
        assert kept_widths(kind(base, rank=3, alpha=3.0), x) == expected
