"""Writes ``adapters/*.safetensors`` beside this file: what the library ``adapters`` computes on tiny models.

``adapters`` 1.3.0 works with transformers 4.57 alone, so it cannot run beside the rest of the tests. In an environment
of its own (``pip install torch==2.13.0 adapters==1.3.0``), from the root of the checkout:

    python -m tests.reference_impls.adapters_fixture

A base file holds the weights of a tiny model and a batch; a case file holds every number that ``adapters`` trains, drawn
at random, the logits and the loss that they give, and the gradient of the loss for each of them. Everything is fp32,
on one thread, and follows from ``SEED``.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.reference_impls.tiny import tiny

FOLDER = Path(__file__).parent / "adapters"
SEED = 20
VERSIONS = {"adapters": "1.3.0", "transformers": "4.57.6"}
MADE_WITH = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())  # one entry: their order is not kept
FAMILIES = ("bert", "llama", "t5")
MOVED = 0.1  # deviation of what is added to every trained number: at their start many are zero or one

BOTTLENECKS = ("houlsby", "pfeiffer", "parallel", "scaled_parallel")
EVERY: dict[str, tuple[str, ...]] = {  # the case, and the families whose bases it is made on
    **dict.fromkeys(BOTTLENECKS, FAMILIES),
    "compacter": FAMILIES,
    "compacter_plus_plus": FAMILIES,
    "phm": ("bert",),
    "prefix_tuning": FAMILIES,
    "prefix_tuning_sdpa": ("llama",),
    "prompt_tuning": ("bert",),
    "lora": FAMILIES,
    "dora": FAMILIES,
    "ia3": FAMILIES,
    "vera": ("bert",),
    "loreft": ("bert", "llama"),
    "mam": ("bert", "llama"),
    "unipelt": ("bert",),
    "fusion": ("bert",),
}


def configs() -> dict[str, Any]:
    """What ``adapters`` is asked for in each case."""
    import adapters

    bottleneck = {"reduction_factor": 8}
    phm = {"reduction_factor": 8, "phm_dim": 4, "non_linearity": "gelu_new"}  # as in the official code
    prefix = {"prefix_length": 3, "bottleneck_size": 16}
    lora = {"r": 4, "alpha": 10}
    return {
        "houlsby": adapters.DoubleSeqBnConfig(**bottleneck, non_linearity="gelu"),
        "pfeiffer": adapters.SeqBnConfig(**bottleneck),
        "parallel": adapters.ParBnConfig(**bottleneck, scaling=1.0),
        "scaled_parallel": adapters.ParBnConfig(**bottleneck, scaling=4.0),
        "compacter": adapters.CompacterConfig(**phm),
        "compacter_plus_plus": adapters.CompacterPlusPlusConfig(**phm),
        "phm": adapters.CompacterConfig(**phm, shared_phm_rule=False, factorized_phm_W=False),
        "prefix_tuning": adapters.PrefixTuningConfig(**prefix),
        "prefix_tuning_sdpa": adapters.PrefixTuningConfig(**prefix),
        "prompt_tuning": adapters.PromptTuningConfig(prompt_length=3, combine="prefix_after_bos"),
        "lora": adapters.LoRAConfig(**lora),
        "dora": adapters.DoRAConfig(**lora),
        "ia3": adapters.IA3Config(),
        "vera": adapters.VeraConfig(r=4, alpha=4),
        "loreft": adapters.LoReftConfig(r=4, prefix_positions=2, suffix_positions=2, tied_weights=True, dropout=0.0),
        "mam": adapters.ConfigUnion(
            adapters.PrefixTuningConfig(**prefix), adapters.ParBnConfig(**bottleneck, scaling=4.0)
        ),
        "unipelt": adapters.ConfigUnion(
            adapters.LoRAConfig(r=4, alpha=4, use_gating=True),
            adapters.PrefixTuningConfig(**prefix, use_gating=True),
            adapters.SeqBnConfig(**bottleneck, use_gating=True),
        ),
        "fusion": adapters.SeqBnConfig(**bottleneck),
    }


def save(name: str, tensors: dict[str, Tensor]) -> None:
    """Puts the tensors of a base or a case into its file, under a temporary name first."""
    FOLDER.mkdir(exist_ok=True)
    path, temporary = FOLDER / f"{name}.safetensors", FOLDER / f".{name}"
    save_file(
        {key: value.detach().clone().contiguous() for key, value in tensors.items()},
        temporary,
        metadata={"made_with": MADE_WITH},
    )
    temporary.replace(path)


def adapted(family: str, case: str, config: Any) -> tuple[nn.Module, Callable[[nn.Module], list[str]]]:
    """The base with what ``adapters`` adds, and which of its parameters the method trains."""
    import adapters
    from adapters.composition import Fuse

    model, _ = tiny(family, SEED)
    if family == "llama" and not case.endswith("_sdpa"):
        model.set_attn_implementation("eager")  # the default hides the library's prefixes: a case of its own
    base = {name for name, _ in model.named_parameters()}
    adapters.init(model)
    if case == "fusion":
        model.add_adapter("one", config=config)
        model.add_adapter("two", config=config)
        model.add_adapter_fusion(Fuse("one", "two"))
        model.train_adapter_fusion(Fuse("one", "two"))
    else:
        model.add_adapter("one", config=config)
        model.train_adapter("one")
    return model, lambda model: [name for name, _ in model.named_parameters() if name not in base]


@torch.no_grad()
def move(parameter: nn.Parameter, case: str, name: str) -> None:
    """Moves a number away from where it starts, within what the method allows."""
    signs = parameter.diagonal().clone() if name.endswith(".weight.original") else None
    parameter += MOVED * torch.randn_like(parameter)
    if signs is not None:
        parameter.diagonal().copy_(signs)  # torch's orthogonal matrices keep ±1 there, without a gradient
    if case == "fusion" and name.endswith((".query.bias", ".key.bias")):
        parameter.zero_()  # the paper's equation has none


def compute(family: str, case: str, config: Any) -> dict[str, Tensor]:
    """Parameters, logits, loss and gradients of one case."""
    torch.manual_seed(SEED)
    model, added = adapted(family, case, config)
    _, batch = tiny(family, SEED)
    model.eval()
    names = added(model)
    parameters = dict(model.named_parameters())
    for name in names:
        move(parameters[name], case, name)
    answer = model(**batch)
    answer.loss.backward()
    tensors = {"logits": answer.logits, "loss": answer.loss}
    for name in names:
        tensors[f"value.{name}"] = parameters[name]
        if parameters[name].grad is not None:
            tensors[f"grad.{name}"] = parameters[name].grad
    for name, unit in model.named_modules():
        if name.endswith(".projection"):  # LoReFT's orthogonal rows, which the library computes from other numbers
            del tensors[f"value.{name}.parametrizations.weight.original"]
            del tensors[f"grad.{name}.parametrizations.weight.original"]
            tensors[f"value.{name}.weight"] = unit.weight
    return tensors


def main() -> None:
    """Writes every file anew."""
    import adapters
    import transformers

    found = {"adapters": adapters.__version__, "transformers": transformers.__version__}
    if found != VERSIONS:
        sys.exit(f"these fixtures are made with {VERSIONS}, here is {found}")
    torch.set_num_threads(1)
    for family in FAMILIES:
        model, batch = tiny(family, SEED)
        save(f"base_{family}", {**model.state_dict(), **{f"batch.{name}": value for name, value in batch.items()}})
    made = configs()
    for case, families in EVERY.items():
        for family in families:
            save(f"{case}_{family}", compute(family, case, made[case]))
            sys.stderr.write(f"{case} {family}\n")


if __name__ == "__main__":
    main()
