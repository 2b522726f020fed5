"""On a base in 4 or 8 bits every method does what it does on the matrices that the codes stand for."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import ladder_side_tuning, lora, relora, slugs
from reference_impls._site import LINEAR, instances
from reference_impls._surgery import detach, find, freeze
from reference_impls.parts import int8
from reference_impls.parts.int8 import Int8Linear
from reference_impls.parts.nf4 import NF4Linear, dequantise, quantise
from reference_impls.parts.packed import PackedLinear
from reference_impls.training.checkpoint import adapter_state, load_adapter
from reference_impls.training.loop import train
from tests.reference_impls.test_conformance import Case, families, gradients, logits, record

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
SHORT = relora.Config(rank=4, alpha=8.0, restart_every=5, warmup=2, restart_warmup=2)


def packed(model: nn.Module, bits: int = 4) -> nn.Module:
    """The model with the linear layers of its blocks in few bits, as if it had been loaded so."""
    layers = find(freeze(model), LINEAR)
    detach(model)
    for name, layer in layers.items():
        four = NF4Linear(layer, quantise(layer.weight))
        model.set_submodule(name, four if bits == 4 else Int8Linear(layer, int8.quantise(layer.weight)))
    return model


def unpacked(model: nn.Module) -> nn.Module:
    """A copy of a packed model with plain matrices that have the packed ones' values."""
    model = copy.deepcopy(model)
    for name, layer in list(instances(model, PackedLinear)):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight, plain.bias = nn.Parameter(layer.weight), layer.bias
        model.set_submodule(name, plain)
    return model


def takes_a_packed_base(slug: str) -> bool:
    fact = record(slug).efficiency.quantised_base.value
    return fact is True and not {"quantised_base", "masked_lm"} & set(record(slug).applies_to.needs)


@pytest.mark.parametrize("slug", [slug for slug in slugs() if takes_a_packed_base(slug)])
def test_outputs_and_gradients_are_those_on_the_unpacked_matrices(
    slug: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    case = Case(slug, families(slug)[0])
    base, batch = make_tiny(case.family)
    runs = []
    for model in (packed(base), unpacked(base)):
        adapted = randomise(case.attach(model))
        case.backward(adapted.train(), batch)
        runs.append((logits(adapted, batch), gradients(adapted)))
    (answer, found), (expected, wanted) = runs
    torch.testing.assert_close(answer, expected)
    assert found.keys() == wanted.keys()
    assert found
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("slug", [slug for slug in slugs() if takes_a_packed_base(slug)])
def test_outputs_and_gradients_on_eight_bits_differ_by_the_rounding_of_inputs_alone(
    slug: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    case = Case(slug, families(slug)[0])
    base, batch = make_tiny(case.family)
    runs = []
    for model in (packed(base, bits=8), unpacked(base)):
        adapted = randomise(case.attach(model))
        case.backward(adapted.train(), batch)
        slopes = gradients(adapted)
        runs.append((logits(adapted, batch), slopes.keys(), torch.cat([one.flatten() for one in slopes.values()])))
    (answer, names, found), (expected, wanted_names, wanted) = runs
    assert names == wanted_names
    assert (answer - expected).norm() < 0.03 * expected.norm()
    assert (found - wanted).norm() < 0.2 * wanted.norm()  # most are within a tenth of it: a ReLU may turn


def test_writing_a_weight_packs_it_anew() -> None:
    layer = NF4Linear(nn.Linear(64, 8), quantise(torch.randn(8, 64)))
    matrix = torch.randn(8, 64)
    layer.weight = matrix
    assert torch.equal(layer.weight, dequantise(quantise(matrix), (8, 64), torch.float32))


@pytest.mark.parametrize(("share", "moves"), [(0.4, False), (0.7, True)])
def test_a_change_below_half_the_distance_of_two_levels_is_rounded_away(share: float, moves: bool) -> None:
    """What becomes of ReLoRA's small steps on a base in 4 bits."""
    matrix = torch.ones(1, 64)
    matrix[0, 1:] = 0.0  # the largest number of the block sets the scale; the level above 0 stands at 0.0796
    layer = NF4Linear(nn.Linear(64, 1), quantise(matrix, double=False))
    change = torch.zeros(1, 64)
    change[0, 1:] = share * 0.0795803
    before = layer.weight.clone()
    layer.weight += change
    assert bool((layer.weight != before).any()) is moves


def test_relora_takes_its_change_into_the_packed_weight_and_gives_it_back(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    before = {name: tensor.clone() for name, tensor in packed(model).state_dict().items()}
    adapted = relora.attach(model, SHORT)
    layer = next(layer for _, layer in instances(adapted, relora.ReLoRALinear))
    nn.init.normal_(layer.B)
    wanted = layer.weight + layer.scale * layer.B @ layer.A
    layer.restart()
    assert torch.equal(layer.weight, dequantise(quantise(wanted), wanted.shape, wanted.dtype))
    assert not layer.B.any()
    train(adapted, relora, SHORT, iter([batch] * 12), lr=1e-2, steps=12)
    fresh = relora.attach(packed(make_tiny("llama")[0]), SHORT)
    load_adapter(fresh, adapter_state(adapted))
    assert torch.equal(logits(fresh, batch), logits(adapted, batch))
    after = detach(adapted).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_merging_into_a_packed_base_packs_the_sum(make_tiny: MakeTiny, randomise: Randomise) -> None:
    adapted = randomise(lora.attach(packed(make_tiny("llama")[0])))
    name, layer = next(instances(adapted, lora.LoRALinear))
    wanted = layer.weight + layer.scale * layer.B @ layer.A
    merged = lora.merge(adapted).get_submodule(name)
    assert isinstance(merged, NF4Linear)
    assert torch.equal(merged.weight, dequantise(quantise(wanted), wanted.shape, wanted.dtype))


def test_side_network_beside_a_packed_base_is_plain_and_keeps_its_start(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapted = ladder_side_tuning.attach(packed(model), ladder_side_tuning.Config(reduction=4))
    rungs = [rung for _, rung in instances(adapted, ladder_side_tuning.Rung)]
    assert not any(isinstance(part, NF4Linear) for rung in rungs for part in rung.block.modules())
    start = [p.clone() for p in rungs[0].block.parameters()]
    ladder_side_tuning.prepare(adapted, [batch], ladder_side_tuning.Config(reduction=4))
    assert all(torch.equal(p, old) for p, old in zip(rungs[0].block.parameters(), start, strict=True))
