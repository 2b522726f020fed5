"""Reading a Hugging Face `config.json`: keys under their many names, and the parts that transformers are made of.

The parts collect into an `Inventory`; the families in `kb._families` say which parts a model has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kb._shape import Architecture, Extra, Linear, Norm, Tower

_LARGEST = 10**9  # no size in a real configuration comes near it


@dataclass(frozen=True)
class Heads:
    """Number of query heads, of key/value heads, and the size of one."""

    query: int
    kv: int
    size: int

    @property
    def d_q(self) -> int:
        """Width of all queries."""
        return self.query * self.size

    @property
    def d_kv(self) -> int:
        """Width of all keys."""
        return self.kv * self.size


class Reader:
    """A configuration with readable errors: what is missing or not a size is named together with what was expected."""

    def __init__(self, config: Mapping[str, object], inside: str = "") -> None:
        self.config = config
        self.inside = inside
        self.model_type = str(config.get("model_type", ""))

    def _find(self, keys: Sequence[str]) -> object:
        return next((self.config[key] for key in keys if self.config.get(key) is not None), None)

    def size(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """Give the whole number at the first of `keys` that is set, else `default`.

        Raises `ValueError` naming the key when there is neither, or when the value is no number of at least `least`.
        """
        value = self._find(keys)
        if value is None:
            if default is None:
                others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
                kind = f" of model_type {self.model_type!r}" if self.model_type else ""
                raise ValueError(
                    f"the configuration{kind} lacks {self.inside}{keys[0]}{others}: expected a whole number >= {least}"
                )
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
            raise ValueError(f"{self.inside}{keys[0]} is {value!r:.60}: expected a whole number from {least} to 10^9")
        return value

    def flag(self, *keys: str, default: bool = False) -> bool:
        """Give the yes or no at the first of `keys` that is set, else `default`; `ValueError` for anything else."""
        value = self._find(keys)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{self.inside}{keys[0]} is {value!r:.60}: expected true or false")
        return value

    def optional(self, *keys: str) -> int | None:
        """Give the whole number at the first of `keys` that is set, or null."""
        return None if self._find(keys) is None else self.size(*keys, least=0)

    def text(self, *keys: str, default: str = "") -> str:
        """Give the text at the first of `keys` that is set, else `default`."""
        value = self._find(keys)
        return value if isinstance(value, str) else default

    def items(self, key: str) -> list[Any]:
        """Give the list at `key`, empty when it is not set or no list."""
        value = self.config.get(key)
        return list(value) if isinstance(value, list | tuple) else []

    def part(self, key: str) -> Reader:
        """Give the configuration inside this one at `key`; `ValueError` when it is missing."""
        value = self.config.get(key)
        if not isinstance(value, Mapping):
            raise ValueError(f"the configuration of model_type {self.model_type!r} lacks {key}: expected an object")
        return Reader(value, inside=f"{self.inside}{key}.")

    def heads(self, *keys: str, width: int, size: int | None = None, grouped: bool = False) -> Heads:
        """Give heads, key/value heads (those of a family that is `grouped` may be fewer) and head size.

        Raises `ValueError` when they do not divide.
        """
        heads = self.size(*keys)
        kv = self.size("num_key_value_heads", default=heads) if grouped else heads
        given = self.optional("head_dim")
        if not given and size is None and width % heads:
            raise ValueError(
                f"{self.inside}hidden size {width} is no multiple of {keys[0]} {heads}: expected one, or head_dim"
            )
        if heads % kv:
            raise ValueError(f"{self.inside}{keys[0]} {heads} is no multiple of num_key_value_heads {kv}")
        return Heads(heads, kv, given or size or width // heads)


class Inventory:
    """What a model is made of, collected part by part."""

    def __init__(self, norm: str) -> None:
        self.norm = norm
        self.linears: list[Linear] = []
        self.norms: list[Norm] = []
        self.extras: list[Extra] = []
        self.notes: list[str] = []

    def linear(
        self, site: str, d_in: int, d_out: int, count: int, bias: bool = False, fused: str | None = None, **kind: bool
    ) -> None:
        """Add `count` linear maps at one site; none if `count` is 0."""
        if count:
            self.linears.append(Linear(site, d_in, d_out, bias, count, fused, **kind))

    def attention(
        self,
        d: int,
        heads: Heads,
        count: int,
        bias: bool = False,
        out_bias: bool | None = None,
        fused: str | None = None,
        cross: bool = False,
        key_bias: bool | None = None,
    ) -> None:
        """Add the projections of `count` attention modules; `out_bias` and `key_bias` follow `bias` if not given."""
        site = "cross_attention" if cross else "attention"
        self.linear(f"{site}.query", d, heads.d_q, count, bias, fused)
        self.linear(f"{site}.key", d, heads.d_kv, count, bias if key_bias is None else key_bias, fused)
        self.linear(f"{site}.value", d, heads.d_kv, count, bias, fused)
        self.linear(f"{site}.output", heads.d_q, d, count, bias if out_bias is None else out_bias)

    def mlp(self, d: int, d_ff: int, count: int, gated: bool, bias: bool = False, fused: str | None = None) -> None:
        """Add `count` feed-forward modules."""
        if gated:
            self.linear("mlp.gate", d, d_ff, count, bias, fused)
        self.linear("mlp.up", d, d_ff, count, bias, fused)
        self.linear("mlp.down", d_ff, d, count, bias)

    def experts(
        self, d: int, d_ff: int, experts: int, layers: int, bias: bool = False, router_bias: bool = False
    ) -> None:
        """Add `layers` mixtures of gated experts with their routers."""
        for part, d_in, d_out in (("gate", d, d_ff), ("up", d, d_ff), ("down", d_ff, d)):
            self.linear(f"mlp.experts.{part}", d_in, d_out, experts * layers, bias, module=False)
        self.extra("router", layers * experts * d)
        if router_bias:
            self.extra("router.bias", layers * experts, bias=True)

    def normalise(self, width: int, count: int, bias: bool | None = None) -> None:
        """Add `count` norms; layer norms have a bias unless `bias` says otherwise."""
        if count:
            self.norms.append(Norm(width, self.norm == "layer" if bias is None else bias, count))

    def extra(self, name: str, numbers: int, bias: bool = False) -> None:
        """Add parameters of another sort; a name that starts with `embedding.` counts as an embedding."""
        if numbers:
            self.extras.append(Extra(name, numbers, bias))

    def head(self, d: int, vocab: int, tied: bool, bias: bool = False) -> None:
        """Add the token head."""
        self.linear("lm_head", d, vocab, 1, bias, shared=tied)

    def as_tower(self) -> Tower:
        """Give the totals, for a tower beside the main one."""
        none = Heads(0, 0, 0)
        sizes = dict.fromkeys(("d", "encoder_layers", "decoder_layers", "d_ff", "vocab"), 0)
        whole = self.build(none, kind="vision", model_type="", gated=False, tied=False, **sizes)
        known = whole.variables()
        return Tower(whole.parameters, known["n_bias"], known["n_norms"], known["n_norm"], whole.packable)

    def build(self, heads: Heads, **fields: Any) -> Architecture:
        """Make the architecture; bias flags are read off the parts."""

        def biased(*sites: str) -> bool:
            return any(one.bias for one in self.linears if one.site in sites)

        return Architecture(
            heads=heads.query,
            kv_heads=heads.kv,
            head_dim=heads.size,
            norm=self.norm,
            bias_qkv=biased("attention.query", "attention.value"),
            bias_out=biased("attention.output"),
            bias_mlp=biased("mlp.up", "mlp.down", "mlp.experts.down"),
            linear_groups=tuple(self.linears),
            norm_groups=tuple(self.norms),
            extras=tuple(self.extras),
            notes=tuple(self.notes),
            **fields,
        )
