"""Lets every implemented method climb the ladder as its record says, and writes ``climbs.json`` beside this file.

``python -m tests.reference_impls.climb`` runs all (half a minute per rung and method), with slugs after it only
those; what the file says of the others stays. The tests hold the records against the file. Time is the processor's, on
one thread: what a run takes on a machine that does nothing else.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

import reference_impls
from kb.files import put
from kb.loader import KB, load_record
from kb.schema import Method, Reference
from reference_impls.ladder import climb, task
from reference_impls.training.loop import configure

REPORT = Path(__file__).with_name("climbs.json")
MARK = 0.9  # share of whole answers right from which a rung counts as climbed


LACKING = {"cross_attention", "masked_lm", "fine_tuned_models"}  # what a method may need and the small base has not


def slugs() -> list[str]:
    """Every implemented method that the small base, a plain decoder, can carry by its record."""
    return [slug for slug in reference_impls.slugs() if carries(slug)]


def carries(slug: str) -> bool:
    """Whether the record lets the method work on a decoder that has nothing beside itself."""
    applies = load_record(KB / "methods" / f"{slug}.yaml", Method).applies_to
    return "decoder" in applies.architectures and not LACKING.intersection(applies.needs)


def climb_all(slug: str, lr: float, steps: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a method on each rung, always from a fresh base, and says what came of it."""
    method = importlib.import_module(f"reference_impls.{slug}")
    rungs = {}
    for name, rung in task.RUNGS.items():
        start = time.process_time()
        _, result = climb.climb(method, configure(method, dict(config)), rung, lr=lr, steps=steps)
        rungs[name] = {
            "before": round(result.before.exact, 4),
            "after": round(result.after.exact, 4),
            "after_token": round(result.after.token, 4),
            "cpu_seconds": round(time.process_time() - start, 1),
        }
        sys.stderr.write(f"{slug} {name} {rungs[name]}\n")
    settings = {"learning_rate": lr, "steps": steps, "config": dict(config)}
    return {**settings, "trained": result.trainable, "rungs": rungs, "highest": highest(rungs)}


def highest(rungs: Mapping[str, Mapping[str, float]]) -> str:
    """The highest rung that was climbed together with all below it, or ``none``."""
    reached = "none"
    for name in task.RUNGS:
        if rungs[name]["after"] < MARK:
            break
        reached = name
    return reached


def write(entries: Mapping[str, Any]) -> None:
    """Puts ``entries`` into the report; methods that are no longer implemented leave it."""
    old = json.loads(REPORT.read_text())["methods"] if REPORT.exists() else {}
    methods = {slug: entry for slug, entry in sorted({**old, **entries}.items()) if slug in slugs()}
    methods = {slug: entry for slug, entry in methods.items() if slug in entries or ran_as_recorded(slug, entry)}
    report = {
        "made_by": "python -m tests.reference_impls.climb",
        "mark": MARK,
        "seed": 0,
        "batch": climb.BATCH,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rungs": {name: rung.says for name, rung in task.RUNGS.items()},
        "pending": [slug for slug in slugs() if slug not in methods],
        "methods": methods,
    }
    put(REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def ran_as_recorded(slug: str, entry: Mapping[str, Any]) -> bool:
    """Whether the record still runs the method as it climbed."""
    given = reference(slug)
    ran = (entry["learning_rate"], entry["steps"], entry["config"])
    return given is not None and (given.learning_rate, given.steps, given.config) == ran


def reference(slug: str) -> Reference | None:
    """How the record wants the method to be run."""
    return load_record(KB / "methods" / f"{slug}.yaml", Method).reference


def main(wanted: Iterable[str]) -> None:
    """Climbs with the methods ``wanted``, or with all, and keeps the report up to date after each."""
    torch.set_num_threads(1)
    for slug in list(wanted) or slugs():
        given = reference(slug)
        if given is None:
            sys.exit(f"kb/methods/{slug}.yaml has no reference run; give it learning_rate, steps and config")
        write({slug: climb_all(slug, given.learning_rate, given.steps, given.config)})


if __name__ == "__main__":
    main(sys.argv[1:])
