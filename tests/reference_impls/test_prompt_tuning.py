"""Prompt tuning against its equation: the prompt joined to the embeddings by hand."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    GPT2Config,
    OPTConfig,
    PretrainedConfig,
    RobertaConfig,
)

from reference_impls import prompt_tuning

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
P = 6
LAYERS = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "vocab_size": 20,
}
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}


def adapted(model: nn.Module) -> prompt_tuning.PromptModel:
    model = prompt_tuning.attach(model.double(), prompt_tuning.Config(prompt_length=P))
    nn.init.normal_(model.P)
    return model.eval()


def by_hand(model: prompt_tuning.PromptModel, batch: dict[str, Tensor], at: int) -> dict[str, Tensor]:
    """Embeddings and mask with the prompt behind the first ``at`` tokens, example by example."""
    rows, masks = [], []
    for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        words = [model.base.get_input_embeddings().weight[token] for token in tokens]
        rows.append(torch.stack([*words[:at], *model.P, *words[at:]]))
        masks.append(torch.cat((mask[:at], torch.ones(P, dtype=mask.dtype), mask[at:])))
    return {"inputs_embeds": torch.stack(rows), "attention_mask": torch.stack(masks)}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoder_reads_the_prompt_in_front_and_answers_for_the_tokens(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    model = adapted(model)
    logits = model.base(**by_hand(model, batch, 0)).logits
    output = model(**batch)
    torch.testing.assert_close(output.logits, logits[:, P:], rtol=1e-10, atol=1e-10)
    scores = logits[:, P - 1 : -1].log_softmax(-1)  # the last prompt position predicts the first token
    counted = batch["labels"] != -100
    picked = scores.gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(output.loss, -picked[counted].mean().float(), rtol=1e-5, atol=1e-5)


def test_encoder_keeps_its_first_token_first(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    model = adapted(model)
    expected = model.base(**by_hand(model, batch, 1)).logits
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-10, atol=1e-10)
    typed = model(**batch, token_type_ids=torch.zeros_like(batch["input_ids"]))
    torch.testing.assert_close(typed.logits, expected, rtol=1e-10, atol=1e-10)


def test_encoder_decoder_reads_the_prompt_in_the_encoder(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("t5")
    model = adapted(model)
    expected = model.base(**by_hand(model, batch, 0), labels=batch["labels"])
    output = model(**batch)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(output.loss, expected.loss)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_generation_follows_the_logits(family: str, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(family)
    model = adapted(model)
    tokens = batch["input_ids"][:1, :5]
    answer = model.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=True)
    if family == "t5":
        logits = model(input_ids=tokens, decoder_input_ids=answer[:, :-1]).logits
        assert torch.equal(logits[:, 1:].argmax(-1), answer[:, 2:])
    else:
        assert torch.equal(answer[:, :5], tokens)
        logits = model(input_ids=answer[:, :-1]).logits
        assert torch.equal(logits[:, 5:].argmax(-1), answer[:, 6:])


def test_prompt_starts_as_common_words_or_uniform(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    table = model.get_input_embeddings().weight.detach()
    words = prompt_tuning.PromptModel(model, 50, vocabulary=7).P
    assert all((table[:7] == row).all(dim=1).any() for row in words)
    uniform = prompt_tuning.PromptModel(model, 50, vocabulary=0).P
    assert 0.45 < uniform.abs().max() <= 0.5


def test_input_that_leaves_no_room_is_refused(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    room = model.config.max_position_embeddings
    model = prompt_tuning.attach(model, prompt_tuning.Config(prompt_length=room - 5))
    with pytest.raises(ValueError, match="room for 5 tokens, not for 10"):
        model(**batch)


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(max_position_embeddings=32, **SIZES),
        RobertaConfig(max_position_embeddings=34, **SIZES),  # counts from behind the padding's
        OPTConfig(
            max_position_embeddings=32, ffn_dim=16, **SIZES
        ),  # these two from two, in a table that is as much longer
        BartConfig(max_position_embeddings=32, d_model=8, **LAYERS),
        GPT2Config(n_positions=32, **SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_positions_are_those_that_a_sequence_can_have(config: PretrainedConfig) -> None:
    assert prompt_tuning.positions(AutoModel.from_config(config)) == 32


def test_positions_that_are_computed_have_no_limit(make_tiny: MakeTiny) -> None:
    assert prompt_tuning.positions(make_tiny("llama")[0]) == sys.maxsize


def test_what_cannot_be_joined_is_refused(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model = adapted(model)
    with pytest.raises(ValueError, match="position_ids cannot be combined"):
        model(**batch, position_ids=torch.arange(10)[None])
    with pytest.raises(ValueError, match="needs input_ids or inputs_embeds"):
        model(attention_mask=batch["attention_mask"])


@pytest.mark.parametrize("config", [prompt_tuning.Config(prompt_length=0), prompt_tuning.Config(vocabulary=-1)])
def test_impossible_prompt_is_refused(config: prompt_tuning.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="is impossible"):
        prompt_tuning.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
