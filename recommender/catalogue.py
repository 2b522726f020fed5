"""All records, read once and ready for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from kb.architecture import from_config, representative
from kb.catalogue import load_models
from kb.records import load_findings, load_methods, load_readings
from kb.schema import Method
from kb.situation import Situation
from kb.studies import load_studies
from recommender.answer import Code, Excluded, Reason, Start
from recommender.citations import Library
from recommender.criteria import Notes, Standing, quality_value, standing_notes, standing_values
from recommender.filters import Requirements
from recommender.footprint import Prepared, prepare
from recommender.placement import EVERYWHERE, Grounds, narrow, same_sites, selectable
from recommender.quality import Evidence
from recommender.quality import evidence as gathered
from recommender.rates import sweeps
from recommender.reasons import Frame, heard, standing
from recommender.recent import Recent
from recommender.recipe import Rates, knobs, run_line
from recommender.retention import METRIC, measured, retention
from recommender.script import attached, snippet
from recommender.situated import Quantised

TYPICAL = 7 * 10**9  # parameters of the decoder that stands for all where no model is named


@dataclass(frozen=True)
class Known:
    """A record with everything that does not depend on a request."""

    prepared: Prepared
    everywhere: Prepared | None
    """The same on all linear layers, where it is low-rank and the record has query and value."""
    evidence: Evidence
    values: Standing
    notes: Notes
    reasons: tuple[Reason, ...]
    knobs: tuple[Start, ...]  # hyperparameters to start from, without the learning rate
    starts: tuple[Start, ...]  # with the learning rate for a decoder of 7B
    code: Code  # that does not depend on a plan
    links: dict[str, str]
    elsewhere: dict[tuple[str, ...], Prepared] = field(default_factory=dict, compare=False, repr=False)
    situated: dict[Situation, Standing] = field(default_factory=dict, compare=False, repr=False)

    def on(self, sites: tuple[str, ...]) -> Prepared:
        """``prepared`` with other layers adapted, where they can be chosen; remembered. No sites: those of the paper."""
        method = self.prepared.method
        if not sites or not selectable(method) or same_sites(method, sites):
            return self.prepared
        found = self.elsewhere.get(sites)
        if found is None:
            found = self.elsewhere[sites] = prepare(method, sites)
        return found

    def at(self, situation: Situation) -> Standing:
        """``values`` with the quality that the evidence lets expect in a situation; remembered."""
        found = self.situated.get(situation)
        if found is None:
            low = self.evidence.interval(situation)[1]
            found = self.situated[situation] = self.values._replace(quality=quality_value(low))
        return found


@dataclass(frozen=True)
class Catalogue:
    """All records, ready for requests."""

    known: Mapping[str, Known]
    library: Library
    frame: Frame
    rates: Rates
    quantised: Quantised
    grounds: Grounds
    data_version: str
    barred: dict[Requirements, Mapping[str, Excluded]] = field(default_factory=Recent, compare=False, repr=False)

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
    evidence = gathered(methods, studies)
    compared = [study for study, _ in studies.values()]
    comparison, best = measured(studies)
    kept = retention(methods, best)
    forgotten = library.study(comparison).model_copy(update={"where": f"rows of the metric {METRIC}"})
    kinds = {each.hf_id.rpartition("/")[2].casefold(): from_config(each.config).kind for each in load_models().values()}
    rates = Rates(sweeps(studies, kinds, library), library)
    usual = representative(TYPICAL)

    def prepared(slug: str, method: Method) -> Known:
        own, start = evidence[slug], knobs(method, library)
        rate = rates.start(method, usual.kind, usual.parameters, "any")
        of = attached(method, usual)
        return Known(
            prepared=prepare(method),
            everywhere=prepare(method, EVERYWHERE) if narrow(method) else None,
            evidence=own,
            values=standing_values(method, own, kept[slug]),
            notes=standing_notes(method, own, kept[slug], library, heard(slug, own, compared, library), forgotten),
            reasons=standing(method, library),
            knobs=start,
            starts=start if rate is None else (*start, rate),
            code=Code(run=run_line(method), peft=None if of is None else snippet(of)),
            links={"self": f"/methods/{slug}", "json": f"/methods/{slug}.json"},
        )

    known = {slug: prepared(slug, method) for slug, method in methods.items()}
    checked = max(method.review.checked for method in methods.values())
    return Catalogue(
        known,
        library,
        Frame(library, forgotten),
        rates,
        Quantised(methods, evidence),
        Grounds(library),
        f"{checked}+{len(methods)}",
    )


@lru_cache(maxsize=1)
def default_catalogue() -> Catalogue:
    """The project's records, ready for requests."""
    return catalogue(load_methods())
