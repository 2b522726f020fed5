"""LoRTA against its equation in float64: the five-way tensor is formed in full and cut into the changes."""

import string
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import lorta
from reference_impls._site import instances
from tests.reference_impls.tiny import opt

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
LEAVES = {
    **{"q_proj": 0, "k_proj": 1, "v_proj": 2, "o_proj": 3, "out_proj": 3},
    **{"query": 0, "key": 1, "value": 2, "dense": 3, "c_proj": 3},
}


def tensor(model: nn.Module) -> Tensor:
    """(d, d_h, heads, matrices, layers), as a sum of rank-one terms."""
    f = model.lorta
    total = torch.zeros(len(f.A), f.B.shape[1], len(f.c_H), 4, len(f.c_L), dtype=torch.float64)
    for r in range(f.A.shape[1]):
        total += torch.einsum("a,b,c,d,e->abcde", f.A[:, r], f.B[r], f.c_H[:, r], f.c_M[:, r], f.c_L[:, r])
    return total


NARROW = {"word_embed_proj_dim": 32, "do_layer_norm_before": False}  # as in the 350M model of OPT


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt"])
def test_each_matrix_changes_by_its_slice_of_the_tensor(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model = opt(**NARROW) if family == "opt" else make_tiny(family)[0]  # OPT has keys before queries
    config = lorta.Config(rank=3, alpha=6.0)
    attached = randomise(lorta.attach(model.double(), config))
    whole = tensor(attached)
    layers = list(instances(attached, lorta.LoRTALinear))
    assert len(layers) == 2 * 4
    for name, layer in layers:
        leaf = name.rpartition(".")[2]
        number = next(int(part) for part in name.split(".") if part in string.digits)
        blocks = whole[:, :, :, LEAVES[leaf], number]  # (d, d_h, heads)
        if layer.out_features < 64:
            blocks = blocks[:, :, [0, 2]]  # two heads of keys and values for four of queries
        change = 2.0 * torch.cat([blocks[:, :, h] for h in range(blocks.shape[2])], dim=1)  # (d, d_out)
        x = torch.randn(3, 64, dtype=torch.float64)
        torch.testing.assert_close(layer(x), layer.base(x) + x @ change, rtol=1e-10, atol=1e-12)


def test_scales_of_one_layer_touch_no_other(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("bert")
    attached = randomise(lorta.attach(model))
    x = torch.randn(3, 64)
    layers = [layer for _, layer in instances(attached, lorta.LoRTALinear)]
    before = [layer(x) for layer in layers]
    with torch.no_grad():
        attached.lorta.c_L[1] += 1
    for layer, old in zip(layers, before, strict=True):
        assert torch.equal(layer(x), old) == (layer.l == 0)


def test_rank_of_each_change_is_at_most_the_rank(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("bert")
    attached = randomise(lorta.attach(model.double(), lorta.Config(rank=3)))
    for _, layer in instances(attached, lorta.LoRTALinear):
        assert torch.linalg.matrix_rank(attached.lorta.A @ layer.up()) == 3


def test_factors_start_as_in_the_official_code(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    f = lorta.attach(model, lorta.Config(rank=16)).lorta
    assert not f.B.any()
    for factor in (f.A, f.c_H, f.c_M, f.c_L):
        assert 0.7 * 0.25 < factor.abs().max() <= 0.25  # uniform in ±1/√r


def test_model_without_attention_of_one_shape_is_refused(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("t5")  # its attention is narrower than the model
    before = model(**batch).logits
    with pytest.raises(ValueError, match="64 x 32 matrix has no place in a tensor of width 64"):
        lorta.attach(model)
    assert torch.equal(model(**batch).logits, before)


def test_missing_heads_and_ranks_are_refused(make_tiny: MakeTiny) -> None:
    parts = {name: nn.Linear(8, 8) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    with pytest.raises(ValueError, match="0 heads"):
        lorta.attach(nn.ModuleDict(parts))
    with pytest.raises(ValueError, match="rank 0"):
        lorta.attach(make_tiny("bert")[0], lorta.Config(rank=0))
