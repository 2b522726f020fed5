"""AdaMix: the drawn adapter, the divergence, the mean, and how the draws fall, against naive computations in float64."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import adamix
from reference_impls._site import instances
from reference_impls.houlsby_adapter import AfterSublayer, Bottleneck

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
EACH_APART = adamix.Config(n_experts=3, bottleneck=4, share_up=False)


def mixed(config: adamix.Config, d: int = 5) -> AfterSublayer:
    """A layer of float64 with a mixture of random numbers behind it."""
    base = nn.Linear(6, d).double()
    layer = AfterSublayer(base, adamix.Mixture(base, config))
    for parameter in layer.adapter.parameters():
        nn.init.normal_(parameter)
    return layer


def naive(layer: AfterSublayer, x: Tensor, i: int, j: int) -> Tensor:
    """The paper's adapter of the i-th way down and the j-th way up."""
    down, up = layer.adapter.down, layer.adapter.up
    h = x @ layer.base.weight.T + layer.base.bias
    inner = h @ down.W[i].T + down.b[i]
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return h + inner @ up.W[j].T + up.b[j]


def test_every_pass_takes_one_way_down_and_one_way_up_independently_of_each_other() -> None:
    layer = mixed(EACH_APART).train()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    pairs = list(itertools.product(range(3), range(3)))
    answers = torch.stack([naive(layer, x, i, j) for i, j in pairs])
    counts = dict.fromkeys(pairs, 0)
    for _ in range(900):
        near = (layer(x) - answers).abs().flatten(1).amax(dim=1)
        assert near.min() < 1e-10, "the whole batch goes one way"
        counts[pairs[int(near.argmin())]] += 1
    assert all(65 < count < 140 for count in counts.values()), counts  # 100 each; the deviation is 9.4


def test_each_module_draws_for_itself(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adamix.attach(model, adamix.Config(n_experts=8)).train()
    firsts: set[tuple[int, ...]] = set()
    for _ in range(60):
        model.zero_grad()
        model(**batch).loss.backward()
        firsts.add(tuple(int(m.down.b.grad.abs().sum(1).argmax()) for _, m in instances(model, adamix.Mixture)))
    assert any(a != b for a, b in firsts)
    assert {a for a, _ in firsts} == {b for _, b in firsts} == set(range(8))


def test_evaluation_takes_the_mean_of_the_weights() -> None:
    layer = mixed(EACH_APART).eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    h = x @ layer.base.weight.T + layer.base.bias
    down, up = layer.adapter.down, layer.adapter.up
    W_d, b_d = sum(down.W[i] for i in range(3)) / 3, sum(down.b[i] for i in range(3)) / 3
    W_u, b_u = sum(up.W[j] for j in range(3)) / 3, sum(up.b[j] for j in range(3)) / 3
    inner = h @ W_d.T + b_d
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    torch.testing.assert_close(layer(x), h + inner @ W_u.T + b_u, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [adamix.Config(), EACH_APART], ids=["shared", "apart"])
def test_average_leaves_one_plain_adapter_per_block_with_the_same_output(
    config: adamix.Config, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny("t5")
    expected = randomise(adamix.attach(model, config)).eval()(**batch).logits
    averaged = adamix.average(model)
    torch.testing.assert_close(averaged(**batch).logits, expected, rtol=1e-4, atol=1e-5)
    assert not list(instances(averaged, adamix.Mixture))
    m = config.bottleneck
    assert sum(p.numel() for _, a in instances(averaged, Bottleneck) for p in a.parameters()) == 4 * (129 * m + 64)


@pytest.mark.parametrize(("share_down", "share_up"), [(False, True), (True, False), (False, False)])
def test_shared_sides_have_one_copy_and_all_copies_start_equal(share_down: bool, share_up: bool) -> None:
    mixture = adamix.Mixture(nn.Linear(5, 8), adamix.Config(3, 4, share_up, share_down))
    for side, shared in ((mixture.down, share_down), (mixture.up, share_up)):
        assert len(side.W) == len(side.b) == (1 if shared else 3)
        assert all(torch.equal(W, side.W[0]) for W in side.W)
        assert side.W[0].std() > 0


def test_divergence_is_the_symmetric_one_and_each_target_takes_no_gradient() -> None:
    p, q = (torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    where = torch.tensor([[True, False, True], [True, True, False]])
    value = adamix.divergence(p, q, where)
    expected = torch.zeros((), dtype=torch.float64)
    to_p, to_q = torch.zeros_like(p), torch.zeros_like(q)
    for row, column in where.nonzero().tolist():
        a, b = p[row, column].detach().exp(), q[row, column].detach().exp()
        a, b = a / a.sum(), b / b.sum()
        expected += 0.5 * ((a * (a / b).log()).sum() + (b * (b / a).log()).sum()) / 4
        to_p[row, column], to_q[row, column] = 0.5 * (a - b) / 4, 0.5 * (b - a) / 4  # of softmax against fixed targets
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value.backward()
    torch.testing.assert_close(p.grad, to_p, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(q.grad, to_q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_loss_is_the_first_passs_plus_the_divergence_at_labelled_predictions(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    randomise(adamix.attach(model, adamix.Config(share_up=False, consistency=2.0))).train()
    torch.manual_seed(7)
    total = adamix.loss(model, batch)
    torch.manual_seed(7)
    first, second = model(**batch), model(**batch)
    p, q = first.logits.log_softmax(-1), second.logits.log_softmax(-1)
    if family == "llama":  # the prediction of a token stands one before it
        p, q = p[:, :-1][batch["labels"][:, 1:] != -100], q[:, :-1][batch["labels"][:, 1:] != -100]
    elif family == "t5":
        p, q = p[batch["labels"] != -100], q[batch["labels"] != -100]
    kl = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean() / 2
    assert kl > 1e-4, "the two passes agree: the test would be blind"
    torch.testing.assert_close(total, first.loss + 2.0 * kl, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [adamix.Config(n_experts=0), adamix.Config(bottleneck=0)])
def test_no_copies_and_empty_bottlenecks_are_refused(config: adamix.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="at least 1"):
        adamix.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
