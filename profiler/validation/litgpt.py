"""litgpt's model and fine-tuning loop, as far as memory can tell: what its published peaks were made with.

Written after litgpt of October 2023 to September 2024 (``lit_gpt``, later ``litgpt``: ``model.py``, ``lora.py``,
``adapter.py``, ``adapter_v2.py``, ``rmsnorm.py``, ``finetune/lora.py``), Lightning's precision plugins
(``fabric/plugins/precision/half.py`` and ``bitsandbytes.py``, 2.1 to 2.4) and bitsandbytes 0.41 and 0.42
(``autograd/_functions.py``), which the runs used:

- one matrix for queries, keys and values; keys and values are repeated for all heads; RoPE's tables are fp32, so that
  rotated queries and keys are fp32 for a moment; embedding and head are two matrices, also where a checkpoint ties them;
- LoRA has dropout above 0 on its input; where not all of queries, keys and values have it, its output is spread over a
  matrix of zeros as wide as all three;
- the head is applied to 128 tokens of each example at a time. Lightning makes its output fp32 and the loop holds it
  until the next forward pass has returned; the cross-entropy of each piece is its own;
- adapters are bf16 like the base, and nothing is computed again in the backward pass;
- 4 bits: every linear layer, the head too; the weight is unpacked to fp16 and then made bf16, and the layer keeps its
  input until the backward pass. The optimizer is bitsandbytes' paged AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from profiler import quantised

Method = Literal["lora", "adapter", "adapter_v2", "full"]
_CHUNK = 128  # tokens of each example that the head is applied to at once
_DROPOUT = 0.05  # what is kept does not depend on its size
_PROMPT, _FIRST = 10, 2  # tokens of the adapter's prompt, first block that has one
ALL = ("q", "k", "v", "proj", "mlp", "head")


@dataclass(frozen=True)
class Sizes:
    """A model in litgpt's words (``litgpt/config.py``)."""

    layers: int
    width: int
    heads: int
    vocabulary: int  # padded
    intermediate: int
    groups: int | None = None  # of keys and values; None for as many as heads
    head_width: int | None = None
    norm: Literal["layer", "rms"] = "rms"
    gated: bool = True
    parallel: bool = False  # attention and MLP read the same input
    shared_norm: bool = False
    bias: bool = False
    head_bias: bool = False
    rotary: float = 1.0  # share of a head's width that is rotated
    after_norms: bool = False  # norms behind attention and MLP
    window: int = 0  # every how many blocks a sliding window brings a mask; 0 for never
    capped: bool = False  # scores and logits go through tanh, so that attention is plain


@dataclass(frozen=True)
class Setup:
    """How a model is fine-tuned."""

    method: Method = "lora"
    rank: int = 8
    targets: tuple[str, ...] = ("q", "v")
    storage: Literal["bf16", "nf4", "nf4-dq"] = "bf16"
    old: bool = False  # code of 2023: the norm's weight is applied before the output is made bf16
    held: list[Any] = field(default_factory=list)  # the loop's ``logits``


class _Then(torch.autograd.Function):
    """``MatMul4Bit`` of bitsandbytes 0.41: it keeps its input, needed or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, bias: Tensor | None, state: quantised.State) -> Tensor:
        ctx.codes, ctx.state, ctx.kept = codes, state, x
        return functional.linear(x, quantised.dequantise_4bit(codes, state).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return g @ quantised.dequantise_4bit(ctx.codes, ctx.state).to(g.dtype), None, None, None


class _Linear4bit(quantised.Linear4bit):
    """Lightning's layer in 4 bits: quantised from fp16."""

    def __init__(self, columns: int, rows: int, bias: bool, nested: bool) -> None:
        own = nn.Parameter(torch.empty(rows), requires_grad=False) if bias else None
        super().__init__(rows, columns, own, torch.float16, nested)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        return _Then.apply(x, self.weight, self.bias, self.quant_state)  # type: ignore[no-any-return]  # apply is untyped


def _linear(columns: int, rows: int, bias: bool, setup: Setup) -> nn.Module:
    if setup.storage == "bf16":
        return nn.Linear(columns, rows, bias=bias)
    return _Linear4bit(columns, rows, bias, nested=setup.storage == "nf4-dq")


