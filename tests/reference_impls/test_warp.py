"""WARP against its equation: the cloze question put together by hand, token by token, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import warp
from reference_impls._surgery import detach

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
MASK, END, PAD = 4, 3, 0
CONFIG = warp.Config(prompt_length=8, n_classes=3, mask_token=MASK, separator=END)
ROWS = [
    [1, 10, 11, 12, END, END, 13, 14, END],  # two sentences
    [1, 10, 11, END, PAD, PAD, PAD, PAD, PAD],  # one
    [1, 20, 21, 22, 23, PAD, PAD, PAD, PAD],  # one without a separator
    [PAD, PAD, 1, 10, END, 11, 12, 13, END],  # padded in front
]


def by_hand(row: list[int]) -> list[str | int]:
    """The row as a cloze question; prompts are strings."""
    tokens = [token for token in row if token != PAD]
    ends = [i for i, token in enumerate(tokens) if token == END] or [len(tokens)]
    out: list[str | int] = []
    for i, token in enumerate([*tokens, None]):
        if i == ends[0]:
            out += ["P2", "P3", MASK, "P4", "P5"]
        if i == ends[-1]:
            out += ["P6", "P7"]
        if token is not None:
            out.append(token)
        if i == 0:
            out += ["P0", "P1"]
    return out


@pytest.fixture
def model(make_tiny: MakeTiny, randomise: Randomise) -> warp.WarpModel:
    base, _ = make_tiny("bert_mlm")
    return randomise(warp.attach(base.double(), CONFIG)).eval()


def test_logits_are_the_papers_equation(model: warp.WarpModel) -> None:
    tokens = torch.tensor(ROWS)
    mask = (tokens != PAD).long()
    given = model(input_ids=tokens, attention_mask=mask).logits
    table, head = model.get_input_embeddings().weight, model.base.cls.predictions
    for at, row in enumerate(ROWS):
        question = by_hand(row)
        vectors = [model.P[int(part[1])] if isinstance(part, str) else table[part] for part in question]
        front = 2 if row[0] == PAD else 0  # positions start behind the padding
        place = torch.arange(front, front + len(question))[None]
        states = model.base.bert(inputs_embeds=torch.stack(vectors)[None], position_ids=place).last_hidden_state[0]
        h = head.transform(states[question.index(MASK)])
        expected = torch.stack([model.head.v[c] @ h + model.head.a[c] for c in range(3)])
        torch.testing.assert_close(given[at], expected, rtol=1e-9, atol=1e-9)


def test_loss_is_cross_entropy_or_for_one_class_a_square(make_tiny: MakeTiny, model: warp.WarpModel) -> None:
    tokens = torch.tensor(ROWS)
    labels = torch.tensor([0, 2, 1, 1])
    output = model(input_ids=tokens, labels=labels)
    picked = output.logits.log_softmax(-1)[torch.arange(4), labels]
    torch.testing.assert_close(output.loss, -picked.mean().float(), rtol=1e-5, atol=1e-6)
    single = warp.Config(prompt_length=8, n_classes=1, mask_token=MASK, separator=END)
    regression = warp.attach(make_tiny("bert_mlm")[0], single)
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0])
    output = regression(input_ids=tokens, labels=scores)
    torch.testing.assert_close(output.loss, (output.logits[:, 0] - scores).square().mean())


def test_prompts_start_as_the_mask_and_classes_as_words(make_tiny: MakeTiny) -> None:
    model = warp.attach(make_tiny("bert_mlm")[0], CONFIG)
    table = model.get_input_embeddings().weight
    assert torch.equal(model.P, table[MASK].expand(8, -1))
    warp.verbalize(model, [7, 8, 9])
    tokens = torch.tensor(ROWS)
    logits = model(input_ids=tokens).logits
    states: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda layer, inputs: states.append(inputs[0][torch.arange(4), layer.at]))
    assert torch.equal(model(input_ids=tokens).logits, logits)
    words = model.head.base(states[0]) - model.head.base.bias  # what the model's own map to words says at the mask
    torch.testing.assert_close(logits, words[:, [7, 8, 9]], rtol=1e-5, atol=1e-5)


def test_detaching_gives_the_map_to_words_back(model: warp.WarpModel) -> None:
    base = detach(model)
    assert type(base.cls.predictions.decoder) is nn.Linear
    assert base(input_ids=torch.tensor(ROWS)).logits.shape == (4, 9, 96)


def test_words_must_be_as_many_as_classes(model: warp.WarpModel) -> None:
    with pytest.raises(ValueError, match="2 words for 3 classes"):
        warp.verbalize(model, [1, 2])


def test_input_that_leaves_no_room_is_refused(model: warp.WarpModel) -> None:
    with pytest.raises(ValueError, match="room for 247 tokens, not for 250"):
        model(input_ids=torch.full((1, 250), 5))


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("bert", CONFIG, "no masked language model"),
        ("llama", CONFIG, "no masked language model"),
        ("t5", CONFIG, "no masked language model"),
        ("bert_mlm", warp.Config(prompt_length=3, mask_token=MASK), "3 prompts for 2 classes"),
        ("bert_mlm", warp.Config(n_classes=0, mask_token=MASK), "for 0 classes"),
        ("bert_mlm", warp.Config(), "mask token 50264 is not in the vocabulary"),
    ],
)
def test_what_cannot_work_is_refused(family: str, config: warp.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    with pytest.raises(ValueError, match=message):
        warp.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
