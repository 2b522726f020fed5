"""``python -m synthesis`` fits quality and robustness and writes them to ``kb/synthesis/``."""

from __future__ import annotations

import sys

from kb.files import put
from kb.records import load_methods
from kb.studies import load_studies
from synthesis import quality, robustness
from synthesis.observation import all_cells, digest
from synthesis.record import FOLDER, stamp, text


def main() -> None:
    """Fit and write."""
    methods = load_methods()
    cells = all_cells(load_studies(), methods)
    made = stamp("python -m synthesis", digest(cells, methods))
    for name, fitted in (("quality", quality.synthesise), ("robustness", robustness.synthesise)):
        path = put(FOLDER / f"{name}.json", text({**made, **fitted(methods, cells)}))
        sys.stdout.write(f"{path.relative_to(FOLDER.parents[1])}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
