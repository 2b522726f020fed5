"""LoRETTA_adp against its equation in float64, with the trains contracted by another route."""

import string
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import loretta_adp
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


def contracted(layer: loretta_adp.TTLinear, d_in: int, d_out: int) -> Tensor:
    """The matrix by one einsum over all cores."""
    cores = [core.detach() for core in layer.G.cores]
    bonds, modes = string.ascii_uppercase, string.ascii_lowercase
    terms = [bonds[i] + modes[i] + bonds[i + 1] for i in range(len(cores))]
    whole = torch.einsum(f"{','.join(terms)}->{modes[: len(cores)]}", *cores)
    return whole.reshape(-1)[: d_in * d_out].reshape(d_in, d_out)


@pytest.mark.parametrize(("d", "m"), [(16, 8), (12, 7)])
def test_forward_is_the_papers_equation(d: int, m: int) -> None:
    config = loretta_adp.Config(bottleneck=m, tensor_rank=3, scale=0.5)
    base = nn.Linear(5, d).double()
    layer = loretta_adp.AfterSublayer(base, loretta_adp.Adapter(base.weight, d, config))
    for p in layer.adapter.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    h = base(x)
    down, up = layer.adapter.down, layer.adapter.up
    inner = torch.tanh(h @ contracted(down, d, m) + down.b)
    torch.testing.assert_close(layer(x), h + 0.5 * (inner @ contracted(up, m, d) + up.b), rtol=1e-10, atol=1e-10)


def test_two_adapters_stand_in_each_block(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    names = [name for name, _ in instances(loretta_adp.attach(model), loretta_adp.AfterSublayer)]
    assert names == [
        f"bert.encoder.layer.{i}.{place}.dense" for i in range(2) for place in ("attention.output", "output")
    ]


def test_biases_start_as_in_a_linear_layer() -> None:
    layer = loretta_adp.TTLinear(torch.empty(1), 64, 400, 5)
    assert 0.9 / 400**0.5 < layer.b.abs().max() <= 1 / 400**0.5


def test_norms_train_on_request(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    loretta_adp.attach(model, loretta_adp.Config(train_norms=True))
    assert all(p.requires_grad for name, p in model.named_parameters() if "norm" in name)


@pytest.mark.parametrize(("field", "value"), [("bottleneck", 0), ("tensor_rank", 0)])
def test_impossible_sizes_are_refused(field: str, value: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=str(value)):
        loretta_adp.attach(model, loretta_adp.Config(**{field: value}))
    assert all(p.requires_grad for p in model.parameters())
