"""Intrinsic prompt tuning: the decoder against its equation in float64, and its three stages."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import ipt, prompt_tuning

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
QUICK = ipt.Config(
    intrinsic_dimension=4, prompt_length=3, width=6, source_steps=5, source_lr=0.1, space_steps=6, space_lr=0.01
)


def test_prompt_is_the_papers_equation(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    model = ipt.attach(model.double(), QUICK)
    for parameter in (model.z, *model.inner.parameters(), *model.outer.parameters()):
        nn.init.normal_(parameter)
    inner = torch.tanh(model.inner.weight @ model.z + model.inner.bias)
    flat = model.outer.weight @ inner + model.outer.bias
    expected = torch.stack([flat[64 * i : 64 * (i + 1)] for i in range(3)])
    torch.testing.assert_close(model.prompt(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_model_reads_the_decoded_prompt_as_prompt_tuning_would(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    model = randomise(ipt.attach(model, QUICK))
    plain = prompt_tuning.attach(make_tiny(family)[0], prompt_tuning.Config(prompt_length=3))
    with torch.no_grad():
        plain.P.copy_(model.prompt())
    expected = plain(**batch).logits
    torch.testing.assert_close(model(**batch).logits, expected)
    recovered = ipt.recover(model)
    torch.testing.assert_close(recovered(**batch).logits, expected)
    assert [(name, p.shape) for name, p in recovered.named_parameters() if p.requires_grad] == [("P", (3, 64))]


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_loss_smooths_the_labels(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    model = ipt.attach(model.double(), QUICK)
    scores, labels = model(**batch).logits.log_softmax(-1), batch["labels"]
    if family == "llama":
        scores, labels = scores[:, :-1], labels[:, 1:]
    each = []
    for row, label in zip(scores.flatten(0, -2), labels.flatten().tolist(), strict=True):
        if label != -100:
            each.append(-0.9 * row[label] - 0.1 * row.mean())
    torch.testing.assert_close(ipt.loss(model, batch), torch.stack(each).mean().float(), rtol=1e-5, atol=1e-5)


def test_space_is_learned_from_the_source_prompts_and_then_frozen(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make_tiny("llama")
    config = ipt.Config(
        intrinsic_dimension=4, prompt_length=3, width=32, source_steps=1, space_steps=150, space_lr=0.03
    )
    model = ipt.attach(model, config)
    known = [torch.randn(3, 64) for _ in range(2)]
    prompts = iter(known)
    monkeypatch.setattr(ipt, "learned", lambda *call, **named: (next(prompts), None))
    rebuilt: list[Tensor] = []
    task_loss = ipt.loss

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        rebuilt.append(model.prompt().detach())
        return task_loss(model, batch)

    monkeypatch.setattr(ipt, "loss", watched)
    decoder = model.outer.weight.clone()
    ipt.prepare(model, [batch | {"task_ids": torch.tensor([0, 0, 1, 1])}], config)
    assert next(prompts, None) is None, "each source task has had its prompt"
    first, last = (
        [(r - P).square().mean() for r, P in zip(pair, known, strict=True)] for pair in (rebuilt[:2], rebuilt[-2:])
    )
    assert max(last) < 0.1 * min(first), "the autoencoder rebuilds both prompts"
    assert (model.outer.weight - decoder).abs().max() > 1e-3
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["z"]
    assert model.code is None
    assert model.z.abs().max() < 0.2
    assert all(p.grad is None for p in model.parameters())


def test_rebuilt_prompts_must_solve_their_tasks(make_tiny: MakeTiny) -> None:
    losses = []
    for steps in (1, 60):
        model, batch = make_tiny("llama")
        config = ipt.Config(
            intrinsic_dimension=4,
            prompt_length=3,
            width=6,
            source_steps=1,
            space_steps=steps,
            space_lr=0.01,
            reconstruction=0.0,
        )
        torch.manual_seed(0)
        model = ipt.attach(model, config)
        ipt.prepare(model, [batch], config)
        with torch.no_grad():
            losses.append(model(**batch).loss.item())
    assert losses[1] < losses[0] - 0.1, "without reconstruction it is the task alone that shapes the space"


def test_only_the_code_moves_in_training(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("t5")
    model = ipt.attach(model, QUICK)
    ipt.prepare(model, [batch], QUICK)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ipt.loss(model, batch).backward()
    optimizer.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["z"]


@pytest.mark.parametrize("config", [ipt.Config(intrinsic_dimension=0), ipt.Config(width=0), ipt.Config(space_steps=0)])
def test_impossible_space_is_refused(config: ipt.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="at least 1"):
        ipt.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
