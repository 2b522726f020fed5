"""LoReFT: edits the hidden states at a few positions of the prompt, in a learned subspace of few dimensions.

    Φ(h) = h + (h Wᵀ + b − h Rᵀ) R        h (d,) behind a block, at an edited position   R (r, d), R Rᵀ = 1   W (r, d)   b (r,)

What h has in the space spanned by the rows of R is taken out and a linear function of h is put in its place: the edit has
rank r. Edited are the first and the last few tokens of the prompt, with one edit per layer, r (2 d + 1) numbers; all else,
generated tokens included, passes untouched and feels the edit through attention. R is trained as any r × d matrix A whose
rows are made orthonormal in each forward pass. W starts random, so the model does not start where it was; the edit knows
positions, so it cannot be merged.

The prompt ends at the first label. Where a row is learned whole, or has no labels for tokens, all of it is prompt.

Paper:     Wu et al. 2024, arXiv:2404.03592, equation 2 and sections 3.2 and 4
Official:  github.com/stanfordnlp/pyreft at dafd099, pyreft/interventions.py and dataset.py (Apache-2.0)
Differs:   R comes out of a QR decomposition, in the official code out of Householder reflections; no dropout behind the
           edit; one edit serves first and last positions, as in the released commands (share_weights). Fewer layers than
           the model has are spread evenly over it, our choice
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import stacks
from reference_impls._surgery import freeze, refuse, replace


@dataclass(frozen=True)
class Config:
    """Rank of the edits and where they act."""

    rank: int = 8  # appendix D.1, table 5
    n_layers: int = 32  # appendix D.1: all layers of LLaMA-7B; all where a model has fewer
    prefix_positions: int = 7  # examples/loreft/README.md, -p f7+l7
    suffix_positions: int = 7  # same place


class Places:
    """Where the states are edited in this forward pass: indices (b, k), and which of them count."""

    def __init__(self) -> None:
        self.now: tuple[Tensor, Tensor] | None = None
        self.width = 0  # n of the pass that was located; a shorter one continues it from a cache

    def __deepcopy__(self, memo: dict[int, Any]) -> "Places":
        return Places()  # a pass under way belongs to the original


class Edited(Around):
    """A block whose output is edited at some positions."""

    def __init__(self, base: nn.Module, places: Places, d: int, r: int) -> None:
        super().__init__(base)
        if not 0 < r <= d:
            raise ValueError(f"rank {r} does not fit states of width {d}")
        self.places = places
        like = next(base.parameters())
        self.A = nn.Parameter(like.new_empty(r, d))
        self.W = nn.Parameter(like.new_empty(r, d))
        self.b = nn.Parameter(like.new_empty(r))
        nn.init.normal_(self.A, std=1 / math.sqrt(d))  # its row space is uniformly random
        nn.init.kaiming_uniform_(self.W, a=math.sqrt(5))  # nn.Linear's own initialisation
        nn.init.uniform_(self.b, -1 / math.sqrt(d), 1 / math.sqrt(d))

    def rows(self) -> Tensor:
        """R (r, d): the rows of A made orthonormal one after the other."""
        Q, triangle = torch.linalg.qr(self.A.T.to(torch.promote_types(self.A.dtype, torch.float32)))  # (d, r), (r, r)
        return (Q * triangle.diagonal().sign()).T.to(self.A.dtype)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """What the block gives, edited where ``places`` says."""
        output = self.base(*args, **inputs)
        several = isinstance(output, tuple)
        h = output[0] if several else output
        if self.places.now is not None and h.shape[1] >= self.places.width:
            h = self.edited(h, *self.places.now)
        return (h, *output[1:]) if several else h

    def edited(self, h: Tensor, where: Tensor, counts: Tensor) -> Tensor:
        """The states h (b, n, d) with Φ at the positions ``where`` (b, k) that count."""
        if len(where) != len(h):  # beams: rows of one prompt lie together
            where, counts = (x.repeat_interleave(len(h) // len(where), 0) for x in (where, counts))
        index = where[..., None].expand(-1, -1, h.shape[-1])  # (b, k, d)
        chosen = h.gather(1, index)
        R = self.rows()
        edit = (nn.functional.linear(chosen, self.W, self.b) - chosen @ R.T) @ R  # (b, k, r) -> (b, k, d)
        return h.scatter_add(1, index, (edit * counts[..., None]).to(h.dtype))


class EditedModel(nn.Module):
    """A model that tells its blocks where the prompt of each row begins and ends."""

    def __init__(self, base: nn.Module, places: Places, config: Config) -> None:
        super().__init__()
        self.base, self.places = base, places
        self.first, self.last = config.prefix_positions, config.suffix_positions

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's own: ``config``, ``device``, ``generation_config``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def locate(self, tokens: Tensor, mask: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Indices (b, k) of the first and last positions of each row's prompt, and which count: none twice."""
        b, n = tokens.shape[:2]
        self.places.width = n
        real = torch.ones(b, n, dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
        start = real.int().argmax(1, keepdim=True)  # (b, 1): padding may stand in front
        end = start + real.sum(1, keepdim=True)
        if labels is not None and labels.shape == real.shape:
            learned = labels != -100
            answer = torch.where(learned.any(1, keepdim=True), learned.int().argmax(1, keepdim=True), end)
            end = torch.where(answer > start, answer, end)
        ahead = start + torch.arange(self.first, device=tokens.device)  # (b, first)
        behind = end - 1 - torch.arange(self.last, device=tokens.device)  # (b, last)
        counts = torch.cat((ahead < end, behind >= start + self.first), dim=1)
        return torch.cat((ahead, behind), dim=1).clamp(0, n - 1), counts

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """The model's output, its states edited on the way."""
        tokens = inputs["inputs_embeds"] if input_ids is None else input_ids
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            self.places.now = None  # behind the prompt nothing is edited
        else:
            self.places.now = self.locate(tokens, inputs.get("attention_mask"), inputs.get("labels"))
        return self.base(input_ids=input_ids, **inputs)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, **options: Any) -> Tensor:
        """The model's own ``generate``; only the prompt is edited, in the first pass and in its repetitions."""
        if input_ids.shape[1] == 1:
            options["use_cache"] = False  # a pass over one new token looks like one over such a prompt
        self.places.now = self.locate(input_ids, options.get("attention_mask"), None)
        return self.base.generate(input_ids=input_ids, **options)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and returns it with edits behind its blocks; call the returned one.

    Raises ``ValueError`` when the model is no single stack of blocks, the rank exceeds its width or no position is left.
    """
    freeze(model)
    found = list(stacks(model))
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if len(found) != 1 or not isinstance(embedding, nn.Embedding):
        refuse(model, f"{type(model).__name__} is not one stack of blocks over tokens, whose states LoReFT could edit")
    if config.n_layers < 1 or min(config.prefix_positions, config.suffix_positions) < 0:
        refuse(model, f"{config.n_layers} layers must be at least 1 and positions at least 0")
    if config.prefix_positions + config.suffix_positions == 0:
        refuse(model, "without prefix_positions and suffix_positions there is no state to edit")
    blocks, places = found[0].blocks, Places()
    many = min(config.n_layers, len(blocks))
    chosen = [blocks[(i + 1) * len(blocks) // many - 1][0] for i in range(many)]
    target = "|".join(name.replace(".", r"\.") for name in chosen)
    replace(model, target, lambda block: Edited(block, places, found[0].width, config.rank), kind=nn.Module)
    return EditedModel(model, places, config)
