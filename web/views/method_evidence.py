"""What published comparisons report about one method: how much for its page, every result at an address of its own."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from kb.studies import Row, Study, load_studies
from web.views.base import Stamped, View, stamp
from web.views.record import record


class StudyCount(View):
    """A published comparison that contains the method."""

    study: str = Field(description="id of the study, as in /evidence/<study>")
    title: str = Field(description="its title")
    proposed_here: bool = Field(description="whether its authors propose the method: such results weigh less")
    results: int = Field(description="the method's results in it, listed at the address links.evidence")


class StudyResults(View):
    """What one published comparison reports about the method."""

    study: Study = Field(description="who compared")
    proposed_here: bool = Field(description="whether its authors propose the method: such results weigh less")
    url: str | None = Field(description="where to read it")
    rows: tuple[Row, ...] = Field(description="the method's rows, as reported")


class MethodEvidencePage(Stamped):
    """Every published result of one method."""

    slug: str = Field(description="the method")
    name: str = Field(description="its name")
    total: int = Field(description="results in all comparisons")
    evidence: tuple[StudyResults, ...] = Field(description="published comparisons that contain it")


def counted(slug: str) -> tuple[StudyCount, ...]:
    """The comparisons that contain a method, with the number of its results."""
    return tuple(
        StudyCount(study=study.id, title=study.title, proposed_here=slug in study.proposes, results=len(rows))
        for study, rows in _results(slug)
    )


def method_evidence_page(slug: str) -> MethodEvidencePage:
    """Every result of a method; ``MovedError`` for a former name, ``ProblemError`` (404) for no name."""
    method = record(slug)
    found = tuple(
        StudyResults(study=study, proposed_here=slug in study.proposes, url=study.address, rows=rows)
        for study, rows in _results(slug)
    )
    return MethodEvidencePage(
        **stamp(),
        links={
            "html": f"/methods/{slug}/evidence",
            "api": f"/api/v1/methods/{slug}/evidence",
            "method": f"/methods/{slug}",
            "csv": "/api/v1/evidence.csv",
        },
        slug=slug,
        name=method.name,
        total=sum(len(each.rows) for each in found),
        evidence=found,
    )


def _results(slug: str) -> Iterator[tuple[Study, tuple[Row, ...]]]:
    """Every study with a method's rows in it, where it has some."""
    for study, rows in load_studies().values():
        own = tuple(row for row in rows if row.method == slug)
        if own:
            yield study, own
