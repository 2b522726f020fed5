"""Prompt and prefix tuning equal Hugging Face PEFT's, numbers and gradients; each difference of definition is shown."""

import copy
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from reference_impls import p_tuning_v2, prefix_tuning, prompt_tuning
from reference_impls._site import instances

peft = pytest.importorskip("peft")

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
P, HIDDEN = 4, 5
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "SEQ_CLS"}


def prompt_pair(family: str, make_tiny: MakeTiny) -> tuple[nn.Module, nn.Module, Tensor, dict[str, Tensor]]:
    """Our model, PEFT's, PEFT's prompt, and a batch."""
    model, batch = make_tiny(family)
    config = peft.PromptTuningConfig(task_type=TASKS[family], num_virtual_tokens=P, num_transformer_submodules=1)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    ours = prompt_tuning.attach(model, prompt_tuning.Config(prompt_length=P)).eval()
    prompt = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        ours.P.copy_(prompt)
    return ours, theirs, prompt, batch


@pytest.mark.parity("prompt_tuning")
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_prompt_tuning_equals_peft(family: str, make_tiny: MakeTiny) -> None:
    ours, theirs, prompt, batch = prompt_pair(family, make_tiny)
    mine, other = ours(**batch), theirs(**batch)
    logits = other.logits if family == "t5" else other.logits[:, P:]  # PEFT also returns the prompt's own logits
    torch.testing.assert_close(mine.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.loss, other.loss)
    mine.loss.backward()
    other.loss.backward()
    torch.testing.assert_close(ours.P.grad, prompt.grad, rtol=1e-4, atol=1e-6)


def test_encoder_prompt_equals_pefts_but_for_its_place(make_tiny: MakeTiny) -> None:
    ours, theirs, _, batch = prompt_pair("bert", make_tiny)
    expected = theirs(**batch).logits
    assert (ours(**batch).logits - expected).abs().max() > 1e-3  # ours: behind [CLS], which the head reads
    ours.at = 0  # PEFT's: in front, so that the head reads the first prompt vector
    torch.testing.assert_close(ours(**batch).logits, expected, rtol=1e-5, atol=1e-5)


def prefix_pair(
    family: str, hidden: int | None, make_tiny: MakeTiny, method: ModuleType = prefix_tuning
) -> tuple[nn.Module, nn.Module, nn.Module, dict[str, Tensor]]:
    """Our model, PEFT's with the same numbers, PEFT's prefix, and a batch."""
    model, batch = make_tiny(family)
    config = peft.PrefixTuningConfig(
        task_type=TASKS[family], num_virtual_tokens=P, prefix_projection=hidden is not None, encoder_hidden_size=hidden
    )
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    ours = method.attach(model, method.Config(P, hidden)).eval()
    prefix = theirs.prompt_encoder["default"]
    places = [place for _, place in instances(ours, prefix_tuning.PrefixAttention)]
    with torch.no_grad():
        if hidden is None:
            for place, numbers in zip(places, prefix.embedding.weight.chunk(len(places), dim=1), strict=True):
                keys, values = numbers.chunk(2, dim=1)
                place.prefix.P_k.copy_(keys)
                place.prefix.P_v.copy_(values)
        else:
            first, _, last = prefix.transform
            network = places[0].prefix.network
            network.E.copy_(prefix.embedding.weight)
            network.inner.load_state_dict(first.state_dict())
            for place, weight, bias in zip(
                places, last.weight.chunk(len(places)), last.bias.chunk(len(places)), strict=True
            ):
                place.prefix.outer.weight.copy_(weight)
                place.prefix.outer.bias.copy_(bias)
    return ours, theirs, prefix, batch


