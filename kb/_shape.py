"""The shape of a transformer as an inventory: which linear layers, norms and other tensors it has, and how many."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

OPENED = "c_attn"
"""GPT-2's matrix of queries, keys and values: our implementations adapt each of its thirds by itself."""
_BLOCK_PREFIXES = ("attention.", "cross_attention.", "mlp.")
_KEPT: dict[str, tuple[str, ...]] = {"falcon": _BLOCK_PREFIXES, "mt5": ("mlp.down",), "t5": ("mlp.down",)}
"""By model type, sites of matrices that transformers 5.23 leaves whole where it stores a base in fewer bits: T5's `wo`
(`_keep_in_fp32_modules`), and Falcon's, whose layers are of a class of their own (`replace_with_bnb_linear`)."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear maps of one site that share their shape.

    `fused` names the module when the released code keeps several maps in one matrix (GPT-2's `c_attn`, Phi-3's
    `gate_up_proj`). `module` is false for expert weights, which transformers 5 keeps as three-dimensional tensors and
    not as linear modules. `shared` marks a head whose matrix is the embedding itself.
    """

    site: str
    d_in: int
    d_out: int
    bias: bool
    count: int
    fused: str | None = None
    module: bool = True
    shared: bool = False

    @property
    def in_block(self) -> bool:
        """Whether the map lies in a transformer block (not in an embedding, a pooler or a head)."""
        return self.site.startswith(_BLOCK_PREFIXES)

    @property
    def joined(self) -> bool:
        """Whether its matrix holds other maps, too, and methods adapt it as a whole, as training libraries do."""
        return self.fused not in (None, OPENED)

    @property
    def matrix(self) -> tuple[str | None, int, int]:
        """What maps of one matrix have in common."""
        return self.fused, self.d_in, self.count

    @property
    def weights(self) -> int:
        """Weights of all `count` maps, biases left out."""
        return self.count * self.d_in * self.d_out

    @property
    def biases(self) -> int:
        """Bias parameters of all `count` maps."""
        return self.count * self.d_out if self.bias else 0


@dataclass(frozen=True, slots=True)
class Norm:
    """Normalisation layers of one width; RMS norms have no bias."""

    width: int
    bias: bool
    count: int

    @property
    def parameters(self) -> int:
        """Parameters of all `count` layers."""
        return self.count * self.width * (2 if self.bias else 1)


@dataclass(frozen=True, slots=True)
class Extra:
    """Parameters that are neither in a linear map nor in a norm: embeddings, positions, routers, attention sinks."""

    name: str
    numbers: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Tower:
    """Totals of the towers beside the main one, such as the eyes of a vision-language model."""

    parameters: int = 0
    biases: int = 0
    norms: int = 0
    norm_parameters: int = 0
    packable: int = 0


