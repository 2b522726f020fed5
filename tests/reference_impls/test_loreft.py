"""LoReFT against its equation, in float64, and against the positions that it is to edit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import loreft
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]


def first_edit(model: nn.Module) -> loreft.Edited:
    return next(edit for _, edit in instances(model, loreft.Edited))


def orthonormal(A: Tensor) -> Tensor:
    """Gram and Schmidt's procedure on the rows of A."""
    rows: list[Tensor] = []
    for row in A:
        for one in rows:
            row = row - (row @ one) * one
        rows.append(row / row.norm())
    return torch.stack(rows)


def test_edit_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("llama")
    model = randomise(loreft.attach(model.double(), loreft.Config(rank=3, prefix_positions=2, suffix_positions=1)))
    edit = first_edit(model)
    nn.init.normal_(edit.A)
    R = orthonormal(edit.A)
    torch.testing.assert_close(edit.rows(), R, rtol=1e-10, atol=1e-10)
    h = torch.randn(2, 6, 64, dtype=torch.float64)
    where = torch.tensor([[0, 1, 5], [2, 3, 4]])
    expected = h.clone()
    for b in range(2):
        for i in where[b]:
            expected[b, i] = h[b, i] + R.T @ (edit.W @ h[b, i] + edit.b - R @ h[b, i])
    given = edit.edited(h, where, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-10)


def test_rows_stay_orthonormal_in_training(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model = loreft.attach(model, loreft.Config(rank=4)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = first_edit(model).rows()
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
    R = first_edit(model).rows()
    assert (R - before).abs().max() > 1e-2
    torch.testing.assert_close(R @ R.T, torch.eye(4), rtol=0, atol=1e-5)


def naive_places(mask: list[int], labels: list[int] | None, first: int, last: int) -> set[int]:
    """The edited positions of one row, counted token by token."""
    prompt = [i for i, real in enumerate(mask) if real]
    if labels is not None and any(label != -100 for label in labels):
        answer = next(i for i, label in enumerate(labels) if label != -100)
        prompt = [i for i in prompt if i < answer] or prompt
    return {*prompt[:first], *(prompt[-last:] if last else [])}


@pytest.mark.parametrize(("first", "last"), [(2, 1), (7, 7), (0, 3), (3, 0)])
def test_first_and_last_tokens_of_the_prompt_are_edited_once(first: int, last: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    model = loreft.attach(model, loreft.Config(rank=2, prefix_positions=first, suffix_positions=last))
    masks = [[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6, [1] * 9, [1] * 9]
    labels = [[-100] * 4 + [7] * 5, [-100] * 3 + [7] * 2 + [-100] * 4, [-100] * 6 + [7] * 3, [7] * 9, [-100] * 9]
    tokens = torch.full((5, 9), 5)
    for with_labels in (True, False):
        given = torch.tensor(labels) if with_labels else None
        where, counts = model.locate(tokens, torch.tensor(masks), given)
        for row in range(5):
            chosen = where[row][counts[row]].tolist()
            assert len(chosen) == len(set(chosen))
            assert set(chosen) == naive_places(masks[row], labels[row] if with_labels else None, first, last), row


def test_blocks_edit_at_those_positions_and_nowhere_else(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("gpt2")
    model = randomise(loreft.attach(model, loreft.Config(rank=2, prefix_positions=1, suffix_positions=1)))
    edit = first_edit(model)
    plain: list[Tensor] = []
    edited: list[Tensor] = []
    state = lambda output: output[0] if isinstance(output, tuple) else output  # noqa: E731
    edit.base.register_forward_hook(lambda *call: plain.append(state(call[-1])))
    edit.register_forward_hook(lambda *call: edited.append(state(call[-1])))
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    moved = (plain[0] != edited[0]).any(-1)
    for row, length in enumerate((10, 7, 10, 5)):
        assert moved[row].nonzero()[:, 0].tolist() == [0, length - 1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("length", [1, 6])
def test_generated_tokens_are_not_edited(family: str, length: int, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(family)
    model = randomise(loreft.attach(model, loreft.Config(rank=4, prefix_positions=2, suffix_positions=2)))
    question = batch["input_ids"][:2, :length]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    answers = [model.generate(question, **options, use_cache=use) for use in (True, False)]
    assert torch.equal(*answers)
    labels = answers[0].clone()
    labels[:, :length] = -100
    guess = model(input_ids=answers[0], labels=labels).logits.argmax(-1)  # with the answer in place, as in training
    assert torch.equal(guess[:, length:-1], answers[0][:, length + 1 :])
    searched = model.generate(question, **options, num_beams=2)
    assert searched.shape == answers[0].shape


def test_step_from_a_cache_is_not_edited(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    model = randomise(loreft.attach(model, loreft.Config(rank=4, prefix_positions=2, suffix_positions=0)))
    tokens = batch["input_ids"][:1, :6]
    cache = model(input_ids=tokens[:, :5], use_cache=True).past_key_values
    last = model(input_ids=tokens[:, 5:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(last, model(input_ids=tokens).logits[:, -1], rtol=1e-4, atol=1e-5)


def test_fewer_layers_are_spread_over_the_model(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    loreft.attach(model, loreft.Config(n_layers=1))
    assert [name for name, _ in instances(model, loreft.Edited)] == ["model.layers.1"]


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("llama", loreft.Config(rank=0), "rank 0 does not fit"),
        ("llama", loreft.Config(rank=65), "rank 65 does not fit"),
        ("llama", loreft.Config(n_layers=0), "0 layers must be at least 1"),
        ("llama", loreft.Config(prefix_positions=0, suffix_positions=0), "no state to edit"),
        ("t5", loreft.Config(), "not one stack"),
        ("vit", loreft.Config(), "not one stack"),
    ],
)
def test_what_cannot_work_is_refused(family: str, config: loreft.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    with pytest.raises(ValueError, match=message):
        loreft.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