class _Lora(nn.Module):
    """A linear layer, with LoRA if ``name`` is among the targets."""

    def __init__(self, columns: int, rows: int, bias: bool, setup: Setup, name: str) -> None:
        super().__init__()
        self.linear = _linear(columns, rows, bias, setup)
        self.on = name in setup.targets
        if self.on:
            self.lora_A = nn.Parameter(torch.zeros(setup.rank, columns))
            self.lora_B = nn.Parameter(torch.zeros(rows, setup.rank))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        whole: Tensor = self.linear(x)
        if not self.on:
            return whole
        return whole + (functional.dropout(x, _DROPOUT) @ self.lora_A.mT @ self.lora_B.mT) * 2.0


class _LoraQkv(nn.Module):
    """The matrix of queries, keys and values, with LoRA on some of them."""

    def __init__(self, columns: int, parts: Mapping[str, int], bias: bool, setup: Setup) -> None:
        super().__init__()
        self.rows = sum(parts.values())
        self.linear = _linear(columns, self.rows, bias, setup)
        self.widths = [width for name, width in parts.items() if name in setup.targets]
        self.rank, self.padded, self.even = setup.rank, len(self.widths) < len(parts), len({*parts.values()}) == 1
        if self.widths:
            self.lora_A = nn.Parameter(torch.zeros(setup.rank * len(self.widths), columns))
            self.lora_B = nn.Parameter(torch.zeros(sum(self.widths), setup.rank))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_in) -> (B, T, d_q + d_k + d_v)."""
        whole: Tensor = self.linear(x)
        if not self.widths:
            return whole
        after_a = functional.linear(functional.dropout(x, _DROPOUT), self.lora_A).mT  # (B, parts · r, T)
        kernel = self.lora_B.unsqueeze(-1)
        if self.even:
            after_b = functional.conv1d(after_a, kernel, groups=len(self.widths))
        else:
            pieces = zip(after_a.chunk(len(self.widths), dim=1), kernel.split(self.widths), strict=True)
            after_b = torch.cat([functional.conv1d(some, own) for some, own in pieces], dim=1)
        return whole + self._spread(after_b.mT) * 2.0

    def _spread(self, x: Tensor) -> Tensor:
        """(B, T, enabled) among zeros for what has no LoRA: (B, T, all)."""
        if not self.padded:
            return x
        x = x.transpose(0, 1)
        zeros = x.new_zeros((*x.shape[:-1], self.rows)).view(-1, self.rows)
        places = torch.zeros(sum(self.widths), dtype=torch.long)
        return (
            zeros.index_copy(1, places, x.reshape(-1, sum(self.widths))).view(*x.shape[:-1], self.rows).transpose(0, 1)
        )


class _Scaled(nn.Module):
    """A linear layer of LLaMA-Adapter v2: scale · (W x + bias)."""

    def __init__(self, columns: int, rows: int, bias: bool, setup: Setup) -> None:
        super().__init__()
        self.linear = _linear(columns, rows, bias, setup)
        self.adapter_bias = nn.Parameter(torch.zeros(rows))
        self.adapter_scale = nn.Parameter(torch.ones(rows))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        return self.adapter_scale * (self.linear(x) + self.adapter_bias)


def _layer(columns: int, rows: int, bias: bool, setup: Setup, name: str) -> nn.Module:
    if setup.method == "lora":
        return _Lora(columns, rows, bias, setup, name)
    return (_Scaled if setup.method == "adapter_v2" else _linear)(columns, rows, bias, setup)


class _RmsNorm(nn.Module):
    def __init__(self, width: int, old: bool) -> None:
        super().__init__()
        self.weight, self.old = nn.Parameter(torch.ones(width)), old

    def forward(self, x: Tensor) -> Tensor:
        """(…, width), computed in fp32."""
        full = x.float()
        normed = full * torch.rsqrt(torch.mean(full * full, dim=-1, keepdim=True) + 1e-5)
        return (self.weight * normed).to(x.dtype) if self.old else normed.to(x.dtype) * self.weight


def _norm(sizes: Sizes, setup: Setup) -> nn.Module:
    return nn.LayerNorm(sizes.width) if sizes.norm == "layer" else _RmsNorm(sizes.width, setup.old)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return ((x * cos) + (turned * sin)).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes, setup: Setup, index: int) -> None:
        super().__init__()
        self.sizes, self.head = sizes, sizes.head_width or sizes.width // sizes.heads
        self.groups = sizes.groups or sizes.heads
        self.each = sizes.heads // self.groups  # queries that share a key
        self.masked = bool(sizes.window) and index % sizes.window == 0
        parts = {"q": sizes.heads * self.head, "k": self.groups * self.head, "v": self.groups * self.head}
        self.attn = (
            _LoraQkv(sizes.width, parts, sizes.bias, setup)
            if setup.method == "lora"
            else _layer(sizes.width, sum(parts.values()), sizes.bias, setup, "qkv")
        )
        self.proj = _layer(parts["q"], sizes.width, sizes.bias, setup, "proj")
        self.prompted = setup.method.startswith("adapter") and index >= _FIRST
        if self.prompted:
            self.adapter_wte = nn.Embedding(_PROMPT, sizes.width)
            self.gating_factor = nn.Parameter(torch.zeros(1, 1, sizes.heads, 1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width); the tables are (T, rotated width)."""
        rows, tokens, _ = x.shape
        q, k, v = self._split(self.attn(x))
        if self.each > 1:
            k, v = (one.expand(rows, self.groups, self.each, tokens, self.head) for one in (k, v))
        q, k, v = (one.reshape(rows, -1, tokens, self.head) for one in (q, k, v))
        turned = int(self.sizes.rotary * self.head)
        q, k = (torch.cat((_rotated(one[..., :turned], cos, sin), one[..., turned:]), dim=-1) for one in (q, k))
        y = self._attended(q, k, v)
        if self.prompted:
            y = y + self.gating_factor * self._prompt(q)
        return self.proj(y.reshape(rows, tokens, -1))  # type: ignore[no-any-return]  # a module call is untyped

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(B, T, all) to queries, keys and values (B, groups, of each, T, head)."""
        shape = (*qkv.shape[:2], self.groups, self.each + 2, self.head)
        return qkv.view(shape).permute(0, 2, 3, 1, 4).split((self.each, 1, 1), dim=2)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = q.shape[2]
        mask = torch.ones(tokens, tokens, dtype=q.dtype).triu(1) if self.masked or self.sizes.capped else None
        if self.masked and mask is not None:
            mask += torch.ones_like(mask).tril(-tokens)
        if not self.sizes.capped:
            attend = functional.scaled_dot_product_attention
            return attend(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)
        scores = q @ k.mT * 0.1
        scores = torch.tanh(scores / 50) * 50 + mask
        return (torch.softmax(scores, dim=-1, dtype=torch.float).to(q.dtype) @ v).transpose(1, 2)

    def _prompt(self, q: Tensor) -> Tensor:
        """Attention of ``q`` (B, heads, T, head) to the learned prompt."""
        _, k, v = self._split(self.attn(self.adapter_wte.weight.unsqueeze(0)))
        k, v = (one.repeat_interleave(self.each, dim=2).reshape(1, -1, _PROMPT, self.head) for one in (k, v))
        mask = torch.ones(q.shape[2], _PROMPT, dtype=torch.bool)
        k, v = (one.expand(q.shape[0], -1, -1, -1) for one in (k, v))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class _Mlp(nn.Module):
    def __init__(self, sizes: Sizes, setup: Setup) -> None:
        super().__init__()
        make = partial(_layer, bias=sizes.bias, setup=setup, name="mlp")
        self.fc_1 = make(sizes.width, sizes.intermediate)
        self.fc_2 = make(sizes.width, sizes.intermediate) if sizes.gated else None
        self.proj = make(sizes.intermediate, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        one = self.fc_1(x)
        if self.fc_2 is None:
            return self.proj(functional.gelu(one))  # type: ignore[no-any-return]  # a module call is untyped
        two = self.fc_2(x)  # both are there before the first is activated
        return self.proj(functional.silu(one) * two)  # type: ignore[no-any-return]  # a module call is untyped


class _Block(nn.Module):
    def __init__(self, sizes: Sizes, setup: Setup, index: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm_1, self.attn = _norm(sizes, setup), _Attention(sizes, setup, index)
        self.norm_2 = None if sizes.shared_norm else _norm(sizes, setup)
        self.mlp = _Mlp(sizes, setup)
        self.after_1 = _norm(sizes, setup) if sizes.after_norms else nn.Identity()
        self.after_2 = _norm(sizes, setup) if sizes.after_norms else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        first = self.norm_1(x)
        h = self.after_1(self.attn(first, cos, sin))
        if self.sizes.parallel:
            second = first if self.norm_2 is None else self.norm_2(x)
            return self.mlp(second) + h + x  # type: ignore[no-any-return]  # a module call is untyped
        x = h + x
        return self.after_2(self.mlp(self.norm_2(x) if self.norm_2 else first)) + x  # type: ignore[no-any-return]  # ditto


class Gpt(nn.Module):
    """litgpt's model of ``sizes``, with the method of ``setup`` in it, in bf16."""

    def __init__(self, sizes: Sizes, setup: Setup) -> None:
        super().__init__()
        self.sizes, self.setup = sizes, setup
        self.lm_head = _layer(sizes.width, sizes.vocabulary, sizes.head_bias, setup, "head")
        self.wte = nn.Embedding(sizes.vocabulary, sizes.width)
        self.h = nn.ModuleList(_Block(sizes, setup, index) for index in range(sizes.layers))
        self.ln_f = _norm(sizes, setup)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(setup.method == "full" or any(word in name for word in _TRAINED[setup.method]))

    def get_output_embeddings(self) -> nn.Module:
        """The head, by the name that ``transformers`` gives it."""
        return self.lm_head

    def forward(self, ids: Tensor) -> list[Tensor]:
        """(B, T) to pieces of logits (B, 128, vocabulary) in fp32."""
        head = self.sizes.head_width or self.sizes.width // self.sizes.heads
        shape = (ids.shape[1], int(self.sizes.rotary * head))
        cos, sin = torch.zeros(shape, dtype=torch.float32), torch.zeros(shape, dtype=torch.float32)
        x = self.wte(ids)
        for block in self.h:
            x = block(x, cos, sin)
        pieces = self.ln_f(x).split(_CHUNK, dim=1)
        finished = [self._capped(self.lm_head(piece)) for piece in pieces]
        return [piece.float() for piece in finished]

    def _capped(self, logits: Tensor) -> Tensor:
        return torch.tanh(logits / 30) * 30 if self.sizes.capped else logits


