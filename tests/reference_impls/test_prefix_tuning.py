"""Prefix tuning against its equation, in float64, and against the cache that ``transformers`` itself would use."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from reference_impls import prefix_tuning
from reference_impls._site import instances
from reference_impls.training.checkpoint import adapter_state, load_adapter

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
P = 3
CONFIG = prefix_tuning.Config(prefix_length=P, hidden=5)


def naive(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | float, heads: int, scale: float) -> Tensor:
    """Softmax attention, example by example and head by head."""
    out = []
    for b in range(len(q)):
        parts = []
        for h, (one, k, v) in enumerate(zip(*(x[b].chunk(heads, -1) for x in (q, keys, values)), strict=True)):
            added = bias[b, h] if isinstance(bias, Tensor) else bias
            parts.append(torch.softmax(one @ k.T * scale + added, -1) @ v)
        out.append(torch.cat(parts, -1))
    return torch.stack(out)


def prefixed(states: Tensor, prefix: Tensor) -> Tensor:
    return torch.stack([torch.cat((prefix, row)) for row in states])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_encoder_attention_is_the_papers_equation(
    implementation: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, _ = make_tiny("bert")
    model.set_attn_implementation(implementation)
    randomise(prefix_tuning.attach(model.double(), CONFIG))
    attention = model.bert.encoder.layer[1].attention.self
    inner, outer = attention.prefix.network, attention.prefix.outer
    both = torch.tanh(inner.E @ inner.inner.weight.T + inner.inner.bias) @ outer.weight.T + outer.bias
    d = model.config.hidden_size
    heads = model.config.num_attention_heads
    P_k, P_v = both[:, :d], both[:, d:]
    x = torch.randn(2, 4, d, dtype=torch.float64)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    mask[1, ..., 2:] = -1e9
    shown = mask if implementation == "eager" else mask == 0
    base = attention.base
    full = nn.functional.pad(mask, (P, 0)).expand(-1, heads, -1, -1)
    keys, values = prefixed(base.key(x), P_k), prefixed(base.value(x), P_v)
    expected = naive(base.query(x), keys, values, full, heads, (d / heads) ** -0.5)
    torch.testing.assert_close(attention(x, attention_mask=shown)[0], expected, rtol=1e-9, atol=1e-9)


def test_t5_attention_sees_the_prefix_as_preceding_tokens_and_nowhere_in_cross_attention(
    make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, _ = make_tiny("t5")
    randomise(prefix_tuning.attach(model.double(), CONFIG))
    d, heads = model.config.d_model, model.config.num_heads
    x, source = torch.randn(2, 4, d, dtype=torch.float64), torch.randn(2, 6, d, dtype=torch.float64)
    attention = model.encoder.block[0].layer[0].SelfAttention
    base, (P_k, P_v) = attention.base, attention.prefix()
    distance = torch.arange(P + 4) - torch.arange(P, P + 4)[:, None]
    bucket = base._relative_position_bucket(distance, True, 32, 128)
    bias = base.relative_attention_bias(bucket).permute(2, 0, 1).expand(2, -1, -1, -1)
    joined = naive(base.q(x), prefixed(base.k(x), P_k), prefixed(base.v(x), P_v), bias, heads, 1.0)
    torch.testing.assert_close(attention(x, mask=None)[0], base.o(joined), rtol=1e-9, atol=1e-9)
    attention = model.decoder.block[1].layer[1].EncDecAttention
    base, (P_k, P_v) = attention.base, attention.prefix()
    joined = naive(base.q(x), prefixed(base.k(source), P_k), prefixed(base.v(source), P_v), 0.0, heads, 1.0)
    given = attention(x, mask=None, key_value_states=source)[0]
    torch.testing.assert_close(given, base.o(joined), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_decoder_equals_the_base_with_a_filled_cache(
    family: str, padded: bool, implementation: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    model.set_attn_implementation(implementation)
    plain = copy.deepcopy(model.double())
    randomise(prefix_tuning.attach(model, CONFIG))
    tokens, mask = batch["input_ids"], batch["attention_mask"]
    filled = DynamicCache()
    for at, (_, attention) in enumerate(instances(model, prefix_tuning.PrefixAttention)):
        split = (-1, attention.base.head_dim)
        keys, values = (x.unflatten(-1, split).transpose(0, 1).expand(4, -1, -1, -1) for x in attention.prefix())
        filled.update(keys, values, at)
    expected = plain(
        input_ids=tokens,
        attention_mask=torch.cat((torch.ones(4, P, dtype=mask.dtype), mask), 1) if padded else None,
        position_ids=torch.arange(10)[None],
        past_key_values=filled,
    ).logits
    logits = model(input_ids=tokens, attention_mask=mask if padded else None).logits
    real = mask.bool() if padded else torch.ones_like(mask).bool()
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_generation_with_a_cache_equals_generation_without(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    randomise(prefix_tuning.attach(model, CONFIG))
    question = {"input_ids": batch["input_ids"][:1], "attention_mask": batch["attention_mask"][:1]}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    answers = [model.generate(**question, **options, use_cache=use) for use in (True, False)]
    assert torch.equal(*answers)


@pytest.mark.parametrize(("family", "networks"), [("llama", 1), ("bert", 1), ("t5", 3)])
def test_each_kind_of_attention_has_one_network(family: str, networks: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    prefix_tuning.attach(model, CONFIG)
    found = {id(attention.prefix.network) for _, attention in instances(model, prefix_tuning.PrefixAttention)}
    assert len(found) == networks


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_flattening_changes_no_output_and_leaves_only_keys_and_values(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    fresh = copy.deepcopy(model)
    randomise(prefix_tuning.attach(model, CONFIG))
    expected = model(**batch).logits
    state = adapter_state(prefix_tuning.flatten(model))
    torch.testing.assert_close(model(**batch).logits, expected)
    sizes = [part.weight.shape[0] for name, part in fresh.named_modules() if name.endswith((".k", "k_proj"))]
    assert sum(tensor.numel() for tensor in state.values()) == 2 * P * sum(sizes)
    prefix_tuning.attach(fresh, prefix_tuning.Config(prefix_length=P, hidden=None))
    load_adapter(fresh, state)
    torch.testing.assert_close(fresh(**batch).logits, expected)


@pytest.mark.parametrize("config", [prefix_tuning.Config(prefix_length=0), prefix_tuning.Config(hidden=0)])
def test_impossible_sizes_are_refused(config: prefix_tuning.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="both must be at least 1"):
        prefix_tuning.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("target", [prefix_tuning.Config().target, "attention"])
def test_attention_without_a_cache_is_refused(target: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("vit")
    with pytest.raises(ValueError, match="a prefix has no way in"):
        prefix_tuning.attach(model, prefix_tuning.Config(target=target))


def test_mask_that_cannot_be_widened_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    prefix_tuning.attach(model, CONFIG)
    attention = model.model.layers[0].self_attn
    with pytest.raises(ValueError, match="a mask of type dict cannot be widened"):
        attention(hidden_states=torch.randn(1, 2, 64), attention_mask={})
