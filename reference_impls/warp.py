"""WARP: trained vectors around and inside the input, and one per class that is compared with the answer at a mask.

    z_c = v_cᵀ h_mask + a_c,   h_mask = f([E(first) ; P_1 ; E(x_1) ; P_2 ; E(mask) ; P_3 ; … E(x_2) ; P_4])

    P_1 … P_4 together (p, d)   v (C, d)   a (C,)   h_mask (d,)   f the frozen masked language model up to its last map

The input becomes a cloze question: prompts, sentence, prompts, mask, prompts, second sentence, prompts. The prediction
head's layers in front of the map to words stay; that map gives way to C class vectors, read at the mask. They are the
verbalizers: learned words for the classes. P, v and a train, (p + C) d + C numbers. P starts as the mask's embedding, v as
a new linear layer, or as the words that ``verbalize`` names: then a few dozen examples are enough. Input and head differ
from the base from the start, and there is nothing to merge.

Paper:     Hambardzumyan et al. 2021, arXiv:2101.00121, section 3
Official:  github.com/YerevaNN/WARP at 32b455f, arp/injector.py and README.md (MIT)
Differs:   the template is that of the README's RTE command. Where the sentences end is read off the separator tokens,
           which stay in the input; of a single sentence the end is one place, where P_2, mask, P_3 and P_4 meet. The
           paper turns dropout off; put the model in ``eval`` for that. A single class means regression
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from reference_impls._layer import Around
from reference_impls._surgery import freeze, refuse, replace
from reference_impls.prompt_tuning import PromptModel, check, positions


@dataclass(frozen=True)
class Config:
    """Prompts, classes, and the tokens that the template needs to know."""

    prompt_length: int = 20  # README, the command for RTE: four times five
    n_classes: int = 2  # RTE
    mask_token: int = 50_264  # RoBERTa's, the paper's model; 103 in BERT
    separator: int = 2  # RoBERTa's </s>; 102 in BERT


class Verbalizer(Around):
    """Stands where the head maps to words: class logits from the state at one position of each row."""

    def __init__(self, base: nn.Linear, classes: int) -> None:
        super().__init__(base)
        d = base.in_features
        self.v = nn.Parameter(base.weight.new_empty(classes, d))
        self.a = nn.Parameter(base.weight.new_empty(classes))
        nn.init.kaiming_uniform_(self.v, a=math.sqrt(5))  # nn.Linear's own initialisation
        nn.init.uniform_(self.a, -1 / math.sqrt(d), 1 / math.sqrt(d))
        self.at: Tensor | None = None  # (b,), where the masks stand

    def forward(self, h: Tensor) -> Tensor:
        """(b, n, d) -> (b, C)."""
        index, self.at = self.at, None
        chosen = h[torch.arange(len(h), device=h.device), index]  # (b, d)
        return nn.functional.linear(chosen, self.v, self.a)


class WarpModel(PromptModel):
    """A masked language model that classifies: it turns its input into a cloze question."""

    def __init__(self, base: nn.Module, config: Config) -> None:
        super().__init__(base, config.prompt_length, vocabulary=0)
        self.mask_token, self.separator = config.mask_token, config.separator
        with torch.no_grad():
            self.P.copy_(base.get_input_embeddings().weight[self.mask_token].expand_as(self.P))

    @property
    def head(self) -> Verbalizer:
        """What stands where the model maps to words."""
        return self.base.get_output_embeddings()

    def template(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """In which order (b, n + p + 1) tokens, prompts and mask stand: indices into these three in a row."""
        (b, n), p, quarter = tokens.shape, self.p, self.p // 4
        place = torch.arange(n, device=tokens.device)
        ends = (tokens == self.separator) & mask.bool()  # (b, n)
        start = mask.int().argmax(1, keepdim=True)  # (b, 1): padding may stand in front
        length = start + mask.sum(1, keepdim=True)  # where a row without separators ends
        first = torch.where(ends, place, n).amin(1, keepdim=True).minimum(length)  # (b, 1)
        last = torch.where(ends, place, -1).amax(1, keepdim=True)
        last = torch.where(last < 0, length, last)
        slots = torch.arange(p, device=tokens.device) // max(1, quarter)  # 0 … 3 and a remainder, which joins P_4
        inner = torch.where(slots <= 2, 2 * first - 1, 2 * last - 1)  # (b, p): token i has the key 2 i
        prompts = torch.where(slots == 0, 2 * start + 1, inner)
        keys = torch.cat((2 * place.expand(b, n), prompts, 2 * first - 1), dim=1)  # the mask comes last
        rank = torch.zeros_like(keys)  # among equal keys: P_2, mask, P_3, P_4
        rank[:, n : n + p], rank[:, -1] = slots.clamp(max=3) * 2, 3
        return (keys * 8 + rank).argsort(dim=1, stable=True)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Class logits (b, C), and the loss when there are labels (b,)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        b, n = input_ids.shape
        room = positions(self.base) - self.p - 1
        if n > room:
            raise ValueError(f"beside a prompt of {self.p} and a mask there is room for {room} tokens, not for {n}")
        order = self.template(input_ids, mask)
        table = self.base.get_input_embeddings()
        words = table(torch.cat((input_ids, input_ids.new_full((b, 1), self.mask_token)), dim=1))  # (b, n + 1, d)
        joined = torch.cat((words[:, :n], self.P.to(words.dtype).expand(b, -1, -1), words[:, n:]), dim=1)
        extra = mask.new_ones(b, self.p + 1)
        inputs["attention_mask"] = torch.cat((mask, extra), dim=1).gather(1, order)
        if inputs.get("token_type_ids") is not None:
            inputs["token_type_ids"] = torch.zeros_like(order)
        self.head.at = (order == n + self.p).int().argmax(1)
        index = order[..., None].expand(-1, -1, joined.shape[-1])
        logits = self.base(inputs_embeds=joined.gather(1, index), **inputs).logits
        loss = None
        if labels is not None and logits.shape[1] == 1:
            loss = nn.functional.mse_loss(logits[:, 0].float(), labels.float())
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes a masked language model and returns it as a classifier; call the returned one.

    Raises ``ValueError`` when the model predicts no masked words, or a size or token is impossible.
    """
    check(freeze(model), config.prompt_length)
    words = getattr(model, "get_output_embeddings", lambda: None)()
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if not isinstance(words, nn.Linear) or causal or model.config.is_encoder_decoder:
        refuse(model, f"{type(model).__name__} is no masked language model: it has no mask to fill in")
    if config.prompt_length < 4 or config.n_classes < 1:
        refuse(model, f"{config.prompt_length} prompts for {config.n_classes} classes: at least 4 and 1")
    if not 0 <= config.mask_token < model.get_input_embeddings().num_embeddings:
        refuse(model, f"the mask token {config.mask_token} is not in the vocabulary")
    ((name, _),) = ((name, module) for name, module in model.named_modules() if module is words)
    replace(model, name.replace(".", r"\."), lambda layer: Verbalizer(layer, config.n_classes))
    return WarpModel(model, config)


@torch.no_grad()
def verbalize(model: WarpModel, words: list[int]) -> WarpModel:
    """Starts the class vectors from the output embeddings of ``words``, one token id per class, and a from zero."""
    if len(words) != len(model.head.v):
        raise ValueError(f"{len(words)} words for {len(model.head.v)} classes: give one for each")
    model.head.v.copy_(model.head.base.weight[words])
    model.head.a.zero_()
    return model
