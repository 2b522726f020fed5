"""Expected quality of a method in a situation, how steady it is, and what each study says of it.

The estimates come from the committed synthesis (``kb/synthesis/``), which ``python -m synthesis`` fits; nothing is
fitted here. A method that was added since has what its classes let expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from statistics import fmean
from typing import Any, get_args

from kb.comparison import Cell, cells
from kb.loader import KB
from kb.records import load_methods
from kb.schema import Method
from kb.situation import ANY, ANYWHERE, Situation, situation
from kb.studies import Row, Study, load_studies
from recommender.answer import Quality, Relation, Robustness, StudyEffect, Tally
from recommender.testimony import Voice, strongest, voices

__all__ = ["ANYWHERE", "Evidence", "Situation", "evidence", "quality", "robustness", "situation", "studies_of"]

FOLDER = KB / "synthesis"
LITTLE = 3  # independent studies; fewer are little evidence
FEW = 5  # comparisons of a situation; where there are fewer, those of all situations are counted
_FULL = "full_fine_tuning"
Interval = tuple[float, float, float]
"""Estimate, lower and upper end of an 80 % interval."""


@lru_cache(maxsize=4)
def committed(name: str) -> Mapping[str, Any]:
    """A committed result of the synthesis: ``quality``, ``robustness`` or ``validation``."""
    content: Mapping[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _mean(intervals: Sequence[Sequence[float]]) -> Interval:
    low, middle, high = (fmean(each[place] for each in intervals) for place in (1, 0, 2))
    return middle, low, high


@dataclass(frozen=True)
class Evidence:
    """What is known about the quality of one method."""

    method: Method
    voices: tuple[Voice, ...]
    """The studies that contain it, with their cells."""
    names: Mapping[str, str]
    """The written name of every method."""
    told: dict[Situation, Quality] = field(default_factory=dict, compare=False, repr=False)
    """What was worked out before."""
    expected: dict[Situation, Interval] = field(default_factory=dict, compare=False, repr=False)
    """The same of intervals alone."""

    @property
    def studies(self) -> tuple[str, ...]:
        """Independent studies that contain it: their authors propose none of the methods."""
        return tuple(voice.study.id for voice in self.voices if voice.relation == "independent")

    def interval(self, at: Situation = ANYWHERE) -> Interval:
        """Expected quality with its 80 % interval; a task that the evidence does not tell apart counts as any."""
        if at not in self.expected:
            self.expected[at] = self._interval(at)
        return self.expected[at]

    def _interval(self, at: Situation) -> Interval:
        fitted, slug = committed("quality"), self.method.slug
        own = fitted["methods"].get(slug)
        tables = [own["estimates"]] if own else [fitted["classes"][each] for each in self._classes(fitted["classes"])]
        key = at.key if at.key in tables[0] else at._replace(task=ANY).key
        return _mean([table[key] for table in tables])

    def _classes(self, known: Mapping[str, object]) -> Sequence[str]:
        """Its classes, as far as they have an estimate; all classes, if none has."""
        return [leaf for leaf in self.method.taxonomy.classes if leaf in known] or sorted(known)

    def quality(self, at: Situation = ANYWHERE) -> Quality:
        """Expected quality in a situation, with the results that speak most clearly for and against it."""
        if at not in self.told:
            self.told[at] = self._quality(at)
        return self.told[at]

    def _quality(self, at: Situation) -> Quality:
        estimate, low, high = self.interval(at)
        own = self._count("own")
        pro, contra = strongest(self.voices, lambda cell: _fits(cell, at), self.names)
        return Quality(
            estimate=round(estimate, 3),
            low=round(low, 3),
            high=round(high, 3),
            situation=str(at),
            independent=len(self.studies),
            rivals=self._count("rival"),
            self_reported=own,
            rows=sum(len(cell.results[self.method.slug]) for voice in self.voices for cell in voice.cells),
            basis=self._basis(),
            tally=self._tally(at),
            strongest_for=pro,
            strongest_against=contra,
        )

    def _tally(self, at: Situation) -> Tally | None:
        """How often it came out ahead, by the most trustworthy kind of study that compares it."""
        for relation in get_args(Relation):
            everything = [cell for voice in self.voices if voice.relation == relation for cell in voice.cells]
            if everything:
                near = [cell for cell in everything if _fits(cell, at)]
                return self._counted(relation, near if len(near) >= FEW else everything, len(near) >= FEW)
        return None

    def _counted(self, relation: Relation, found: Sequence[Cell], situated: bool) -> Tally:
        slug = self.method.slug
        full = [cell for cell in found if slug != _FULL and _FULL in cell.values]
        return Tally(
            relation=relation,
            studies=len({cell.study.id for cell in found}),
            comparisons=len(found),
            ahead=sum(cell.distance(slug) > 0 for cell in found),
            against_full=len(full),
            level_with_full=sum(cell.distance(slug, _FULL) >= 0 for cell in full),
            situated=situated,
        )

    def _count(self, relation: Relation) -> int:
        return sum(voice.relation == relation for voice in self.voices)

    def _basis(self) -> str:
        if not self.voices:
            return "no study compares it; what its class lets expect, with a wide interval"
        count, rivals, own = (self._count(each) for each in get_args(Relation))
        told = _counted(count, "independent study", "independent studies") if count else "no independent study"
        others = [f"{_counted(rivals, 'study', 'studies')} by authors of other methods"] * (rivals > 0)
        others += [f"{_counted(own, 'study', 'studies')} by its own authors, less a bias"] * (own > 0)
        told = "; ".join([told, *others])
        return f"{told}; little independent evidence" if count < LITTLE else told

    def robustness(self) -> Robustness:
        """How much its results vary with seed, configuration and task."""
        fitted = committed("robustness")
        own = fitted["methods"].get(self.method.slug)
        leaves = self._classes(fitted["classes"])
        estimate, low, high = own["estimate"] if own else _mean([fitted["classes"][leaf] for leaf in leaves])
        count = len(own["studies"]) if own else 0
        return Robustness(
            estimate=round(estimate, 3),
            low=round(low, 3),
            high=round(high, 3),
            studies=count,
            basis=f"spreads over seeds, configurations and tasks in {_counted(count, 'study', 'studies')}"
            if count
            else "no study varied it; what its class lets expect",
        )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _fits(cell: Cell, at: Situation) -> bool:
    """Whether a cell was measured in a situation, as far as both are known."""
    row = cell.row
    there = situation(row.task_group, row.examples, row.model_params)
    return all(ANY in (wanted, found) or wanted == found for wanted, found in zip(at, there, strict=True))


def evidence(
    methods: Mapping[str, Method], studies: Mapping[str, tuple[Study, tuple[Row, ...]]]
) -> dict[str, Evidence]:
    """The evidence for every method."""
    names = {slug: method.name for slug, method in methods.items()}
    everything = [cell for study, rows in studies.values() for cell in cells(study, rows, methods)]
    return {slug: Evidence(method, voices(slug, everything), names) for slug, method in methods.items()}


@lru_cache(maxsize=1)
def _all() -> Mapping[str, Evidence]:
    return evidence(load_methods(), load_studies())


@cache
def quality(slug: str, at: Situation = ANYWHERE) -> Quality:
    """What the evidence says about a method in a situation; ``KeyError`` for a slug without a record."""
    return _all()[slug].quality(at)


@cache
def robustness(slug: str) -> Robustness:
    """How steady a method's results are; ``KeyError`` for a slug without a record."""
    return _all()[slug].robustness()


@cache
def studies_of(slug: str) -> tuple[StudyEffect, ...]:
    """What each study says about a method, independent ones first; ``KeyError`` for a slug without a record."""
    about, fitted = _all()[slug], committed("quality")["methods"].get(slug, {"studies": {}})["studies"]
    found = [
        StudyEffect(
            study=voice.study.id,
            title=voice.study.title,
            url=voice.study.address,
            year=voice.study.year,
            independent=voice.relation == "independent",
            relation=voice.relation,
            estimate=fitted[voice.study.id][0],
            low=fitted[voice.study.id][1],
            high=fitted[voice.study.id][2],
            n=fitted[voice.study.id][3],
        )
        for voice in about.voices
        if voice.study.id in fitted
    ]
    return tuple(sorted(found, key=lambda each: (not each.independent, each.study)))
