"""LLaMA-Adapter against its equation, in float64: two softmaxes per head, one of them gated."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM

from reference_impls import llama_adapter
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
CONFIG = llama_adapter.Config(prompt_length=3)


def rotated(x: Tensor, base: float = 10000.0) -> Tensor:
    """One head's vectors (n, d_h), each turned by its position: pairs (i, i + d_h / 2), as Llama orders them."""
    n, d = x.shape
    out = x.clone()
    for position in range(n):
        for i in range(d // 2):
            angle = torch.tensor(position / base ** (2 * i / d), dtype=x.dtype)
            a, b = x[position, i], x[position, i + d // 2]
            out[position, i] = a * angle.cos() - b * angle.sin()
            out[position, i + d // 2] = b * angle.cos() + a * angle.sin()
    return out


def naive(
    x: Tensor, W: dict[str, Tensor], b: dict[str, Tensor | float], P: Tensor, g: Tensor, causal: bool, rotary: float
) -> Tensor:
    """The equation for one example x (n, d), head by head; W_o left to the caller. ``rotary`` share of each head is turned."""
    heads, d_h = len(g), W["q"].shape[0] // len(g)
    shared = len(g) * d_h // W["k"].shape[0]  # query heads per key head
    Q, K, V = (x @ W[role].T + b[role] for role in "qkv")
    P_k, P_v = (P @ W[role].T + b[role] for role in "kv")
    out = []
    for h in range(heads):
        q = slice(h * d_h, (h + 1) * d_h)
        kv = slice(h // shared * d_h, (h // shared + 1) * d_h)
        n = int(rotary * d_h)
        one, two = (torch.cat((rotated(x[:, :n]), x[:, n:]), -1) for x in (Q[:, q], K[:, kv]))
        scores = one @ two.T / d_h**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        tokens = torch.softmax(scores, -1) @ V[:, kv]
        prompts = torch.softmax(one @ P_k[:, kv].T / d_h**0.5, -1) @ P_v[:, kv]
        out.append(tokens + torch.tanh(g[h]) * prompts)
    return torch.cat(out, -1)


def test_llama_attention_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("llama")
    randomise(llama_adapter.attach(model.double(), CONFIG))
    attention = model.model.layers[1].self_attn
    x = torch.randn(1, 5, 64, dtype=torch.float64)
    rotation = model.model.rotary_emb(x, torch.arange(5)[None])
    W = {role: getattr(attention.base, f"{role}_proj").weight for role in "qkvo"}
    expected = naive(x[0], W, dict.fromkeys("qkv", 0.0), attention.P, attention.g, causal=True, rotary=True) @ W["o"].T
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    given = attention(hidden_states=x, position_embeddings=rotation, attention_mask=mask)[0][0]
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)  # Llama's cosines are fp32


def test_heads_that_are_turned_in_part_meet_the_prompts_so(randomise: Randomise) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = PhiConfig(vocab_size=96, bos_token_id=1, eos_token_id=2, partial_rotary_factor=0.5, **sizes)
    model = PhiForCausalLM(config).eval().double()
    randomise(llama_adapter.attach(model, CONFIG))
    attention = model.model.layers[1].self_attn
    x = torch.randn(1, 5, 64, dtype=torch.float64)
    W, b = ({role: getattr(getattr(attention.base, f"{role}_proj"), of) for role in "qkv"} for of in ("weight", "bias"))
    both, alone = (naive(x[0], W, b, attention.P, g, True, 0.5) for g in (attention.g, torch.zeros_like(attention.g)))
    share = attention.share(x, model.model.rotary_emb(x, torch.arange(5)[None]))[0]
    torch.testing.assert_close(share, (both - alone) @ attention.base.dense.weight.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
def test_other_attention_is_the_papers_equation(family: str, make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny(family)
    randomise(llama_adapter.attach(model.double(), CONFIG))
    ((_, attention), *_) = instances(model, llama_adapter.PromptedAttention)
    base, x = attention.base, torch.randn(1, 5, 64, dtype=torch.float64)
    if family == "gpt2":
        W = dict(zip("qkv", base.c_attn.weight.T.chunk(3), strict=True))
        b = dict(zip("qkv", base.c_attn.bias.chunk(3), strict=True))
        last = nn.Linear(64, 64)
        last.weight, last.bias = nn.Parameter(base.c_proj.weight.T), base.c_proj.bias
    else:
        names = {"bert": ("query", "key", "value"), "vit": ("q_proj", "k_proj", "v_proj")}[family]
        layers = dict(zip("qkv", (getattr(base, name) for name in names), strict=True))
        W, b = ({role: getattr(layer, kind) for role, layer in layers.items()} for kind in ("weight", "bias"))
        last = nn.Identity() if family == "bert" else base.o_proj
    expected = last(naive(x[0], W, b, attention.P, attention.g, causal=family == "gpt2", rotary=False))
    torch.testing.assert_close(attention(x, attention_mask=None)[0][0], expected, rtol=1e-9, atol=1e-9)


def test_only_the_upper_layers_are_adapted_and_no_gradient_goes_below(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    llama_adapter.attach(model, llama_adapter.Config(n_layers=1))
    assert [name for name, _ in instances(model, llama_adapter.PromptedAttention)] == ["model.layers.1.self_attn"]
    seen: list[bool] = []
    model.model.layers[0].register_forward_hook(lambda _, inputs, output: seen.append(output.requires_grad))
    model.model.layers[1].register_forward_hook(lambda _, inputs, output: seen.append(output.requires_grad))
    model(**batch)
    assert seen == [False, True]


def test_prompts_move_once_the_gates_have(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    llama_adapter.attach(model, CONFIG)
    model(**batch).loss.backward()
    ((_, first), *_) = instances(model, llama_adapter.PromptedAttention)
    assert first.g.grad.abs().max() > 0
    assert not first.P.grad.any()
    assert 0.9 < first.P.std() < 1.1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_with_a_cache_equals_generation_without(
    family: str, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny(family)
    randomise(llama_adapter.attach(model, CONFIG))
    question = {"input_ids": batch["input_ids"][:1], "attention_mask": batch["attention_mask"][:1]}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    answers = [model.generate(**question, **options, use_cache=use) for use in (True, False)]
    assert torch.equal(*answers)


def test_encoder_decoder_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    with pytest.raises(ValueError, match="no attention with projections of known names"):
        llama_adapter.attach(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("config", [llama_adapter.Config(prompt_length=0), llama_adapter.Config(n_layers=0)])
def test_impossible_sizes_are_refused(config: llama_adapter.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="at least 1 of each"):
        llama_adapter.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())
