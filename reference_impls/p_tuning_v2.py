"""P-tuning v2: trained keys and values stand in front of those of every layer, with no network behind them.

    y = Attn(x W_q, [P_k ; c W_k], [P_v ; c W_v])      x (n, d)   c = x, or the encoder's output   P_k, P_v (p, d_kv)

This is prefix tuning made for understanding tasks. Each attention module has prefixes of its own, and they are the
trained numbers themselves: 2 p d_kv per module. An ordinary head reads the first token, or every token, in place of a
verbaliser. They start as N(0, 1), so the model does not start where it was; the prefix takes part in every softmax, so
nothing can be merged. Trained directly they want a learning rate a hundred times above that of prefix tuning.

Paper:     Liu et al. 2021, arXiv:2110.07602, section 3
Official:  github.com/THUDM/P-tuning-v2 at b1520c9, model/prefix_encoder.py (Apache-2.0)
Differs:   the task head stays frozen here, the paper trains it with the prompts. The official code adapts encoders alone,
           hands the prefix over as a cache and drops out a tenth of it; see prefix_tuning for what the cache shifts.
           ``hidden`` puts the paper's optional network in front: prefix tuning's, shared by the layers
"""

from dataclasses import dataclass

from torch import nn

from reference_impls import prefix_tuning
from reference_impls._site import instances
from reference_impls._surgery import freeze
from reference_impls.prefix_tuning import Stored


@dataclass(frozen=True)
class Config:
    """Length of the prompt in every layer."""

    prompt_length: int = 20  # run_script/run_rte_bert.sh; short for easy tasks, 100 and more for sequence labelling
    hidden: int | None = None  # section 3.3: whether a network helps depends on the task; None trains P directly


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives every attention module prompts of its own.

    Raises ``ValueError`` when the model has no attention module that reads a cache, or a size is not positive.
    """
    settings = prefix_tuning.Config(prefix_length=config.prompt_length, hidden=config.hidden)
    prefix_tuning.insert(freeze(model), settings)
    for _, stored in instances(model, Stored):
        nn.init.normal_(stored.P_k)  # an embedding table in the official code
        nn.init.normal_(stored.P_v)
    return model


flatten = prefix_tuning.flatten  # for ``hidden``: computes the prompts once and drops the network
