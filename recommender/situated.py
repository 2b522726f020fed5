"""What a plan and the size of the model change about a method's standing: a base of four bits, a size never tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from kb.schema import Method
from kb.situation import Situation
from recommender.answer import Plan
from recommender.criteria import Standing, quality_value
from recommender.phrase import Phrase
from recommender.placement import said
from recommender.quality import Evidence
from recommender.units import show_count, signed

BEYOND = 0.1  # taken off robustness for each order of magnitude beyond twice the largest model on which it was shown


class Quantised:
    """What four bits cost in quality, from methods that are another one on a quantised base."""

    def __init__(self, methods: Mapping[str, Method], evidence: Mapping[str, Evidence]) -> None:
        self._evidence = evidence
        self.pairs = tuple(
            (slug, relation.to)
            for slug, method in methods.items()
            if "quantised_base" in method.applies_to.needs and evidence[slug].studies
            for relation in method.taxonomy.relations
            if relation.kind == "extends" and "quantised_base" not in methods[relation.to].applies_to.needs
        )
        """Methods that are another one on a quantised base, with that."""
        self._known: dict[Situation, float] = {}
        self.kin = {base: methods[slug].name for slug, base in self.pairs}
        """Methods that become another one on a base of four bits, with its name."""
        self.told = dict(self._told(methods))
        """What a reader is told of either on such a base, by method."""

    def _told(self, methods: Mapping[str, Method]) -> Iterator[tuple[str, str]]:
        for slug, base in self.pairs:
            own, other = methods[slug], methods[base]
            yield base, f"{other.name} on a base of four bits is what {own.name} does, on {said(own.mechanism.where)}."
            own_studies, others = (len(self._evidence[each].studies) for each in (slug, base))
            yield (
                slug,
                f"It is {other.name} on a base of four bits and {said(own.mechanism.where)}, by a name of its own: its standing "
                f"rests on the {own_studies} independent studies that use this name, that of {other.name} on {others}.",
            )

    def cost(self, at: Situation) -> float:
        """By how many standard deviations four bits lower the expected quality: at most 0."""
        if at not in self._known:
            gaps = [
                self._evidence[slug].interval(at)[0] - self._evidence[base].interval(at)[0] for slug, base in self.pairs
            ]
            self._known[at] = min(0.0, sum(gaps) / len(gaps)) if gaps else 0.0
        return self._known[at]

    def applies(self, method: Method, storage: str) -> bool:
        """Whether a plan with this storage of the base costs quality that the method's own evidence does not show."""
        return storage == "nf4" and "quantised_base" not in method.applies_to.needs


def untried(method: Method, parameters: int) -> float:
    """What a model far larger than any on which the method was shown takes off robustness, in steps of none."""
    shown = method.applies_to.largest_scale.value
    if shown is None or parameters <= 2 * shown:
        return 0.0
    return min(0.3, BEYOND * math.log10(parameters / (2 * shown)))


def situated(
    standing: Standing,
    method: Method,
    evidence: Evidence,
    at: Situation,
    storage: str,
    parameters: int,
    lost: Quantised,
) -> Standing:
    """The standing of a method in a plan on a model of ``parameters``."""
    quality, inference, beside, robustness, retention = standing
    off, cheaper = untried(method, parameters), lost.applies(method, storage)
    if not off and not cheaper:
        return standing
    if off:
        robustness = max(0.0, robustness - off)
    if cheaper:
        quality = quality_value(evidence.interval(at)[1] + lost.cost(at))
    return Standing(quality, inference, beside, robustness, retention)


def reworded(
    quality: Phrase, robustness: Phrase, method: Method, at: Situation, plan: Plan, parameters: int, lost: Quantised
) -> tuple[Phrase, Phrase]:
    """The words on quality and on robustness with what ``situated`` changed; the same where it changed nothing."""
    if lost.applies(method, plan.storage) and lost.cost(at):
        quality = quality.further(
            ", a little less on a base of four bits",
            f"; {signed(lost.cost(at))} for a base of four bits, as between {' and '.join(lost.kin.values())} and what it builds on",
        )
    off, shown = untried(method, parameters), method.applies_to.largest_scale.value
    if off and shown is not None:
        size = show_count(shown)
        robustness = robustness.further("", f"; {off:.2f} taken off, since it was shown on models up to {size} only")
    return quality, robustness
