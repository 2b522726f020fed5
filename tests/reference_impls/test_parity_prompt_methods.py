"""P-tuning and LLaMA-Adapter equal Hugging Face PEFT's where the definitions agree; each difference is shown."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import p_tuning

peft = pytest.importorskip("peft")

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
P = 4
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


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
