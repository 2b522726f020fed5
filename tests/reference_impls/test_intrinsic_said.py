"""Intrinsic SAID: the fast transform against dense matrices in float64, and the change of every tensor."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reference_impls import intrinsic_said
from reference_impls._site import instances
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
CONFIG = intrinsic_said.Config(intrinsic_dimension=300)


def walsh(n: int) -> Tensor:
    """H (n, n) from its definition: the entry is −1 to the number of ones that row and column share in binary."""
    return torch.tensor([[(-1.0) ** (row & column).bit_count() for column in range(n)] for row in range(n)]).double()


def transform(d: int, size: int, seed: int = 3) -> intrinsic_said.Fastfood:
    generator = torch.Generator().manual_seed(seed)
    return intrinsic_said.Fastfood(d, size, generator, torch.empty(0, dtype=torch.float64))


def dense(fast: intrinsic_said.Fastfood, d: int, n: int) -> Tensor:
    """P (size, d) as the product of its factors, block under block."""
    H, blocks = walsh(n), []
    for block in range(len(fast.gauss)):
        S = torch.zeros(n, d, dtype=torch.float64)
        for i in range(d):
            S[i, i] = fast.signs[block, i]
        permutation = torch.zeros(n, n, dtype=torch.float64)
        for row, source in enumerate(fast.order[block].tolist()):
            permutation[row, source - block * n] = 1
        blocks.append(H @ torch.diag(fast.gauss[block]) @ permutation @ H @ S)
    return torch.cat(blocks)[: fast.size] / math.sqrt(n * fast.size)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_hadamard_is_the_walsh_matrix_and_its_own_transpose(n: int) -> None:
    x = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
    out = intrinsic_said.Hadamard.apply(x)
    torch.testing.assert_close(out, x @ walsh(n))
    g = torch.randn_like(x)
    torch.testing.assert_close(torch.autograd.grad(out, x, g)[0], g @ walsh(n).T)


@pytest.mark.parametrize(("d", "size"), [(5, 37), (8, 16), (8, 3), (1, 4), (9, 1)])
def test_fastfood_is_the_product_of_its_dense_factors(d: int, size: int) -> None:
    fast, n = transform(d, size), 1 << math.ceil(math.log2(d))
    v = torch.randn(d, dtype=torch.float64, requires_grad=True)
    P = dense(fast, d, n)
    torch.testing.assert_close(fast(v), P @ v)
    g = torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(fast(v), v, g)[0], P.T @ g)


def test_factors_are_signs_permutations_and_gaussians() -> None:
    fast = transform(200, 20_000)
    assert set(fast.signs.unique().tolist()) == {-1, 1}
    assert fast.signs.double().mean().abs() < 0.05
    assert torch.equal(fast.order.sort(dim=1).values.flatten(), torch.arange(fast.order.numel()).int())
    assert not torch.equal(fast.order[0], fast.order[1] - 256), "every block has a permutation of its own"
    standard = fast.gauss.flatten()
    assert standard.square().mean().item() == pytest.approx(1)
    assert standard.pow(4).mean().item() == pytest.approx(3, rel=0.1), "the fourth moment of a normal number"


def test_lengths_stay_and_directions_spread() -> None:
    fast = transform(200, 20_000)
    v, w = torch.randn(2, 200, dtype=torch.float64)
    w -= v * (v @ w) / (v @ v)
    assert (fast(v).norm() / v.norm()).item() == pytest.approx(1, abs=0.05)
    cosine = fast(v) @ fast(w) / (fast(v).norm() * fast(w).norm())
    assert cosine.abs() < 0.05


class Additions(TorchDispatchMode):
    """Counts sums and differences, and the largest tensor that is made."""

    count = largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel())
            if func.overloadpacket in (torch.ops.aten.add_, torch.ops.aten.sub):
                self.count += out.numel()
        return out


@pytest.mark.parametrize(("d", "size"), [(64, 4096), (64, 65_536), (1024, 65_536)])
def test_work_is_size_times_the_logarithm_of_the_dimension(d: int, size: int) -> None:
    fast, v = transform(d, size), torch.randn(d, dtype=torch.float64)
    with Additions() as seen:
        fast(v)
    assert seen.count == 2 * size * math.log2(d)  # two transforms
    assert seen.largest == size


def test_every_tensor_moves_by_its_own_map_of_the_same_vector(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("bert")
    model = model.double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted = randomise(intrinsic_said.attach(model, CONFIG))
    v, lam = adapted.intrinsic_said.v.detach(), adapted.intrinsic_said.lam.detach()
    rules = {rule.index: rule.transform for _, rule in instances(adapted, intrinsic_said.Along)}
    names = [name for name in before if not name.startswith("classifier")]
    assert len(rules) == len(names) == len(lam)
    assert len(v) + len(lam) == 300
    expected = {n: before[n] + (lam[i] * rules[i](v)).view_as(before[n]) for i, n in enumerate(names)}
    merged = intrinsic_said.merge(adapted)
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(parameter, expected.get(name, before[name]), rtol=1e-12, atol=1e-12)
        assert (name in expected) == (not torch.equal(parameter, before[name]))


def test_gradient_of_the_vector_sums_over_all_tensors(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    model = model.double()
    adapted = randomise(intrinsic_said.attach(model, CONFIG)).eval()
    adapted(**batch).loss.backward()
    ours = adapted.intrinsic_said
    fast = {rule.index: rule.transform for _, rule in instances(adapted, intrinsic_said.Along)}
    v, lam = ours.v.detach().clone(), ours.lam.detach().clone()
    gradient_v, gradient_lam = ours.v.grad, ours.lam.grad
    merged = intrinsic_said.merge(adapted)
    merged(**batch).loss.backward()
    to_v = torch.zeros_like(v)
    for index, parameter in enumerate(merged.parameters()):
        P = torch.stack([fast[index](unit) for unit in torch.eye(len(v), dtype=torch.float64)], dim=1)
        pulled = P.T @ parameter.grad.flatten()
        to_v += lam[index] * pulled
        torch.testing.assert_close(gradient_lam[index], pulled @ v, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradient_v, to_v, rtol=1e-8, atol=1e-10)


def test_start_is_zero_and_one_and_only_these_are_saved(make_tiny: MakeTiny) -> None:
    adapted = intrinsic_said.attach(make_tiny("llama")[0], CONFIG)
    assert not adapted.intrinsic_said.v.any()
    assert (adapted.intrinsic_said.lam == 1).all()
    assert set(adapter_state(adapted)) == {"intrinsic_said.v", "intrinsic_said.lam"}


def test_seed_draws_the_maps(make_tiny: MakeTiny, randomise: Randomise) -> None:
    def moved(seed: int) -> Tensor:
        adapted = intrinsic_said.attach(make_tiny("llama")[0], intrinsic_said.Config(300, seed=seed))
        nn.init.ones_(adapted.intrinsic_said.v)
        return adapted.lm_head.weight.detach().clone()

    assert torch.equal(moved(1), moved(1))
    assert not torch.equal(moved(1), moved(2))


@pytest.mark.parametrize("dimension", [0, -3, 21])
def test_dimension_without_room_for_a_vector_is_refused(dimension: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")  # 21 tensors
    with pytest.raises(ValueError, match=f"intrinsic dimension {dimension} is too small for 21 tensors"):
        intrinsic_said.attach(model, intrinsic_said.Config(dimension))
    assert all(p.requires_grad for p in model.parameters())
