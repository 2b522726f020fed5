"""``python -m profiler.validation``: runs what is not known yet, prints the table, writes ``kb/validation/report.json``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings

from profiler.validation.cache import ROOT, Cache
from profiler.validation.job import run
from profiler.validation.report import GOALS, make, table, write


def main() -> None:
    """Reads the command line; ends with status 1 when a row could not be run."""
    parser = argparse.ArgumentParser(
        prog="python -m profiler.validation", description="The profiler against measurements."
    )
    parser.add_argument("--goal", action="append", choices=[*GOALS], help="only this; the others stay as they were")
    parser.add_argument("--fresh", action="store_true", help="run all rows again")
    parser.add_argument("--only", default="", help="only rows whose key contains this; the others stay as they were")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
    cache = Cache(ROOT / "runs" / "validation.json", options.fresh)
    failed = run(cache, sys.stderr, options.goal or GOALS, options.only)
    if not failed:
        report, reached = make(cache)
        write(report, reached)
        sys.stdout.write(table(report))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
