"""SMILE against its equations, token by token in float64, and as a fusion of fine-tuned models."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import smile
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]

OUTSIDE = (
    "embed",
    "wte",
    "wpe",
    "shared",
    "norm",
    "ln_",
    "head",
    "classifier",
    "pooler",
    "relative",
    "token",
    "position",
)


def moved(model: nn.Module, by: float, seed: int) -> nn.Module:
    """A "fine-tuned" copy: every matrix of its blocks elsewhere."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if ".bias" not in name and not any(part in name.lower() for part in OUTSIDE):
                p += by * torch.randn(p.shape, generator=generator).to(p.dtype)
    return tuned


@pytest.mark.parametrize(("k", "g", "top"), [(2, 1, 1), (3, 2, 2), (9, 9, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_the_papers_equation(k: int, g: int, top: int, bias: bool) -> None:
    base = nn.Linear(6, 5, bias=bias).double()
    layer = smile.SmileLinear(base, smile.Config(experts=3, rank=k, gate_rank=g, top=top))
    tuned = [nn.Linear(6, 5, bias=bias).double() for _ in range(3)]
    for i, one in enumerate(tuned):
        layer.learn(i, one.weight, one.bias)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = torch.empty(2, 4, 5, dtype=torch.float64)
    for place in [(b, t) for b in range(2) for t in range(4)]:
        token = x[place]
        lengths, experts = [], []
        for one in tuned:
            change = (one.weight - base.weight).detach()
            _, vectors = torch.linalg.eigh(change.T @ change)  # V by another way
            V = vectors.flip(1)[:, :5]
            lengths.append((V[:, :g].T @ token).norm())
            expert = change @ V[:, :k] @ V[:, :k].T @ token  # the change on its k leading input directions
            experts.append(expert + (one.bias - base.bias if bias else 0))
        weights = torch.softmax(torch.stack(lengths), 0)
        best = sorted(range(3), key=lambda i: -weights[i])[:top]
        total = sum(weights[i] for i in best)
        expected[place] = base(token) + sum(weights[i] / total * experts[i] for i in best)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)  # the decomposition is taken in fp32


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "vit"])
def test_one_whole_expert_is_the_fine_tuned_model(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    tuned = moved(model, 0.05, seed=1)
    expected, before = tuned(**batch).logits, model(**batch).logits
    config = smile.Config(experts=1, rank=1000)
    smile.attach(model, config)
    torch.testing.assert_close(model(**batch).logits, before)  # empty experts change nothing
    smile.fuse(model, [tuned], config)
    assert (expected - before).abs().max() > 1e-2, "the copy is the base: the test would be blind"
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(tuned(**batch).logits, expected), "the copies are left as they are"
    assert all(p.requires_grad for p in tuned.parameters())


def test_tokens_go_to_the_expert_whose_directions_they_lie_in() -> None:
    base = nn.Linear(8, 8, bias=False)
    layer = smile.SmileLinear(base, smile.Config(experts=2, rank=2, gate_rank=2))
    changes = []
    for i in range(2):  # each copy reads two input dimensions of its own
        change = torch.zeros(8, 8)
        change[:, 2 * i : 2 * i + 2] = torch.randn(8, 2)
        layer.learn(i, base.weight + change, None)
        changes.append(change)
    for i in range(2):
        x = torch.zeros(8)
        x[2 * i : 2 * i + 2] = torch.randn(2)
        torch.testing.assert_close(layer(x), (base.weight + changes[i]) @ x, rtol=1e-4, atol=1e-5)


def test_larger_rank_comes_closer_to_the_fine_tuned_model(make_tiny: MakeTiny) -> None:
    distances = []
    for rank in (1, 16, 64):
        model, batch = make_tiny("llama")
        tuned = moved(model, 0.05, seed=1)
        expected = tuned(**batch).logits
        config = smile.Config(experts=1, rank=rank)
        smile.fuse(smile.attach(model, config), [tuned], config)
        distances.append((model(**batch).logits - expected).abs().mean().item())
    assert distances[0] > distances[1] > distances[2]


def test_nothing_trains_and_all_is_saved(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    smile.attach(model, smile.Config(experts=2, rank=4))
    assert not any(p.requires_grad for p in model.parameters())
    ((_, layer), *_) = instances(model, smile.SmileLinear)
    assert {name for name, _ in layer.named_buffers(recurse=False)} == {"SV", "U", "R", "c"}


def test_copies_that_do_not_fit_are_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    config = smile.Config(experts=1, rank=2)
    smile.attach(model, config)
    with pytest.raises(ValueError, match="2 fine-tuned models for 1 experts"):
        smile.fuse(model, [model, model], config)
    other, _ = make_tiny("bert")
    with pytest.raises(ValueError, match="fine-tuned model 0 has no layer"):
        smile.fuse(model, [other], config)
    assert all(p.requires_grad for p in other.parameters())
    with pytest.raises(ValueError, match=r"fine-tuned model 0: .*already carries"):
        smile.fuse(model, [model], config)


@pytest.mark.parametrize(
    "config", [smile.Config(experts=0), smile.Config(rank=0), smile.Config(gate_rank=0), smile.Config(top=9)]
)
def test_impossible_sizes_are_refused(config: smile.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="all at least 1"):
        smile.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