@pytest.mark.parity("prefix_tuning", "p_tuning_v2")
@pytest.mark.parametrize("method", [prefix_tuning, p_tuning_v2], ids=["prefix_tuning", "p_tuning_v2"])
@pytest.mark.parametrize(("family", "hidden"), [("llama", None), ("gpt2", None), ("gpt2", HIDDEN)])
def test_prefix_tuning_equals_peft_at_pefts_positions(
    family: str, hidden: int | None, method: ModuleType, make_tiny: MakeTiny
) -> None:
    ours, theirs, prefix, batch = prefix_pair(family, hidden, make_tiny, method)
    mine, other = ours(**batch, position_ids=torch.arange(P, P + 10)[None]), theirs(**batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(mine.logits[real], other.logits[real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.loss, other.loss)
    mine.loss.backward()
    other.loss.backward()
    places = [place.prefix for _, place in instances(ours, prefix_tuning.PrefixAttention)]
    if hidden is None:
        gradient = torch.cat([part for place in places for part in (place.P_k.grad, place.P_v.grad)], dim=1)
        torch.testing.assert_close(gradient, prefix.embedding.weight.grad, rtol=1e-4, atol=1e-6)
    else:
        first, _, last = prefix.transform
        gradient = torch.cat([place.outer.weight.grad for place in places])
        torch.testing.assert_close(gradient, last.weight.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(places[0].network.inner.weight.grad, first.weight.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(places[0].network.E.grad, prefix.embedding.weight.grad, rtol=1e-4, atol=1e-6)


def test_rotating_the_prefix_keys_makes_up_for_pefts_shift_of_rotary_positions(make_tiny: MakeTiny) -> None:
    ours, theirs, _, batch = prefix_pair("llama", None, make_tiny)
    real = batch["attention_mask"].bool()
    expected = theirs(**batch).logits[real]
    assert (ours(**batch).logits[real] - expected).abs().max() > 1e-4
    cos, sin = ours.model.rotary_emb(torch.zeros(1), torch.tensor([[P]]))  # the turn by P positions
    for _, place in instances(ours, prefix_tuning.PrefixAttention):
        keys = place.prefix.P_k.detach().unflatten(-1, (-1, cos.shape[-1]))
        one, two = keys.chunk(2, -1)
        turned = keys * cos[0] - torch.cat((-two, one), -1) * sin[0]  # backwards
        with torch.no_grad():
            place.prefix.P_k.copy_(turned.flatten(-2))
    torch.testing.assert_close(ours(**batch).logits[real], expected, rtol=1e-4, atol=1e-5)


def test_learned_positions_notice_pefts_shift(make_tiny: MakeTiny) -> None:
    ours, theirs, _, batch = prefix_pair("gpt2", None, make_tiny)
    assert (ours(**batch).logits - theirs(**batch).logits)[batch["attention_mask"].bool()].abs().max() > 1e-3


def test_peft_gives_t5_only_its_decoders_self_attention_a_prefix_and_each_layer_that_of_twice_its_number(
    make_tiny: MakeTiny,
) -> None:
    """PEFT 0.21 doubles the list of keys and values, then deals it out four per layer: in layer i stands pair 2 i."""
    model, batch = make_tiny("t5")
    layers = model.config.num_layers
    sizes = {"token_dim": 4 * 8, "num_attention_heads": 4, "num_layers": layers}  # by itself it takes d_model for d_kv
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P, **sizes)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    target = r"decoder\.block\.\d+\.layer\.0\.SelfAttention"
    ours = prefix_tuning.attach(model, prefix_tuning.Config(prefix_length=P, hidden=None, target=target)).eval()
    chunks = theirs.prompt_encoder["default"].embedding.weight.chunk(2 * layers, dim=1)

    def fill(order: list[int]) -> Tensor:
        places = [place for _, place in instances(ours, prefix_tuning.PrefixAttention)]
        with torch.no_grad():
            for place, at in zip(places, order, strict=True):
                place.prefix.P_k.copy_(chunks[2 * at])
                place.prefix.P_v.copy_(chunks[2 * at + 1])
        return ours(**batch).logits

    expected = theirs(**batch).logits
    torch.testing.assert_close(fill([2 * i % layers for i in range(layers)]), expected, rtol=1e-4, atol=1e-5)
    assert (fill(list(range(layers))) - expected).abs().max() > 1e-2
