"""Sources as a reader can follow them: titles and links for the ids that records use."""

from __future__ import annotations

from collections.abc import Mapping

from kb.schema import Finding, Method, Reading, Source
from kb.studies import Study
from recommender.answer import Citation

OWN = "peft-atlas"
"""Stands for this project in a citation: what it computed itself."""


class Library:
    """Looks up what a source refers to."""

    def __init__(
        self, methods: Mapping[str, Method], readings: Mapping[str, Reading], findings: Mapping[int, Finding]
    ) -> None:
        self._methods, self._readings, self._findings = methods, readings, findings

    def cite(self, source: Source) -> Citation:
        """The citation of a record's source."""
        title, url = self._target(source)
        return Citation(ref=source.ref, title=title, where=source.where, url=url, grade=source.grade)

    def finding(self, number: int) -> Citation:
        """The citation of a finding of the survey."""
        found = self._findings[number]
        title, url = self._target(found.source)
        return Citation(
            ref=found.source.ref,
            title=title,
            where=f"finding {number}: {found.source.where}",
            url=url,
            grade=found.source.grade,
        )

    def statement(self, number: int) -> str:
        """What a finding of the survey says, in our words."""
        return self._findings[number].statement

    def study(self, study: Study) -> Citation:
        """The citation of a published comparison."""
        return Citation(
            ref=study.id,
            title=study.title,
            where="all tables that compare three methods or more",
            url=study.address,
            grade=study.grade,
        )

    def _target(self, source: Source) -> tuple[str, str | None]:
        reading = self._readings.get(source.ref)
        if reading is not None:
            return reading.title, reading.url or (f"https://arxiv.org/abs/{reading.arxiv}" if reading.arxiv else None)
        method = self._methods.get(source.ref)
        if method is None or method.paper is None:
            return source.ref, None
        if source.basis == "code" and method.code.official is not None:
            return f"official code of {method.name}", method.code.official.url
        paper = method.paper
        return paper.title, paper.url or (f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else None)


def computed(where: str) -> Citation:
    """The citation of a figure that this project computes."""
    return Citation(ref=OWN, title="PEFT Atlas, this answer's own prediction", where=where, url=None, grade=None)
