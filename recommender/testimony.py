"""Single published results that speak most clearly for or against a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kb.comparison import Cell
from kb.studies import Study
from recommender.answer import EvidenceItem, Relation

MOST = 2  # items for, and items against
_AUTHORS: dict[Relation, str] = {
    "independent": "",
    "rival": ", whose authors propose another method",
    "own": ", whose authors propose it",
}
_FEW = 3.0  # a study's mean over n cells counts n / (n + _FEW): one cell may be luck
_TRUST: dict[Relation, float] = {"independent": 1.0, "rival": 0.75, "own": 0.5}  # weight of a study by who made it
_ELSEWHERE = 0.25  # weight of cells of another situation than the one asked for


@dataclass(frozen=True)
class Voice:
    """All cells of one study that contain the method."""

    study: Study
    method: str
    cells: Sequence[Cell]

    @property
    def relation(self) -> Relation:
        """How the study's authors stand to the method."""
        if not self.study.proposes:
            return "independent"
        return "own" if self.method in self.study.proposes else "rival"

    @property
    def mean(self) -> float:
        """Mean distance from the average method of a cell, in standard deviations."""
        return fmean(cell.distance(self.method) for cell in self.cells)


def voices(method: str, cells: Iterable[Cell]) -> tuple[Voice, ...]:
    """The studies that contain a method, by id; cells in which all methods are equal say nothing."""
    by_study: dict[str, list[Cell]] = {}
    for cell in cells:
        if method in cell.results and cell.spread > 0:
            by_study.setdefault(cell.study.id, []).append(cell)
    return tuple(Voice(own[0].study, method, own) for _, own in sorted(by_study.items()))


def strongest(
    spoken: Iterable[Voice], fits: Callable[[Cell], bool], names: Mapping[str, str]
) -> tuple[tuple[EvidenceItem, ...], tuple[EvidenceItem, ...]]:
    """Up to two results for and two against a method, at most one per study, strongest first.

    A study's strength is the method's mean distance in it, less for few cells, for cells of few methods, for a study of
    authors who propose one of the methods, and for cells that do not fit the situation. The result shown is the one nearest to that mean: typical,
    not extreme. ``names`` gives the written name of each slug.
    """
    weighed: list[tuple[float, Voice]] = []
    for voice in spoken:
        near = [cell for cell in voice.cells if fits(cell)]
        told = Voice(voice.study, voice.method, near) if near else voice
        count = len(told.cells)
        weight = count / (count + _FEW) * _TRUST[voice.relation] * (1 if near else _ELSEWHERE)
        share = fmean(1 - 1 / len(cell.values) for cell in told.cells)  # of two methods one is always one deviation up
        weighed.append((told.mean * weight * share, told))
    speaking = sorted(weighed, key=lambda each: (-abs(each[0]), each[1].study.id))
    pro = [voice for strength, voice in speaking if strength > 0][:MOST]
    contra = [voice for strength, voice in speaking if strength < 0][:MOST]
    return tuple(_item(voice, names) for voice in pro), tuple(_item(voice, names) for voice in contra)


def _item(voice: Voice, names: Mapping[str, str]) -> EvidenceItem:
    """The study's typical result: the cell on the right side of the average that is nearest to the study's mean."""
    method, mean = voice.method, voice.mean
    cell = min(
        (cell for cell in voice.cells if cell.distance(method) * mean > 0),
        key=lambda cell: abs(cell.distance(method) - mean),
    )
    row, rival = cell.best(method), _rival(cell, method, better=mean > 0)
    other = cell.best(rival)
    difference = cell.distance(method, rival)
    name, count = names.get(method, method), len(voice.cells)
    side = "above" if mean > 0 else "below"
    times = sum(each.distance(method) * mean > 0 for each in voice.cells)
    often = f"in {times} of {count} comparisons" if count > 1 else "in the only comparison"
    text = (
        f"{name} reached {row.value:g} where {names.get(rival, rival)} reached {other.value:g} "
        f"({row.metric}, {'more' if row.higher_is_better else 'less'} is better; {row.task}; {row.model}). "
        f"It stands {side} the average method {often} of this study"
        f"{_AUTHORS[voice.relation]}."
    )
    study = voice.study
    return EvidenceItem(
        study=study.id,
        title=study.title,
        url=study.address,
        year=study.year,
        independent=voice.relation == "independent",
        relation=voice.relation,
        table=row.table,
        model=row.model,
        task=row.task,
        metric=row.metric,
        value=row.value,
        against=rival,
        against_value=other.value,
        difference=round(difference, 2),
        text=text,
    )


def _rival(cell: Cell, method: str, *, better: bool) -> str:
    """LoRA, where the comparison with it goes the way that is told; else the strongest that it beats, or that beats it."""
    sign = 1 if better else -1
    others = [other for other in cell.values if other != method and sign * cell.distance(method, other) > 0]
    return "lora" if "lora" in others else max(others, key=lambda other: (cell.values[other], other))
