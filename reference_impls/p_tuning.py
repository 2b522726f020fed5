"""P-tuning: the prompt vectors come out of a small recurrent network, which makes them depend on each other.

    P = ReLU(LSTM(E) W_1ᵀ + b_1) W_2ᵀ + b_2        E (p, d)   P (p, d)   W_1, W_2 (d, d)   b_1, b_2 (d,)
    H₀ = [P ; E(x)], or E(x) with one row of P at each placeholder of a template

LSTM has two layers and two directions of width d / 2. E and the network train, p d + 14 d² + 18 d numbers; the model is
frozen. After training ``flatten`` computes P once and drops the network, so that p d numbers remain, as in prompt
tuning. A template puts the vectors around and between the words: give its places the token id ``placeholder``, as in
"[P] [P] x [P] [MASK] [P]". Without one they all stand together at prompt tuning's place. The prompt is part of the
input: the model does not start where it was, and there is nothing to merge.

Paper:     Liu et al. 2021, arXiv:2103.10385, section 3 (equations 5 and 6 of its first version)
Official:  github.com/THUDM/P-tuning at f4225d4, LAMA/p_tuning/prompt_encoder.py and modeling.py (MIT)
Differs:   no dropout in the LSTM (the code's default is 0). ``encoder="mlp"`` is the library peft's default: three
           linear maps d → h → h → d with ReLU between. The paper's few-shot runs train the model along, its knowledge
           probing does not: only that is P-tuning here
"""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_impls._surgery import freeze, refuse
from reference_impls.prompt_tuning import PromptModel, check


@dataclass(frozen=True)
class Config:
    """Length of the prompt, the network behind it, and where the prompt stands."""

    prompt_length: int = 9  # LAMA/cli.py: template (3, 3, 3)
    encoder: Literal["lstm", "mlp"] = "lstm"  # section 3
    hidden: int | None = None  # width of the network; d / 2 in each direction of the LSTM, d in the MLP, as published
    placeholder: int | None = None  # id that stands for a prompt vector; it may lie outside the vocabulary


class LSTMEncoder(nn.Module):
    """Two recurrent layers in both directions and two linear maps."""

    def __init__(self, like: Tensor, d: int, h: int) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.lstm = nn.LSTM(d, h, num_layers=2, bidirectional=True, batch_first=True, **place)
        self.mlp = nn.Sequential(nn.Linear(2 * h, 2 * h, **place), nn.ReLU(), nn.Linear(2 * h, d, **place))

    def forward(self, E: Tensor) -> Tensor:
        """(p, d) -> (p, 2 h) -> (p, d)."""
        states, _ = self.lstm(E)
        return self.mlp(states)


class MLPEncoder(nn.Sequential):
    """Three linear maps with ReLU between: (p, d) -> (p, h) -> (p, h) -> (p, d)."""

    def __init__(self, like: Tensor, d: int, h: int) -> None:
        widths, layers = (d, h, h, d), []
        for d_in, d_out in itertools.pairwise(widths):
            layers += [nn.Linear(d_in, d_out, device=like.device, dtype=like.dtype), nn.ReLU()]
        super().__init__(*layers[:-1])


class PTunedModel(PromptModel):
    """A model whose prompt comes out of a network; ``P`` is the network's input E until ``flatten``."""

    def __init__(self, base: nn.Module, config: Config) -> None:
        super().__init__(base, config.prompt_length, vocabulary=0)
        nn.init.normal_(self.P)  # an embedding table in the official code
        d = self.P.shape[1]
        self.placeholder = config.placeholder
        self.encoder: nn.Module | None
        if config.encoder == "lstm":
            self.encoder = LSTMEncoder(self.P, d, config.hidden or d // 2)
        else:
            self.encoder = MLPEncoder(self.P, d, config.hidden or d)

    def prompt(self) -> Tensor:
        """P, computed by the network while there is one."""
        return self.P if self.encoder is None else self.encoder(self.P)

    def joined(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
        """The model's inputs with the prompt in front, or at the placeholders: then as long as before."""
        if self.placeholder is None:
            return super().joined(input_ids, inputs_embeds, inputs)
        if input_ids is None:
            raise ValueError("a template with placeholders needs input_ids")
        here = input_ids == self.placeholder  # (b, n)
        if bool((here.sum(1) > self.p).any()):
            raise ValueError(
                f"a row has more than {self.p} placeholders {self.placeholder}, one for each prompt vector"
            )
        words = self.base.get_input_embeddings()(input_ids.masked_fill(here, 0))  # (b, n, d)
        order = (here.cumsum(1) - 1).clamp(min=0)  # which of the p a placeholder stands for
        vectors = self.prompt().to(words.dtype)[order.clamp(max=self.p - 1)]  # (b, n, d)
        return dict(inputs, inputs_embeds=torch.where(here[..., None], vectors, words))

    def remove(self, states: Tensor) -> Tensor:
        """Nothing was inserted where placeholders were replaced."""
        return super().remove(states) if self.placeholder is None else states


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and returns it with a prompt and its network around it; call the returned one.

    Raises ``ValueError`` when the model embeds no tokens, the prompt is empty or the network is unknown.
    """
    check(freeze(model), config.prompt_length)
    if config.encoder not in ("lstm", "mlp") or (config.hidden is not None and config.hidden < 1):
        refuse(model, f"a network {config.encoder!r} of width {config.hidden}: take lstm or mlp, at least 1 wide")
    return PTunedModel(model, config)


@torch.no_grad()
def flatten(model: PTunedModel) -> PTunedModel:
    """After training: computes the prompt once and drops the network."""
    model.P.copy_(model.prompt())
    model.encoder = None
    return model
