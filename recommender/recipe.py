"""How to start: hyperparameters and code that runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kb.loader import KB
from kb.schema import Method
from recommender.answer import Code, Start
from recommender.citations import Library, computed
from recommender.rates import Scale, Sweep, starting_rate, usual_rate
from recommender.script import Job, attached, script, snippet
from recommender.setting import QUANTIZATION
from recommender.trainers import axolotl, llama_factory

IMPLEMENTATIONS: Path = KB.parent / "reference_impls"
TRAINED = ("decoder", "encoder", "encoder_decoder")  # kinds of models that `peft-atlas run` takes with rows of text
EPOCHS = 3.0  # where nothing is said: what the survey's own comparison trained for


def knobs(method: Method, library: Library) -> tuple[Start, ...]:
    """Hyperparameters to start from besides the learning rate, with the reason and its source."""
    return tuple(
        Start(
            name=knob.name,
            value=knob.ours if knob.ours is not None else knob.paper_default,
            why=knob.reason or ("the paper's default" if knob.paper_default is not None else "our advice"),
            source=library.cite(knob.source)
            if knob.source is not None and knob.ours in (None, knob.paper_default)
            else computed(f"the record of {method.name}, our advice on {knob.name}"),
        )
        for knob in method.mechanism.hyperparameters
        if knob.ours is not None or knob.paper_default is not None
    )


class Rates:
    """Learning rates to start from, worked out once for each method, size and task."""

    def __init__(self, found: Mapping[str, Sequence[Sweep]], library: Library) -> None:
        self._found, self._library, self._usual = found, library, usual_rate(found)
        self._known: dict[tuple[str, str, float, str], Start | None] = {}

    def start(self, method: Method, kind: str, parameters: int, task: str) -> Start | None:
        """The rate for a method on a model of ``parameters``, to a quarter of its order of magnitude."""
        size = round(4 * math.log10(parameters)) / 4
        key = (method.slug, kind, size, task)
        if key not in self._known:
            at = Scale(kind, 10**size, task)
            own = self._found.get(method.slug, ())
            self._known[key] = starting_rate(method, own, at, self._library, self._usual)
        return self._known[key]


def run_line(method: Method) -> str | None:
    """Our command line if the method has an implementation."""
    ours = (IMPLEMENTATIONS / f"{method.slug}.py").is_file()
    return f"peft-atlas run {method.slug}" if ours else None


def own_line(job: Job, run: str) -> str | None:
    """Our command line for the job's model and the user's rows; ``None`` where it does not do what the plan says.

    A plan of ours is run as it is. For a plan of PEFT's our command is one in fp32, where that surely fits: weights and
    activations take twice the bytes of bf16 then, at most.
    """
    plan = job.plan
    if job.model.kind not in TRAINED or plan.gpus > 1 or plan.optimizer != "adamw":
        return None
    line = f"{run} --model {job.model_id} --data train.jsonl --lr {job.rate:g} --batch {plan.micro_batch}"
    rows = plan.micro_batch
    if plan.implementation == "ours" and job.half == "bf16":
        rows *= plan.accumulation
        line += f" --accumulation {plan.accumulation}" if plan.accumulation > 1 else ""
        line += " --dtype bf16"
        line += "" if plan.storage == "bf16" else f" --quantization {QUANTIZATION[plan.storage]}"
        line += " --checkpointing" if plan.checkpointing else ""
    elif not job.roomy or plan.storage != "bf16":
        return None
    line += f" --longest {plan.seq}"
    return line if job.examples is None else f"{line} --steps {max(1, round(job.examples * job.epochs / rows))}"


def code(job: Job, run: str | None, brief: bool = False) -> Code:
    """Code that runs a job: our command, PEFT's lines and, unless ``brief``, a whole script and configurations for two tools."""
    of = attached(job.method, job.model, job.plan.targets)
    sites = job.plan.targets
    line = run if run is None or sites == job.method.mechanism.where else f"{run} --targets {','.join(sites)}"
    return Code(
        run=line,
        own=None if line is None else own_line(job, line),
        peft=None if of is None else snippet(of),
        script=None if of is None or brief else script(job, of),
        llama_factory=None if brief else llama_factory(job),
        axolotl=None if brief else axolotl(job),
    )
