"""Structured changes of weights: ours and Hugging Face PEFT's, with the same numbers, give equal outputs and gradients.

What the library defines differently, or does otherwise than its paper, is shown with its proof, not imitated.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import boft, fourierft, loha, lokr, oft, shira
from reference_impls._site import instances

peft = pytest.importorskip("peft")
from peft.tuners.boft import layer as peft_boft  # noqa: E402
from peft.tuners.oft.layer import OFTRotationModule  # noqa: E402

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
Names = Callable[[str], str]

FAMILIES = ("llama", "bert")
TARGETS = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}


def compare(
    ours: nn.Module,
    theirs: nn.Module,
    batch: Batch,
    name_there: Names,
    there: Callable[[Tensor], Tensor] = lambda value: value,
    back: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> None:
    """Copies our trainable numbers, as ``there`` makes them, into PEFT's model; checks logits, loss and gradients.

    ``back`` makes of a gradient there what it is here.
    """
    parameters = dict(theirs.named_parameters())
    pairs = [(name, p, parameters[name_there(name)]) for name, p in ours.named_parameters() if p.requires_grad]
    assert {id(q) for _, _, q in pairs} == {id(q) for q in theirs.parameters() if q.requires_grad}
    with torch.no_grad():
        for _, p, q in pairs:
            q.copy_(there(p))
    answers = [model(**batch) for model in (ours, theirs)]
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answers[0].loss, answers[1].loss, rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.loss.backward()
    for name, p, q in pairs:
        assert p.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(p.grad, back(q.grad), rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def renamed(**leaves: str) -> Names:
    """Where PEFT keeps what we call by the keys of ``leaves``."""

    def name_there(name: str) -> str:
        path, _, leaf = name.rpartition(".")
        return f"base_model.model.{path}.{leaves[leaf]}"

    return name_there


def theirs_on(base: nn.Module, config: object) -> nn.Module:
    """PEFT's method on a copy of ``base``."""
    return peft.get_peft_model(copy.deepcopy(base), config).eval()


@pytest.mark.parity("loha")
@pytest.mark.parametrize("family", FAMILIES)
def test_loha_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    base, batch = make_tiny(family)
    theirs = theirs_on(base, peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS[family]))
    target = "|".join(TARGETS[family])
    ours = randomise(loha.attach(base, loha.Config(rank=3, alpha=5, target=target)))
    names = renamed(B1="hada_w1_a.default", A1="hada_w1_b.default", B2="hada_w2_a.default", A2="hada_w2_b.default")
    compare(ours, theirs, batch, names)


