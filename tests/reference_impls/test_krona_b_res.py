"""KronA^B_res against its equation, with the feed-forward network and the Kronecker product written out in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import krona_b_res
from reference_impls._branch import Beside
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]


class Network(nn.Module):
    """A feed-forward network as transformers names its layers."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


def test_forward_is_the_papers_equation(randomise: Randomise) -> None:
    network = Network(12, 7).double()
    plain = [p.detach().clone() for p in (network.fc1.weight, network.fc1.bias, network.fc2.weight, network.fc2.bias)]
    model = randomise(krona_b_res.attach(network, krona_b_res.Config(a1=2, a2=3, scale=0.7)))
    ((_, branch),) = instances(model, krona_b_res.Branch)
    assert (branch.A.shape, branch.B.shape) == ((2, 3), (6, 4))
    product = torch.empty(12, 12, dtype=torch.float64)
    for row in range(12):
        for column in range(12):
            product[row, column] = branch.A[row // 6, column // 4] * branch.B[row % 6, column % 4]
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    w1, b1, w2, b2 = plain
    expected = torch.tanh(x @ w1.T + b1) @ w2.T + b2 + 0.7 * x @ product.T + branch.s_r.item() * x
    assert branch.s_r.item() != 0
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_residual_starts_at_zero_and_learns_from_the_first_step(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapted = krona_b_res.attach(model)
    branches = [branch for _, branch in instances(adapted, krona_b_res.Branch)]
    assert all(branch.s_r == 0 and not branch.B.any() and branch.A.any() for branch in branches)
    adapted(**batch).loss.backward()
    assert all(branch.s_r.grad != 0 and branch.B.grad.any() for branch in branches)


@pytest.mark.parametrize(("family", "blocks"), [("llama", 2), ("t5", 4), ("vit", 2)])
def test_every_feed_forward_network_has_one_branch(family: str, blocks: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    assert len(list(instances(krona_b_res.attach(model), Beside))) == blocks


@pytest.mark.parametrize(("a1", "a2"), [(3, 16), (16, 5), (0, 16), (-2, 16)])
def test_factor_that_does_not_divide_is_refused(a1: int, a2: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=f"A of {a1} x {a2} does not divide the width 64"):
        krona_b_res.attach(model, krona_b_res.Config(a1=a1, a2=a2))
    assert all(p.requires_grad for p in model.parameters())