_TRAINED: dict[str, tuple[str, ...]] = {
    "lora": ("lora_",),
    "adapter": ("adapter_wte", "gating_factor"),
    "adapter_v2": ("adapter_wte", "gating_factor", "adapter_scale", "adapter_bias", "norm_1", "norm_2", "ln_f"),
    "full": (),
}


def loss(model: Gpt, batch: dict[str, Tensor]) -> Tensor:
    """The loss of one batch; where the gradients of all weights are kept, that of the second batch of a step."""
    one = partial(_loss, model, batch["input_ids"], model.setup.held)
    if model.setup.method == "full":
        one().backward()  # type: ignore[no-untyped-call]  # torch's own backward is untyped
    return one()


def _loss(model: Callable[[Tensor], list[Tensor]], ids: Tensor, held: list[Any]) -> Tensor:
    """Cross-entropy piece by piece; ``held`` is the loop's variable, which keeps its value during the forward pass."""
    logits = model(ids)
    logits[-1] = logits[-1][..., :-1, :]
    held[:] = [logits]
    targets = ids[..., 1:].split(_CHUNK, dim=1)
    rows = [piece.reshape(-1, piece.shape[-1]) for piece in logits]
    parts = [
        functional.cross_entropy(some, aim.reshape(-1), reduction="none")
        for some, aim in zip(rows, targets, strict=True)
    ]
    return torch.cat(parts).sum() / ids.numel()
