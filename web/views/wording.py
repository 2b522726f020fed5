"""What the forms call each constraint and its choices: one plain line each, for people who never read the API.

What a parameter means to a program stands with it in ``recommender.constraints``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

WHATEVER = "whatever suits best"


class Wording(NamedTuple):
    """How a form names a field, explains it, and names its choices."""

    label: str
    help: str
    choices: Mapping[str, str] = {}  # by value; a choice without words is shown by its value


METHOD = Wording("Method", "Start typing its name.")
FIELDS: Mapping[str, Wording] = {
    "gpu_mem": Wording("Memory of one card", "As it is sold, such as 24GB; 24GiB is a little more."),
    "gpu": Wording("or a card", "Start typing its name; its real memory and speed are used."),
    "gpus": Wording("Cards", "How many of them. Several share the weights where that helps."),
    "params": Wording("Model size", "Number of parameters, such as 7B or 350M."),
    "model": Wording("or a model", "Start typing its name; its real shape is used."),
    "seq": Wording("Longest sequence, tokens", "The longest example decides what fits, not the average one."),
    "batch": Wording("Batch, examples", "Examples per step; taken in smaller portions where they do not fit at once."),
    "quantization": Wording(
        "Frozen weights",
        "Fewer bits take less memory, and usually more time.",
        {"any": WHATEVER, "none": "16 bits", "8bit": "8 bits", "4bit": "4 bits"},
    ),
    "checkpointing": Wording(
        "Gradient checkpointing", "Computes activations twice instead of keeping them.", {"any": WHATEVER}
    ),
    "autocast": Wording(
        "Autocast of PEFT's code",
        "On: products in bf16, as training scripts run it. Off: as its published comparison does.",
        {"any": "on, as our scripts do"},
    ),
    "optimizer": Wording(
        "Optimizer",
        "What updates the trained parameters.",
        {
            "adamw": "AdamW",
            "adamw_fused": "AdamW, fused",
            "adamw_8bit": "AdamW, 8 bits",
            "adamw_paged_8bit": "AdamW, 8 bits, paged",
            "adafactor": "Adafactor",
            "sgd": "SGD",
        },
    ),
    "head_chunks": Wording("Pieces of logits and loss", "More pieces lower the peak for large vocabularies."),
    "implementation": Wording(
        "Implementation",
        "Whose code will run.",
        {"any": WHATEVER, "ours": "PEFT Atlas", "peft": "Hugging Face PEFT"},
    ),
    "rank": Wording("Rank", "Instead of the one that we advise."),
    "targets": Wording(
        "Adapted layers", "all_linear, paper, or names such as q_proj,v_proj. Left empty, we choose what fits."
    ),
    "task": Wording("Task", "Decides which published comparisons count most."),
    "data": Wording("Training examples", "How many, such as 500 or 16k; with few, steady methods move up."),
    "epochs": Wording("Passes over the examples", "With the number of examples, this gives the time of the whole run."),
    "merge": Wording("Merge into one model", "Whether the result has to be one plain model.", {"any": "not needed"}),
    "adapters": Wording("Tasks served at once", "From one base model; above one, they are mixed in a batch."),
    "backprop": Wording("Backpropagation", "Whether gradients may flow through the frozen model.", {"any": "allowed"}),
    "library": Wording("Library", "Only methods that it ships."),
    "family": Wording("Class", "Only methods of this class."),
    "budget": Wording(
        "Search for hyperparameters",
        "How many runs you can afford to tune a method.",
        {"none": "one run, no search", "small": "a few runs", "large": "a sweep"},
    ),
    "forgetting": Wording("Keeping old skills", "Whether the model must not forget.", {"any": "does not matter"}),
    "latency": Wording("Speed of the trained model", "Whether nothing may slow it down.", {"any": "does not matter"}),
    "why": Wording("Why not this method?", "Says why it is not the answer."),
    "objective": Wording("What matters most", "Decides what the ranking weighs most."),
    "limit": Wording("Methods to show", "How many the answer ranks."),
}
"""By parameter of a recommendation."""

ESTIMATE: Mapping[str, Wording] = {
    **FIELDS,
    "method": METHOD,
    "autocast": FIELDS["autocast"]._replace(choices={"any": "off, as published"}),
    "model": FIELDS["model"]._replace(label="Model"),
    "params": FIELDS["params"]._replace(label="or a size"),
    "gpu": FIELDS["gpu"]._replace(label="Card"),
    "gpu_mem": FIELDS["gpu_mem"]._replace(label="or its memory"),
    "targets": FIELDS["targets"]._replace(help="all_linear, or names such as q_proj,v_proj. Left empty, the paper's."),
}
"""By parameter of an estimate, which is of one method."""


def asked(constraint: str) -> str:
    """A constraint such as ``budget=none`` as the form calls it: “Search for hyperparameters: one run, no search”."""
    name, _, value = constraint.partition("=")
    wording = FIELDS[name]
    return f"“{alone(wording.label)}: {wording.choices.get(value, value)}”"


def alone(label: str) -> str:
    """A label that does not follow another field: "A card" for "or a card"."""
    rest = label.removeprefix("or ")
    return rest[0].upper() + rest[1:]
