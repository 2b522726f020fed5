"""Reading the rows of a run on a model of the user's, from a JSONL file or a dataset.

A row is ``{"prompt": …, "completion": …}``, whose completion alone is learned, ``{"text": …}``, learned whole, or
``{"text": …, "label": …}``, whose text is read and whose label is learned.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One example."""

    prompt: str
    completion: str  # the label of a text that is to be classified
    labelled: bool = False


def read_rows(source: str, split: str = "train") -> list[Row]:
    """The rows of a JSONL file, or of a dataset of that id if no such file exists; at least two.

    Raises ``ValueError`` with the file and line of a row that cannot be used.
    """
    path = Path(source)
    if path.is_file():
        rows = list(_from_file(path))
    elif path.suffix in (".jsonl", ".json") or path.exists():
        raise ValueError(f"{source} is not a file; give a JSONL file or the id of a dataset")
    else:
        rows = [_row(item, f"{source}, row {i}") for i, item in enumerate(_dataset(source, split))]
    if len(rows) < 2:
        raise ValueError(f"{source} has {len(rows)} usable rows; two are needed, one to learn from and one to examine")
    if len({row.labelled for row in rows}) > 1:
        raise ValueError(f"some rows of {source} have a 'label' and some have none; give all of them one, or none")
    return rows


def classes(rows: Sequence[Row]) -> list[str]:
    """The labels that occur, numbers first, else in alphabetical order; empty when the rows have none.

    Raises ``ValueError`` when all have the same one.
    """
    found = sorted({row.completion for row in rows if row.labelled}, key=_order)
    if len(found) == 1:
        raise ValueError(f"every row has the label {found[0]!r}; classification needs two labels at least")
    return found


def _order(label: str) -> tuple[float, str]:
    return (int(label) if label.isdecimal() else math.inf, label)


def _from_file(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from None
            yield _row(item, f"{path}:{number}")


def _row(item: Any, place: str) -> Row:
    if isinstance(item, dict):
        match item:
            case {"prompt": str(prompt), "completion": str(completion)} if completion:
                return Row(prompt, completion)
            case {"text": str(text), "label": str() | int() as label} if text and label != "":
                return Row(text, str(label), labelled=True)
            case {"text": str(text)} if text and "label" not in item:
                return Row("", text)
    keys = ", ".join(map(repr, item)) if isinstance(item, dict) else type(item).__name__
    raise ValueError(
        f"{place}: expected the texts 'prompt' and 'completion', or 'text', or 'text' and a 'label' (a text or a whole "
        f"number); found {keys or 'nothing'}"
    )


def _dataset(name: str, split: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError(f"{name!r} is no file here; to load a dataset of that id, pip install datasets") from None
    return datasets.load_dataset(name, split=split)
