"""The parallel adapter against its equation, in float64, beside whole feed-forward networks."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import parallel_adapter
from reference_impls._branch import Beside
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


@pytest.mark.parametrize(
    ("family", "path"),
    [("llama", "model.layers.1.mlp"), ("gpt2", "transformer.h.1.mlp"), ("vit", "vit.layers.1.mlp")]
    + [("t5", f"{stack}.layer.{at}.DenseReluDense") for stack, at in (("encoder.block.1", 1), ("decoder.block.1", 2))],
)
def test_branch_is_the_papers_equation_beside_the_whole_network(family: str, path: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    model.double()
    plain = copy.deepcopy(model.get_submodule(path))
    parallel_adapter.attach(model, parallel_adapter.Config(bottleneck=3, scale=2.5))
    network = model.get_submodule(path)
    branch = next(module for _, module in instances(network, Beside)).branch
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, branch.down.in_features, dtype=torch.float64)
    inner = (torch.einsum("btd,md->btm", x, branch.down.weight) + branch.down.bias).clamp(min=0)
    expected = plain(x) + 2.5 * (torch.einsum("btm,dm->btd", inner, branch.up.weight) + branch.up.bias)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)


def test_branch_reads_what_berts_feed_forward_network_reads(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    parallel_adapter.attach(model, parallel_adapter.Config(bottleneck=3))
    seen: dict[str, Tensor] = {}
    layer = model.bert.encoder.layer[0]
    branch = layer.output.dense.branch
    nn.init.normal_(branch.up.weight)
    branch.register_forward_hook(lambda _, args, out: seen.update(read=args[0], added=out))
    layer.intermediate.register_forward_hook(lambda _, args, out: seen.update(x=args[0], inner=out))
    layer.output.dropout.register_forward_hook(lambda _, args, out: seen.update(sum=args[0]))
    model(**batch)
    assert torch.equal(seen["read"], seen["x"])
    torch.testing.assert_close(seen["sum"], layer.output.dense.base(seen["inner"]) + seen["added"])


def test_start_is_zero_for_the_map_up_and_kaiming_for_the_map_down() -> None:
    branch = parallel_adapter.Branch(torch.empty(1), d=400, m=5, scale=1.0)
    assert not branch.up.weight.any()
    assert not branch.up.bias.any()
    assert not branch.down.bias.any()
    assert 0.9 / 400**0.5 < branch.down.weight.abs().max() <= 1 / 400**0.5


def test_layers_that_cannot_be_bridged_are_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="from width 64 to 96"):
        parallel_adapter.attach(model, parallel_adapter.Config(first="gate_proj", last="up_proj"))
    with pytest.raises(ValueError, match="do not pair up"):
        parallel_adapter.attach(model, parallel_adapter.Config(first="gate_proj", last="layers.0.mlp.down_proj"))
    assert all(p.requires_grad for p in model.parameters())
