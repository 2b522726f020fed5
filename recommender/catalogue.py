"""All records, read once and ready for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from kb.records import load_findings, load_methods, load_readings
from kb.schema import Method
from kb.studies import load_studies
from kb.trials import load_trials
from recommender.answer import Code, Reason, Start
from recommender.citations import Library
from recommender.criteria import Notes, Standing, standing_notes, standing_values
from recommender.footprint import Prepared, prepare
from recommender.quality import Evidence, synthesise
from recommender.reasons import Frame, heard, standing
from recommender.recipe import code, starts
from recommender.retention import retention


@dataclass(frozen=True)
class Known:
    """A record with everything that does not depend on a request."""

    prepared: Prepared
    evidence: Evidence
    values: Standing
    notes: Notes
    reasons: tuple[Reason, ...]
    starts: tuple[Start, ...]
    code: Code
    links: dict[str, str]


@dataclass(frozen=True)
class Catalogue:
    """All records, ready for requests."""

    known: Mapping[str, Known]
    library: Library
    frame: Frame
    data_version: str

    @cached_property
    def libraries(self) -> frozenset[str]:
        """Every library that ships a method."""
        return frozenset(lib.name for item in self.known.values() for lib in item.prepared.method.code.libraries)

    @cached_property
    def families(self) -> frozenset[str]:
        """Every class, by its path and by its last or first word."""
        leaves = {leaf for item in self.known.values() for leaf in item.prepared.method.taxonomy.classes}
        return frozenset(leaves | {leaf.split(".")[0] for leaf in leaves} | {leaf.split(".")[-1] for leaf in leaves})


def catalogue(methods: Mapping[str, Method]) -> Catalogue:
    """Prepares records for requests."""
    library = Library(methods, load_readings(), load_findings())
    studies = load_studies()
    evidence = synthesise(methods, studies)
    compared = [study for study, _ in studies.values()]
    trials = load_trials()
    kept = retention(methods, trials.values())
    measured = library.series(*next(iter((series, studies[series.study][0]) for series, _ in trials.values())))

    def prepared(slug: str, method: Method) -> Known:
        own = evidence[slug]
        return Known(
            prepared=prepare(method),
            evidence=own,
            values=standing_values(method, own, kept[slug]),
            notes=standing_notes(method, own, kept[slug], library, heard(own, compared, library), measured),
            reasons=standing(method, library),
            starts=starts(method),
            code=code(method),
            links={"self": f"/methods/{slug}", "json": f"/methods/{slug}.json"},
        )

    known = {slug: prepared(slug, method) for slug, method in methods.items()}
    checked = max(method.review.checked for method in methods.values())
    return Catalogue(known, library, Frame(library, measured), f"{checked}+{len(methods)}")


@lru_cache(maxsize=1)
def default_catalogue() -> Catalogue:
    """The project's records, ready for requests."""
    return catalogue(load_methods())
