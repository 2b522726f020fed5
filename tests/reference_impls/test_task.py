"""The ladder of tasks, and the base that knows the skills and none of the rungs."""

import json
import math

import pytest
import torch
from torch import nn

from reference_impls.ladder import base as shipped
from reference_impls.ladder import task
from reference_impls.ladder.base import pretrain

LETTERS = "abcdefghijkl"

EXPECTED = {  # written out by hand
    "copy": ("b a l c d d", "b a l c d d"),
    "reverse": ("b a l c d d", "d d c l a b"),
    "shift_up": ("b a l c d d", "c b a d e e"),
    "shift_down": ("b a l c d d", "a l k b c c"),
    "sort": ("b a l c d d", "a b c d d l"),
    "rotate": ("b a l c d e", "a l c d e b"),
    "swap_pairs": ("b a l c d e", "a b c l e d"),
    "mirror": ("b a l c d e", "b a l l a b"),
    "rename": ("b a l c d d", "d d c l a b"),
    "composition": ("b a l c d d", "e e d a b c"),
    "new_skill": ("b a l c d e", "e d c l a b"),
}
RULES = {**task.SKILLS, **{name: rung.rule for name, rung in task.RUNGS.items()}}


def letters(text: str) -> torch.Tensor:
    return torch.tensor([[LETTERS.index(letter) for letter in text.split()]])


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return shipped.load_base()


@pytest.mark.parametrize("name", RULES)
def test_rule_gives_the_answer_written_out_by_hand(name: str) -> None:
    question, answer = EXPECTED[name]
    assert torch.equal(RULES[name](letters(question)), letters(answer))


def test_new_skill_turns_a_row_of_late_first_letter_to_the_right() -> None:
    rule = task.RUNGS["new_skill"].rule
    assert torch.equal(rule(letters("g a l c d e")), letters("e g a l c d"))
    assert torch.equal(rule(letters("f a l c d e")), letters("e d c l a f"))


def test_row_is_name_letters_mark_answer_and_end() -> None:
    x = letters("b a l c d d")
    prefix = torch.tensor([[task.VOCABULARY.index("reverse")]])
    batch = task.rows(prefix, x, x.flip(1))
    assert task.text(batch["input_ids"][0]) == "reverse b a l c d d = d d c l a b <eos>"
    assert batch["labels"][0, :8].eq(-100).all()
    assert torch.equal(batch["labels"][0, 8:], batch["input_ids"][0, 8:])


def test_stream_repeats_for_a_seed_and_differs_between_seeds() -> None:
    rung = task.RUNGS["rename"]
    one, same, other = (next(task.stream(rung, 8, seed))["input_ids"] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_exam_shares_no_batch_with_training() -> None:
    rung = task.RUNGS["rename"]
    questions = {tuple(row) for row in task.exam(rung)["input_ids"].tolist()}
    learned = {tuple(row) for row in next(task.stream(rung, 4096, 0))["input_ids"].tolist()}
    assert len(questions & learned) < 0.02 * len(questions)  # chance: 4096 of 12^6 rows


def test_pretraining_never_shows_the_name_of_a_rung() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.cat([task.skill_batch(256, generator, words)["input_ids"].flatten() for words in (0, 3, 16)])
    assert not any((seen == task.VOCABULARY.index(name)).any() for name in task.RUNGS)


def test_pretraining_rows_hold_one_name_and_its_answer() -> None:
    batch = task.skill_batch(64, torch.Generator().manual_seed(0), words=3)
    for row in batch["input_ids"]:
        words = task.text(row).split()
        (name,) = (word for word in words[:4] if word in task.SKILLS)
        question, answer = letters(" ".join(words[4:10])), letters(" ".join(words[11:17]))
        assert torch.equal(task.SKILLS[name](question), answer)


def test_new_skill_is_no_composition_of_two_skills() -> None:
    x = torch.randint(task.LETTERS, (256, task.LENGTH), generator=torch.Generator().manual_seed(0))
    wanted = task.RUNGS["new_skill"].rule(x)
    skills = task.SKILLS.values()
    assert not any(torch.equal(outer(inner(x)), wanted) for inner in skills for outer in skills)


@pytest.mark.parametrize("skill", task.SKILLS)
def test_base_knows_the_skill(base: nn.Module, skill: str) -> None:
    batch = task.named_batch(skill, task.SKILLS[skill], 512, torch.Generator().manual_seed(11))
    assert task.accuracy(base, batch).exact >= 0.99


@pytest.mark.parametrize("rung", task.RUNGS)
def test_base_cannot_do_the_rung(base: nn.Module, rung: str) -> None:
    assert task.accuracy(base, task.exam(task.RUNGS[rung])).exact < 0.2


def test_exact_match_is_that_of_greedy_decoding() -> None:
    model = shipped.load_base()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # so that the model is right only now and then
            parameter += 0.8 * parameter.std() * torch.randn_like(parameter)
    batch = task.named_batch("sort", task.SKILLS["sort"], 200, torch.Generator().manual_seed(5))
    decoded = task.decode(model, batch["input_ids"][:, : -task.ANSWER])
    right = (decoded == batch["input_ids"][:, -task.ANSWER :]).all(1).double().mean().item()
    assert 0.05 < right < 0.95
    assert task.accuracy(model, batch).exact == pytest.approx(right)


def test_accuracy_of_a_known_table() -> None:
    class Table(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            after = {1: 2, 2: 3, 3: 3}
            logits = torch.zeros(*input_ids.shape, 5)
            for row, ids in enumerate(input_ids.tolist()):
                for place, token in enumerate(ids):
                    logits[row, place, after[token]] = 1
            return type("Output", (), {"logits": logits})

    ids = torch.tensor([[1, 2, 3], [1, 2, 2]])
    labels = torch.tensor([[-100, 2, 3], [-100, 2, 2]])  # second row: 2 is guessed to be followed by 3
    got = task.accuracy(Table(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    assert (got.exact, got.token) == (0.5, 0.75)


def test_pretraining_script_starts_to_learn() -> None:
    torch.manual_seed(0)
    model = pretrain.build()
    losses = pretrain.pretrain(model, 20)
    assert losses[-1] < losses[0] - 0.5
    assert all(map(math.isfinite, losses))


def test_report_says_what_ships(base: nn.Module) -> None:
    report = json.loads((shipped.FOLDER / "report.json").read_text())
    assert report == shipped.report()
    assert report["parameters"] == sum(parameter.numel() for parameter in base.parameters())
    assert (report["seed"], report["batch"], report["lr"]) == (pretrain.SEED, pretrain.BATCH, pretrain.LR)
    assert report["steps"] == pretrain.STEPS
    assert min(report["skills_exact"].values()) >= 0.99
    assert max(report["rungs_exact_before_adaptation"].values()) < 0.2
    assert base.config.vocab_size == len(task.VOCABULARY)


def test_weights_are_small_enough_to_ship() -> None:
    assert (shipped.FOLDER / "model.safetensors").stat().st_size <= 4 * 2**20


def test_loading_the_base_leaves_the_callers_seed_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    shipped.load_base()
    assert torch.equal(torch.rand(3), expected)
