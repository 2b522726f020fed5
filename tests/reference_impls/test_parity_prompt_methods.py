"""P-tuning and LLaMA-Adapter equal Hugging Face PEFT's where the definitions agree; each difference is shown."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralForCausalLM

from reference_impls import llama_adapter, p_tuning
from reference_impls._site import instances

peft = pytest.importorskip("peft")

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
P = 4
MISTRAL = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
MISTRAL |= {"num_key_value_heads", "max_position_embeddings", "initializer_range", "pad_token_id"}
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


@pytest.mark.parity("p_tuning")
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
@pytest.mark.parametrize("family", TASKS)
def test_p_tuning_equals_peft(family: str, encoder: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(family)
    theirs = peft.get_peft_model(
        copy.deepcopy(model),
        peft.PromptEncoderConfig(
            task_type=TASKS[family],
            num_virtual_tokens=P,
            num_transformer_submodules=1,
            encoder_reparameterization_type=encoder.upper(),
            encoder_hidden_size=6,
            encoder_num_layers=2,
        ),
    ).eval()
    settings = p_tuning.Config(prompt_length=P, encoder=encoder, hidden=6)  # type: ignore[arg-type]
    ours = randomise(p_tuning.attach(model, settings)).eval()
    other = theirs.prompt_encoder["default"]
    pairs = {"P": other.embedding.weight}
    if encoder == "lstm":
        pairs |= {f"encoder.lstm.{name}": p for name, p in other.lstm_head.named_parameters()}
        pairs |= {f"encoder.mlp.{name}": p for name, p in other.mlp_head.named_parameters()}
    else:
        pairs |= {f"encoder.{name}": p for name, p in other.mlp_head.named_parameters()}
    mine = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    assert mine.keys() == pairs.keys()
    with torch.no_grad():
        for name, parameter in pairs.items():
            parameter.copy_(mine[name])
    answers = [ours(**batch), theirs(**batch)]
    logits = answers[1].logits if family == "t5" else answers[1].logits[:, P:]
    torch.testing.assert_close(answers[0].logits, logits, rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.loss.backward()
    for name, parameter in pairs.items():
        torch.testing.assert_close(
            mine[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def prompted_pair(
    model: nn.Module, randomise: Randomise
) -> tuple[nn.Module, nn.Module, list[tuple[nn.Module, nn.Module]]]:
    """Our LLaMA-Adapter with equal gates in all heads of a layer, PEFT's with the same numbers, and the layers' pairs."""
    settings = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=P, adapter_layers=2)
    theirs = peft.get_peft_model(copy.deepcopy(model), settings).eval()
    ours = randomise(llama_adapter.attach(model, llama_adapter.Config(prompt_length=P))).eval()
    mine = [one for _, one in instances(ours, llama_adapter.PromptedAttention)]
    other = [one for one in theirs.modules() if hasattr(one, "adaption_gate")]
    pairs = list(zip(mine, other, strict=True))
    with torch.no_grad():
        for at, (one, two) in enumerate(pairs):
            gate = 0.3 + 0.2 * at
            one.g.fill_(math.atanh(gate))
            two.adaption_gate.fill_(gate)
            two.adaption_prompt.copy_(one.P[None])
    return ours, theirs, pairs


@pytest.mark.parity("llama_adapter")
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_llama_adapter_equals_peft_with_one_open_gate_per_layer(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny("llama")
    if family == "mistral":
        sizes = {key: value for key, value in model.config.to_dict().items() if key in MISTRAL}
        model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=None)).eval()
    ours, theirs, pairs = prompted_pair(model, randomise)
    answers = [ours(**batch), theirs(**batch)]
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.loss.backward()
    for one, two in pairs:
        torch.testing.assert_close(one.P.grad[None], two.adaption_prompt.grad, rtol=1e-4, atol=1e-6)
        slope = 1 - torch.tanh(one.g) ** 2  # PEFT trains the gate itself, we its inverse tanh, once per head
        torch.testing.assert_close(
            (one.g.grad / slope).sum(0, keepdim=True), two.adaption_gate.grad, rtol=1e-4, atol=1e-6
        )


def test_peft_adds_gpt2s_prompts_behind_the_output_projection_without_passing_it(
    make_tiny: MakeTiny, randomise: Randomise
) -> None:
    """PEFT 0.21 knows no output projection for GPT-2: the prompts' values reach the residual stream as they are."""
    ours, theirs, pairs = prompted_pair(make_tiny("gpt2")[0], randomise)
    batch = make_tiny("gpt2")[1]
    expected = theirs(**batch).logits
    assert (ours(**batch).logits - expected).abs().max() > 1e-3
    for one, _ in pairs:
        project = one.project
        one.project = lambda role, x, project=project: x if role == "o" else project(role, x)
    torch.testing.assert_close(ours(**batch).logits, expected, rtol=1e-5, atol=1e-5)
