"""P-tuning against its equation: the recurrent network written out step by step, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import p_tuning, prompt_tuning
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
P = 5


def direction(x: Tensor, weights: list[Tensor]) -> Tensor:
    """One direction of one LSTM layer, step by step: input, forget, cell and output gate in this order."""
    w_in, w_state, b_in, b_state = weights
    h = c = x.new_zeros(w_state.shape[1])
    out = []
    for row in x:
        i, f, g, o = (w_in @ row + b_in + w_state @ h + b_state).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out)


def lstm(x: Tensor, layer: nn.LSTM) -> Tensor:
    """Two layers, each read forwards and backwards."""
    for at in range(2):
        names = [f"weight_ih_l{at}", f"weight_hh_l{at}", f"bias_ih_l{at}", f"bias_hh_l{at}"]
        forth = direction(x, [getattr(layer, name) for name in names])
        back = direction(x.flip(0), [getattr(layer, f"{name}_reverse") for name in names]).flip(0)
        x = torch.cat((forth, back), dim=1)
    return x


@pytest.mark.parametrize("hidden", [None, 3])
def test_prompt_is_the_papers_equation(hidden: int | None, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("llama")
    model = randomise(p_tuning.attach(model.double(), p_tuning.Config(prompt_length=P, hidden=hidden)))
    first, _, last = model.encoder.mlp
    states = lstm(model.P, model.encoder.lstm)
    expected = torch.relu(states @ first.weight.T + first.bias) @ last.weight.T + last.bias
    assert model.encoder.lstm.hidden_size == (32 if hidden is None else hidden)
    torch.testing.assert_close(model.prompt(), expected, rtol=1e-10, atol=1e-10)


def test_perceptron_has_three_maps(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("llama")
    config = p_tuning.Config(prompt_length=P, encoder="mlp", hidden=7)
    model = randomise(p_tuning.attach(model.double(), config))
    x = model.P
    for at in (0, 2, 4):
        x = x @ model.encoder[at].weight.T + model.encoder[at].bias
        x = torch.relu(x) if at < 4 else x
    torch.testing.assert_close(model.prompt(), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_model_reads_the_prompt_as_prompt_tuning_would(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(family)
    model = randomise(p_tuning.attach(model, p_tuning.Config(prompt_length=P)))
    plain = prompt_tuning.attach(make_tiny(family)[0], prompt_tuning.Config(prompt_length=P))
    with torch.no_grad():
        plain.P.copy_(model.prompt())
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits)
    torch.testing.assert_close(model(**batch).loss, plain(**batch).loss)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_template_puts_the_vectors_at_the_placeholders(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(family)
    hole = 500  # outside the vocabulary
    model = randomise(p_tuning.attach(model.double(), p_tuning.Config(prompt_length=3, placeholder=hole)))
    tokens = batch["input_ids"][:2].clone()
    places = [(1, 2, 8), (0, 4, 5)]
    for row, where in enumerate(places):
        tokens[row, list(where)] = hole
    prompt, table = model.prompt(), model.get_input_embeddings().weight
    rows = []
    for row, where in enumerate(places):
        vectors = [prompt[where.index(i)] if i in where else table[tokens[row, i]] for i in range(tokens.shape[1])]
        rows.append(torch.stack(vectors))
    mask = batch["attention_mask"][:2]
    labels = batch["labels"][:2]
    expected = model.base(inputs_embeds=torch.stack(rows), attention_mask=mask, labels=labels)
    output = model(input_ids=tokens, attention_mask=mask, labels=labels)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output.loss, expected.loss)


def test_more_placeholders_than_vectors_are_refused(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model = p_tuning.attach(model, p_tuning.Config(prompt_length=2, placeholder=500))
    tokens = batch["input_ids"].clone()
    tokens[0, :3] = 500
    with pytest.raises(ValueError, match="more than 2 placeholders 500"):
        model(input_ids=tokens)


def test_flattening_changes_no_output_and_leaves_p_times_d_numbers(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    model = randomise(p_tuning.attach(model, p_tuning.Config(prompt_length=P)))
    expected = model(**batch).logits
    p_tuning.flatten(model)
    torch.testing.assert_close(model(**batch).logits, expected)
    assert [tuple(tensor.shape) for tensor in adapter_state(model).values()] == [(P, 64)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (p_tuning.Config(prompt_length=0), "prompt of length 0"),
        (p_tuning.Config(hidden=0), "network 'lstm' of width 0"),
        (p_tuning.Config(encoder="gru"), "network 'gru'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_prompt_is_refused(config: p_tuning.Config, message: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=message):
        p_tuning.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
