"""The dry run against published peaks: ``python -m profiler.validate``.

Hugging Face PEFT's method comparison (``kb/evidence/peft_metamathqa.*``) trained Llama-3.2-3B with many methods on one
NVIDIA L40S and published the most memory that the caching allocator reserved after any step. Its training loop, which is
public, tells what a dry run has to assume: the model's output is held until the next step, keys and values are cached,
gradients are dropped before the forward pass, batches come sorted by length, the longest of twenty first, and the cache is
emptied just before it. What it does not tell is how long the longest batch was: texts are cut at 768 tokens, but those of
more than 1,300 characters had been left out. ``LONGEST`` is therefore the one number that is fitted, on one row
(``FITTED_ON``); all other rows are predictions.

Misses above one percent. AdaLoRA: PEFT 0.21.2 trains ``ranknum``, one number per adapted layer, when the base is in bf16,
and so keeps every adapted layer's fp32 output; the published run, of an earlier version, trained 56 parameters fewer and
did not. Prefix tuning (+1.9 and -2.1 %): not explained yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from kb.catalogue import load_models
from kb.studies import load_studies
from profiler.dry_run import Report, dry_run
from profiler.settings import Settings

LONGEST = 692  # tokens of the longest batch; fitted on FITTED_ON
FITTED_ON = ("lora", "llama-3.2-3B-rank32")
SETTINGS = Settings(batch=4, seq=LONGEST, padded=True, keep_outputs=True, use_cache=True, before=100, emptied=True)

_QV = ["q_proj", "v_proj"]
_MLP = ["gate_proj", "up_proj", "down_proj"]
_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", *_MLP]
_NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]


@dataclass(frozen=True)
class Case:
    """One published run and the fields of PEFT's configuration class that it set."""

    slug: str
    configuration: str
    overrides: dict[str, object] = field(default_factory=dict)
    quick: bool = False  # checked in the test run


CASES = (
    Case("lora", "llama-3.2-3B-rank32", {"r": 32, "target_modules": _QV}, quick=True),
    Case("lora", "llama-3.2-3B-rank64", {"r": 64, "target_modules": _QV}),
    Case("lora", "llama-3.2-3B-rank10-target-mlp", {"r": 10, "target_modules": _MLP}, quick=True),
    Case("rslora", "llama-3.2-3B-rank64-rslora", {"r": 64, "target_modules": _QV}),
    Case("dora", "llama-3.2-3B-rank32-dora", {"r": 32, "target_modules": _QV}, quick=True),
    Case(
        "ia3",
        "llama-3.2-3B-default",
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        quick=True,
    ),
    Case("ia3", "llama-3.2-3B-all-attn-5k-lr0.005", {"target_modules": _ALL, "feedforward_modules": _MLP}),
    Case("miss", "llama-3.2-3B-default", {"r": 64, "target_modules": _QV}, quick=True),
    Case("miss", "llama-3.2-3B-bat", {"r": 64, "target_modules": _QV, "init_weights": "bat"}),
    Case("vera", "llama-3.2-3B-default", {"r": 256, "target_modules": _QV}, quick=True),
    Case("oft", "llama-3.2-3B-rank32", {"r": 32, "oft_block_size": 0, "target_modules": _QV}),
    Case("loha", "llama-3.2-3B-rank32", {"r": 32, "target_modules": _QV}),
    Case("lokr", "llama-3.2-3B-rank32-factor4-lr0.003", {"r": 32, "decompose_factor": 4, "target_modules": _QV}),
    Case("fourierft", "llama-3.2-3B-n_frequency-5000", {"n_frequency": 5000, "scaling": 300, "target_modules": _QV}),
    Case("ln_tuning", "llama-3.2-3B-default", {"target_modules": _NORMS}),
    Case("prompt_tuning", "llama-3.2-3B-default", {"num_virtual_tokens": 200}, quick=True),
    Case("p_tuning", "llama-3.2-3B-default", {"num_virtual_tokens": 20, "encoder_hidden_size": 3072}),
    Case("prefix_tuning", "llama-3.2-3B-tokens50-init_prefix-lr_0.005", {"num_virtual_tokens": 50}),
    Case("prefix_tuning", "llama-3.2-3B-lr_0.001", {"num_virtual_tokens": 200}),
    Case("llama_adapter", "llama-3.2-3B-lr_5e-3", {"adapter_len": 100, "adapter_layers": 28}),
    Case("adalora", "llama-3.2-3B-rank32", {"init_r": 64, "target_r": 32, "total_step": 5000, "target_modules": _QV}),
    Case("full_fine_tuning", "llama-3.2-3B-lr_0.00001", quick=True),
)


@dataclass(frozen=True)
class Comparison:
    """A prediction beside the measurement, both the allocator's reserved maximum in bytes."""

    case: Case
    report: Report
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """Relative; above zero when too much is predicted."""
        return self.predicted / self.measured - 1

    @property
    def fitted(self) -> bool:
        """Whether this row was used to find ``LONGEST``."""
        return (self.case.slug, self.case.configuration) == FITTED_ON


def compare(cases: Sequence[Case] = CASES) -> Iterator[Comparison]:
    """Runs every case that has a published measurement."""
    config = load_models()["llama-3.2-3b"].config
    rows = {(row.method, row.configuration): row for row in load_studies()["peft_metamathqa"][1]}
    for case in cases:
        row = rows.get((case.slug, case.configuration))
        if row is not None and row.memory_bytes is not None:
            report = dry_run(config, case.slug, SETTINGS, "peft", case.overrides)
            yield Comparison(case, report, report.reserved_bytes or 0, row.memory_bytes)


def main() -> None:
    """Prints one line per run, then the median of the errors of all rows but the fitted one."""
    parser = argparse.ArgumentParser(
        prog="python -m profiler.validate", description="The dry run against published peaks."
    )
    parser.add_argument("--quick", action="store_true", help="only the rows that the tests check")
    quick = parser.parse_args().quick
    out = sys.stdout
    out.write(f"{'method':17s} {'configuration':44s} {'predicted':>9s} {'measured':>9s}   error  (reserved GiB)\n")
    errors = []
    for one in compare([case for case in CASES if case.quick or not quick]):
        out.write(
            f"{one.case.slug:17s} {one.case.configuration:44s} {one.predicted / 2**30:9.2f} "
            f"{one.measured / 2**30:9.2f} {one.error:+7.2%}{'  fitted' if one.fitted else ''}\n"
        )
        out.flush()
        if not one.fitted:
            errors.append(abs(one.error))
    within = sum(error <= 0.01 for error in errors)
    out.write(f"median {median(errors):.2%}, {within} of {len(errors)} within 1 %, largest {max(errors):.2%}\n")


if __name__ == "__main__":
    main()
