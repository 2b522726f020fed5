"""Prompt tuning: p trained vectors join the embedded input; the model itself is not touched.

    H₀ = [P ; E(x)]        P (p, d)   E(x) (n, d)   H₀ (p + n, d)

Only P trains: p d numbers for the whole model, p more positions to compute. In an encoder-decoder P stands before the
encoder's input. In an encoder it stands behind the first token, so that a head which reads [CLS] still finds it there.
P starts as embeddings of words. Logits and labels at the prompt's positions are dropped, so what comes out fits the
input. The prompt is part of the input: the model does not start where it was, and there is nothing to merge.

Paper:     Lester et al. 2021, arXiv:2104.08691, sections 2 and 3.2
Official:  github.com/google-research/prompt-tuning, prompt_tuning/prompts.py and train/prompts.py (Apache-2.0)
Differs:   the paper draws the words from the 5,000 most common ones, here the first 5,000 of the vocabulary (in its T5
           vocabulary the same); its best start, the class labels' embeddings, needs a tokeniser and is left to the
           caller (``model.P``). It adapts T5 alone: where P stands in an encoder is our choice; peft puts it in front
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls._surgery import freeze, refuse


@dataclass(frozen=True)
class Config:
    """Length of the prompt and where its first values come from."""

    prompt_length: int = 100  # section 3.2: little is gained beyond 20
    vocabulary: int = 5000  # section 3.2: sample among the most common words; 0 for a uniform start in ±0.5


class PromptModel(nn.Module):
    """A model that puts trained vectors into its embedded input."""

    def __init__(self, base: nn.Module, p: int, vocabulary: int) -> None:
        super().__init__()
        self.base, self.p = base, p
        causal = any(getattr(module, "is_causal", False) for module in base.modules())
        self.at = 0 if causal or base.config.is_encoder_decoder else 1  # how many tokens stand before the prompt
        embedding = base.get_input_embeddings().weight
        self.P = nn.Parameter(embedding.new_empty(p, embedding.shape[1]))
        with torch.no_grad():
            if vocabulary:
                words = torch.randint(min(vocabulary, embedding.shape[0]), (p,), device=embedding.device)
                self.P.copy_(embedding[words])
            else:
                self.P.uniform_(-0.5, 0.5)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's own: ``config``, ``device``, ``generation_config``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def prompt(self) -> Tensor:
        """The p vectors (p, d) that join the input; variants that compute them do it here."""
        return self.P

    def insert(self, states: Tensor, filling: Tensor) -> Tensor:
        """``states`` (b, n, …) with ``filling`` (p, …) at the prompt's place: (b, p + n, …)."""
        filling = filling.to(states.dtype).expand(states.shape[0], *filling.shape)
        return torch.cat((states[:, : self.at], filling, states[:, self.at :]), dim=1)

    def remove(self, states: Tensor) -> Tensor:
        """The inverse: (b, p + n, …) -> (b, n, …)."""
        return torch.cat((states[:, : self.at], states[:, self.at + self.p :]), dim=1)

    def joined(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
        """The model's inputs with the prompt in them."""
        p = self.p
        if "past_key_values" in inputs or "position_ids" in inputs:
            raise ValueError("past_key_values and position_ids cannot be combined with a prompt; leave them out")
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("prompt tuning needs input_ids or inputs_embeds")
            inputs_embeds = self.base.get_input_embeddings()(input_ids)
        room = positions(self.base) - p
        if inputs_embeds.shape[1] > room:
            n = inputs_embeds.shape[1]
            raise ValueError(f"beside a prompt of {p} there is room for {room} tokens, not for {n}")
        joined = dict(inputs, inputs_embeds=self.insert(inputs_embeds, self.prompt()))
        for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
            if inputs.get(name) is not None:
                joined[name] = self.insert(inputs[name], inputs[name].new_full((p,), value))
        return joined

    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **inputs: Any) -> Any:
        """The model's output for the joined input; logits at the prompt's positions are left out."""
        joined = self.joined(input_ids, inputs.pop("inputs_embeds", None), inputs)
        length = joined["inputs_embeds"].shape[1]
        per_token = not self.base.config.is_encoder_decoder
        if labels is not None:
            ids = labels.dim() == 2 and not labels.is_floating_point()
            if per_token and ids and labels.shape[1] == length - self.p:
                labels = self.insert(labels, labels.new_full((self.p,), -100))  # -100: no loss there
            joined["labels"] = labels
        output = self.base(**joined)
        if per_token and output.logits.dim() == 3 and output.logits.shape[1] == length:
            output.logits = self.remove(output.logits)
        return output

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **options: Any) -> Tensor:
        """The model's own ``generate`` after the prompt; a decoder's answer begins with ``input_ids``, as always."""
        if options.get("attention_mask") is None and input_ids is not None:
            options["attention_mask"] = torch.ones_like(input_ids)
        tokens = self.base.generate(**self.joined(input_ids, inputs_embeds, options))
        if self.base.config.is_encoder_decoder or input_ids is None:
            return tokens
        return torch.cat((input_ids, tokens), dim=1)


def positions(model: nn.Module) -> int:
    """How many positions the model has a learned vector for; practically no limit where positions are computed."""
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.endswith(("position_embeddings", "wpe", "embed_positions")):
            padded = 0 if table.padding_idx is None else table.padding_idx + 1
            return table.num_embeddings - int(getattr(table, "offset", padded))  # OPT and BART count from their offset
    return sys.maxsize


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and returns it with a prompt around it; call the returned one.

    Raises ``ValueError`` when the model embeds no tokens or the prompt is empty.
    """
    check(freeze(model), config.prompt_length, config.vocabulary)
    return PromptModel(model, config.prompt_length, config.vocabulary)


def check(model: nn.Module, p: int, vocabulary: int = 0) -> None:
    """Refuses a model that embeds no tokens, and a prompt that cannot be."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if not isinstance(embedding, nn.Embedding):
        refuse(model, f"{type(model).__name__} embeds no tokens, so a prompt has no place in its input")
    if p < 1 or vocabulary < 0:
        refuse(model, f"a prompt of length {p} from {vocabulary} words is impossible")
