"""QLoRA against its equation, in float64; what is stored, what is saved, and where the unquantised matrices stay."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import qlora
from reference_impls._journal import journal
from reference_impls._site import instances
from reference_impls._surgery import detach
from reference_impls.parts.nf4 import NF4Linear, dequantise, quantise
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
SMALL = qlora.Config(rank=4)


@pytest.fixture
def layer() -> qlora.QLoRALinear:
    layer = qlora.QLoRALinear(qlora.pack(nn.Linear(6, 5).double(), 64), rank=3, alpha=12.0)
    for p in (layer.A, layer.B):
        nn.init.normal_(p)
    return layer


def unpacked(layer: qlora.QLoRALinear) -> Tensor:
    """The matrix that the codes stand for, number by number."""
    grid = torch.tensor([-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0])
    grid = torch.cat([grid, torch.tensor([0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617])])
    grid = torch.cat([grid, torch.tensor([0.72295684, 1.0])]).double()
    codes = [nibble for byte in layer.base.codes.tolist() for nibble in divmod(byte, 16)][:30]
    return layer.base.offset.double() * grid[codes].view(5, 6)  # one block: its scale is the mean of the scales


def test_forward_is_the_papers_equation(layer: qlora.QLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    change = torch.einsum("or,ri->oi", layer.B, layer.A) * (12.0 / 3)
    expected = torch.einsum("bti,oi->bto", x, unpacked(layer) + change) + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-7)


def test_gradients_are_those_of_lora_on_the_unpacked_weight(layer: qlora.QLoRALinear) -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 5, dtype=torch.float64)
    by_x, by_a, by_b = torch.autograd.grad(layer(x), (x, layer.A, layer.B), g)
    torch.testing.assert_close(by_x, g @ (layer.weight + 4 * layer.B @ layer.A))
    torch.testing.assert_close(by_a, 4 * layer.B.T @ g.T @ x)
    torch.testing.assert_close(by_b, 4 * g.T @ x @ layer.A.T)


def test_merge_is_exact_and_plain(layer: qlora.QLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = layer(x)
    merged = layer.merged()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)


def test_every_matrix_of_the_blocks_is_packed_and_nothing_else(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    weights = {name: p.clone() for name, p in model.named_parameters()}
    attached = qlora.attach(model, SMALL)
    packed = dict(instances(attached, NF4Linear))
    assert len(packed) == 2 * 7
    for name, layer in packed.items():
        weight = weights.pop(f"{name.removesuffix('.base')}.weight")
        assert torch.equal(layer.weight, dequantise(quantise(weight), weight.shape, weight.dtype))
    assert {n for n, p in attached.named_parameters() if not p.requires_grad} == set(weights)


def test_file_of_the_adapter_holds_no_packed_weight(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    attached = qlora.attach(model, SMALL)
    assert {name.rpartition(".")[2] for name in adapter_state(attached)} == {"A", "B"}
    assert "model.layers.0.mlp.up_proj.base.codes" in attached.state_dict()


def test_base_that_is_packed_already_stays_as_it_is(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    for block in model.model.layers:
        block.mlp.up_proj = qlora.pack(block.mlp.up_proj, 32)
    there, expected = model.model.layers[0].mlp.up_proj, model(**batch).logits
    attached = qlora.attach(model, qlora.Config(rank=4, target="up_proj"))
    assert attached.model.layers[0].mlp.up_proj.base is there
    torch.testing.assert_close(attached(**batch).logits, expected)
    assert detach(attached).model.layers[0].mlp.up_proj is there


def test_cast_after_attaching_is_undone_by_no_one_and_breaks_nothing(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("gpt2")
    before = copy.deepcopy(model).to(torch.bfloat16)
    attached = qlora.attach(model, SMALL).to(torch.bfloat16)
    assert attached(**batch).logits.isfinite().all()
    plain = detach(attached)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), before.parameters(), strict=True))


def test_matrices_that_wait_for_detach_are_not_in_the_model(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("gpt2")
    attached = qlora.attach(model, SMALL)
    waiting = [original for _, original in journal(attached)[1].swaps]
    assert len(waiting) == 2 * (4 + 6)  # in each block four Conv1D and the six linear layers that they are
    assert not {id(p) for original in waiting for p in [original.weight]} & {id(p) for p in attached.parameters()}


def test_weight_in_another_small_type_is_refused() -> None:
    model = nn.ModuleDict({"q_proj": nn.Linear(64, 64)})
    model.q_proj.weight = nn.Parameter(torch.zeros(64, 64, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"torch\.int8 cannot be packed again"):
        qlora.attach(model)


@pytest.mark.parametrize("block_size", [0, 1, 63])
def test_impossible_block_is_refused(block_size: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=f"block_size {block_size} must be even"):
        qlora.attach(model, qlora.Config(rank=4, block_size=block_size))
    assert all(p.requires_grad for p in model.parameters())


def test_rank_that_does_not_fit_is_refused(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    before = model(**batch).logits
    with pytest.raises(ValueError, match="rank 64 does not fit a 32 x 64 matrix"):
        qlora.attach(model)
    assert torch.equal(model(**batch).logits, before)