@dataclass(frozen=True)
class Architecture:
    """A transformer described uniformly, whatever its family calls things.

    Sizes are those of the main tower: the text decoder of a vision-language model, the vision encoder of CLIP.
    Further towers enter the totals only, through `tower`. `rectified`: the feed-forward network's activation is a ReLU,
    whose output is all that its backward pass needs.
    """

    kind: str
    model_type: str
    d: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    gated: bool
    tied: bool
    bias_qkv: bool
    bias_out: bool
    bias_mlp: bool
    norm: str
    experts: int = 0
    experts_per_token: int = 0
    moe_d_ff: int = 0
    context: int | None = None
    sliding_window: int | None = None
    positions: int = 0
    qk_norm: bool = False
    rectified: bool = False
    linear_groups: tuple[Linear, ...] = field(default=(), repr=False)
    norm_groups: tuple[Norm, ...] = field(default=(), repr=False)
    extras: tuple[Extra, ...] = field(default=(), repr=False)
    tower: Tower = Tower()
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """All blocks, of encoder and decoder together."""
        return self.encoder_layers + self.decoder_layers

    @property
    def sighted(self) -> bool:
        """Whether it is a text decoder with eyes beside it."""
        return self.kind == "decoder" and self.tower.parameters > 0

    @property
    def cross_attention(self) -> bool:
        """Whether the decoder attends to an encoder."""
        return self.kind == "encoder_decoder"

    def linears(self) -> tuple[Linear, ...]:
        """Give the linear maps of blocks and `lm_head`, fused matrices split into parts, expert weights included."""
        return tuple(one for one in self.linear_groups if one.in_block or one.site == "lm_head")

    def modules(self) -> tuple[Linear, ...]:
        """Give the linear modules as transformers has them: fused parts joined, expert tensors left out.

        Poolers, classifiers and embedding projections are included. A joined module keeps the site of its first part.
        """
        joined: dict[object, Linear] = {}
        for position, linear in enumerate(self.linear_groups):
            if not linear.module:
                continue
            key = linear.matrix if linear.fused else position
            first = joined.get(key)
            if first is None:
                joined[key] = linear
            else:
                joined[key] = Linear(
                    first.site, first.d_in, first.d_out + linear.d_out, first.bias, first.count, first.fused
                )
        return tuple(joined.values())

    @property
    def joins(self) -> bool:
        """Whether queries, keys and values come from one matrix that methods adapt as a whole."""
        return any(one.joined for one in self.linear_groups if one.site == "attention.query")

    def reached(self, sites: Container[str]) -> tuple[Linear, ...]:
        """Give the linear modules of blocks that a method reaches which adapts `sites`; `all_linear` stands for all.

        A matrix that holds several maps is reached as a whole if it holds one of these, if it is not `OPENED`.
        """
        blocks = [one for one in self.linear_groups if one.module and one.in_block]
        wanted = [one for one in blocks if one.site in sites or "all_linear" in sites]
        matrices = {one.matrix for one in wanted if one.joined}
        whole = (one for one in self.modules() if one.matrix in matrices)
        return (*(one for one in wanted if not one.joined), *whole)

    @property
    def parameters(self) -> int:
        """All parameters, shared ones once: linear maps, norms, extras and other towers."""
        linears = sum((0 if one.shared else one.weights) + one.biases for one in self.linear_groups)
        norms = sum(one.parameters for one in self.norm_groups)
        return linears + norms + sum(one.numbers for one in self.extras) + self.tower.parameters

    @property
    def biased(self) -> bool:
        """Whether any linear layer of its blocks has a bias."""
        return self.bias_qkv or self.bias_out or self.bias_mlp

    @property
    def expert_parameters(self) -> int:
        """Parameters in routed experts, biases included; 0 for a dense model."""
        experts = (one for one in self.linear_groups if one.site.startswith("mlp.experts."))
        return sum(one.weights + one.biases for one in experts)

    @property
    def packable(self) -> int:
        """Weights of the matrices that a base in 8 or 4 bits stores so: those of the blocks, of other towers too."""
        kept = _KEPT.get(self.model_type, ())
        blocks = (one for one in self.linear_groups if one.in_block and one.module)
        return sum(one.weights for one in blocks if not one.site.startswith(kept)) + self.tower.packable

    @property
    def parameters_active(self) -> int:
        """Parameters that one token uses: all but the experts it is not routed to. Embeddings count whole."""
        if not self.experts:
            return self.parameters
        idle = self.experts - self.experts_per_token
        return self.parameters - self.expert_parameters * idle // self.experts

    def variables(self) -> dict[str, int]:
        """Give the values of all names in `VARIABLES`, for count expressions."""
        blocks = [one for one in self.linear_groups if one.in_block]
        plain = [one for one in blocks if one.module]
        cross = self.decoder_layers if self.cross_attention else 0
        biases = sum(one.biases for one in self.linear_groups)
        biases += sum(one.width * one.count for one in self.norm_groups if one.bias)
        biases += sum(one.numbers for one in self.extras if one.bias)
        embeddings = sum(one.numbers for one in self.extras if one.name.startswith("embedding."))
        return {
            "L": self.layers,
            "L_enc": self.encoder_layers,
            "L_dec": self.decoder_layers,
            "d": self.d,
            "d_ff": self.d_ff,
            "d_q": self.heads * self.head_dim,
            "d_kv": self.kv_heads * self.head_dim,
            "d_head": self.head_dim,
            "n_heads": self.heads,
            "n_kv": self.kv_heads,
            "V": self.vocab,
            "N": self.parameters,
            "N_active": self.parameters_active,
            "N_embed": embeddings,
            "N_linear": sum(one.weights for one in plain),
            "N_experts": sum(one.weights for one in blocks if not one.module),
            "N_matrices": sum(one.weights for one in blocks),
            "n_linear": sum(one.count for one in plain),
            "n_attn": self.layers + cross,
            "n_cross": cross,
            "n_ffn": self.layers,
            "n_norm": sum(one.parameters for one in self.norm_groups) + self.tower.norm_parameters,
            "n_norms": sum(one.count for one in self.norm_groups) + self.tower.norms,
            "n_bias": biases + self.tower.biases,
            "E": self.experts,
            "E_active": self.experts_per_token,
            "d_moe": self.moe_d_ff,
        }


VARIABLES: dict[str, str] = {
    "L": "transformer blocks, of encoder and decoder together",
    "L_enc": "encoder blocks",
    "L_dec": "decoder blocks",
    "d": "hidden size (width of the residual stream)",
    "d_ff": "inner width of the dense feed-forward layer (of one expert, where there is no dense one)",
    "d_q": "width of all queries: heads times head size",
    "d_kv": "width of all keys (and of all values): key/value heads times head size",
    "d_head": "head size",
    "n_heads": "query heads per attention module",
    "n_kv": "key/value heads per attention module",
    "V": "rows of the token embedding; 0 for a vision model",
    "N": "all parameters, shared ones once, other towers included",
    "N_active": "parameters that one token uses; N for a dense model",
    "N_embed": "parameters of token, type and learned position embeddings",
    "N_linear": "weights of all linear modules in blocks, biases and expert tensors left out",
    "N_experts": "weights of routed experts; 0 for a dense model",
    "N_matrices": "weights of all matrices in blocks: N_linear + N_experts",
    "n_linear": "linear maps in blocks, fused matrices counted by their parts, expert tensors left out",
    "n_attn": "attention modules, cross-attention included",
    "n_cross": "cross-attention modules",
    "n_ffn": "feed-forward modules",
    "n_norm": "parameters of all normalisation layers, their biases included",
    "n_norms": "normalisation layers that have parameters",
    "n_bias": "bias parameters as BitFit counts them: all whose name ends in 'bias', those of norms included",
    "E": "routed experts per mixture layer; 0 for a dense model",
    "E_active": "experts that a token is routed to; 0 for a dense model",
    "d_moe": "inner width of one routed expert; 0 for a dense model",
}
