"""Every implementation on this machine's GPU: ``make gpu``, or ``python -m tests.gpu [--minutes 10] [pytest's own words]``.

Conformance in fp32 and bf16, the same numbers as on the processor, training on the default task, saving and loading. The
results are lines of the card's file in ``kb/measurements``; what has passed is not run again. Without a GPU a small part
of the same tests runs on the processor, into a scratch file.
"""

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from profiler.campaign import file_for
from profiler.measure import machine

TESTS = ("tests/reference_impls/test_conformance.py", "tests/gpu/test_gpu_training.py")
SMALL = "lora-llama or prompt_tuning-t5 or lora]"  # what a processor is asked for


def main(arguments: list[str] | None = None) -> int:
    """Runs what has not passed yet; pytest's exit status, 0 also where all has passed before."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, help="begin no test after so long; the same call goes on")
    parser.add_argument("--results", type=Path, help="file of the results, instead of the card's of today")
    options, further = parser.parse_known_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products that are the same every time
    card = torch.cuda.is_available()
    device = torch.device("cuda" if card else "cpu")
    scratch = Path(tempfile.gettempdir()) / "peft-atlas-gpu-tests-cpu.jsonl"
    results = options.results or (file_for(machine(device), f"{datetime.now(UTC):%Y-%m-%d}") if card else scratch)
    words = ["-p", "tests.gpu.plugin", "--device", device.type, "--results", str(results)]
    words += [] if options.minutes is None else ["--minutes", str(options.minutes)]
    words += [] if card else ["-k", SMALL]
    if not card:
        sys.stderr.write(f"no GPU here: a small part runs on the processor, its results go to {results}\n")
    status = pytest.main([*TESTS, *words, *further])
    return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


if __name__ == "__main__":
    sys.exit(main())