@pytest.mark.parity("lokr")
@pytest.mark.parametrize("family", FAMILIES)
def test_lokr_equals_peft(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    base, batch = make_tiny(family)
    config = peft.LoKrConfig(r=3, alpha=5, decompose_factor=4, target_modules=TARGETS[family])
    theirs = theirs_on(base, config)
    target = "|".join(TARGETS[family])
    ours = randomise(lokr.attach(base, lokr.Config(factor=4, rank=3, alpha=5, target=target)))
    compare(ours, theirs, batch, renamed(C="lokr_w1.default", B="lokr_w2_a.default", A="lokr_w2_b.default"))


def test_peft_gives_lokr_up_silently_from_half_the_tiles_rank() -> None:
    def kept(r: int) -> set[str]:
        config = peft.LoKrConfig(r=r, alpha=r, decompose_factor=4, target_modules=["q"])
        model = peft.get_peft_model(nn.ModuleDict({"q": nn.Linear(64, 64)}), config)
        return {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad}

    assert kept(7) == {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}
    assert kept(8) == {"lokr_w1", "lokr_w2"}
    ours = lokr.LoKrLinear(nn.Linear(64, 64), factor=4, rank=8, alpha=8)
    assert (ours.A.shape, ours.B.shape) == ((8, 16), (16, 8))


@pytest.mark.parity("oft")
@pytest.mark.parametrize("family", FAMILIES)
def test_oft_equals_pefts_exact_form_with_the_sign_turned(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    base, batch = make_tiny(family)
    config = peft.OFTConfig(
        oft_block_size=16, r=0, use_cayley_neumann=False, module_dropout=0.0, target_modules=TARGETS[family]
    )
    theirs = theirs_on(base, config)
    ours = randomise(oft.attach(base, oft.Config(block_size=16, target="|".join(TARGETS[family]))))
    compare(ours, theirs, batch, renamed(q="oft_R.default.weight"), torch.neg, torch.neg)


def test_pefts_two_forms_of_oft_turn_in_opposite_directions_and_only_the_series_is_the_papers() -> None:
    numbers = 0.02 * torch.randn(3, 16 * 15 // 2)

    def turned(x: Tensor, series: bool, terms: int = 5) -> Tensor:
        module = OFTRotationModule(3, 120, 16, 48, use_cayley_neumann=series, num_cayley_neumann_terms=terms)
        module.weight.data.copy_(numbers)
        return module(x)

    x = torch.eye(48)
    paper = oft.turn(x, oft.cayley(oft.skew(numbers, 16)))
    opposite = oft.turn(x, oft.cayley(oft.skew(-numbers, 16)))
    torch.testing.assert_close(turned(x, series=False), opposite, rtol=0, atol=1e-6)
    assert (paper - opposite).abs().max() > 0.05
    errors = [(turned(x, series=True, terms=terms) - paper).abs().max().item() for terms in (3, 5, 9)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 1e-3, "the default's error: it is orthogonal only nearly"


def blocks(entries: Tensor) -> Tensor:
    """Our numbers as PEFT's full blocks: it skews them by halves and takes the opposite sign."""
    return -boft.skew(entries, 8)


def above(gradient: Tensor) -> Tensor:
    """What a gradient of PEFT's blocks is for our numbers: each stands above and, negated, below the diagonal."""
    rows, columns = torch.triu_indices(8, 8, 1)
    return gradient[..., columns, rows] - gradient[..., rows, columns]


class PlainBlockDiagonal:
    """Stands in for PEFT's CUDA kernel, which writes blocks into whole matrices."""

    @staticmethod
    def apply(R: Tensor) -> Tensor:
        """(m, k, b, b) -> (m, k b, k b)."""
        return torch.stack([torch.block_diag(*factor) for factor in R])


def pefts_boft(base: nn.Module, targets: list[str], factors: int) -> nn.Module:
    """PEFT's BOFT with the scale of the outputs, which the paper's count does not have, fixed at one."""
    config = peft.BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=factors, target_modules=targets)
    theirs = theirs_on(base, config)
    for name, parameter in theirs.named_parameters():
        if "boft_s" in name:
            parameter.requires_grad_(False)
    return theirs


@pytest.mark.parity("boft")
@pytest.mark.parametrize("factors", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_boft_equals_peft(
    family: str, factors: int, make_tiny: MakeTiny, randomise: Randomise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(peft_boft, "FastBlockDiag", PlainBlockDiagonal)
    base, batch = make_tiny(family)
    theirs = pefts_boft(base, TARGETS[family], factors)
    ours = randomise(boft.attach(base, boft.Config(factors, 8, "|".join(TARGETS[family]))))
    compare(ours, theirs, batch, renamed(q="boft_R.default"), blocks, above)


def test_peft_without_its_kernel_falls_back_to_one_factor(make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_boft, "get_fbd_cuda", lambda: None)
    theirs = pefts_boft(make_tiny("llama")[0], TARGETS["llama"], factors=2)
    assert {q.shape[0] for name, q in theirs.named_parameters() if "boft_R" in name} == {1}


@pytest.mark.parity("fourierft")
@pytest.mark.parametrize("family", FAMILIES)
def test_fourierft_equals_peft_with_the_same_seed(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    base, batch = make_tiny(family)
    config = peft.FourierFTConfig(n_frequency=50, scaling=30.0, target_modules=TARGETS[family])
    theirs = theirs_on(base, config)
    target = "|".join(TARGETS[family])
    ours = randomise(fourierft.attach(base, fourierft.Config(coefficients=50, scale=30.0, target=target)))
    compare(ours, theirs, batch, renamed(c="fourierft_spectrum.default"))


@pytest.mark.parity("shira")
@pytest.mark.parametrize("family", FAMILIES)
def test_shira_equals_peft_at_the_same_positions(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    base, batch = make_tiny(family)
    theirs = theirs_on(base, peft.ShiraConfig(r=3, target_modules=TARGETS[family]))
    ours = randomise(shira.attach(base, shira.Config(rank=3, target="|".join(TARGETS[family]))))
    there = {name: layer for name, layer in theirs.named_modules() if hasattr(layer, "shira_indices")}
    for name, layer in instances(ours, shira.SHiRALinear):
        rows, columns = there[f"base_model.model.{name}"].shira_indices["default"].long()
        layer.positions.copy_(rows * layer.in_features + columns)
    compare(ours, theirs, batch, renamed(v="shira_weight.default"))
