"""Two names for one run: LoRA with its base in four bits and all linear layers adapted is QLoRA, to the last matrix.

Studies of either tell of the same run, and a ranking that sets the two apart ranks names. So where a plan of a method is the
run that another method is by definition, the two have one plan, one estimate and one score, and stand next to each other:
those of the one that more independent studies contain. In any other plan each has its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from kb.schema import Method
from recommender.answer import Twin
from recommender.catalogue import Known
from recommender.placement import said
from recommender.scoring import Case, Scored


def together(case: Case, fitting: Sequence[Scored]) -> list[Scored]:
    """The methods that fit, with one standing for those whose plans are the same run."""
    found = {each.slug: each for each in fitting}
    for quantised, base in case.about.quantised.pairs:
        if quantised in found and base in found and _same(found[quantised], found[base]):
            lender, taker = sorted((found[base], found[quantised]), key=_founded, reverse=True)
            found[lender.slug] = lender._replace(twin=taker.item)
            found[taker.slug] = lender._replace(slug=taker.slug, item=taker.item, twin=lender.item, judge=lender.item)
    return list(found.values())


def _founded(found: Scored) -> int:
    return len(found.item.evidence.studies)


def _same(quantised: Scored, base: Scored) -> bool:
    """Whether two plans hold the base in four bits and adapt the same layers, with equal settings and start."""
    packed = all(each.option.key[1] == "nf4" for each in (quantised, base))
    settings = base.item.prepared.own.items() <= quantised.item.prepared.own.items()
    starts = _start(base.item.prepared.method) == _start(quantised.item.prepared.method)
    return packed and settings and starts and base.option.sites == quantised.option.sites


def _start(method: Method) -> dict[str, str]:
    """How each new parameter starts, without remarks on its source."""
    return {name: text.partition(" (")[0] for name, text in (method.mechanism.initialisation or {}).items()}


def other_name(case: Case, found: Scored) -> Twin | None:
    """What a reader is told of the other name; ``None`` where there is none."""
    if found.twin is None:
        return None
    pair = {item.prepared.method.slug: item for item in (found.item, found.twin)}
    (name, base), *_ = ((name, base) for name, base in case.about.quantised.pairs if {name, base} == {*pair})
    lender, taker = (found.item, found.twin) if found.judge is None else (found.twin, found.item)
    source = pair[name].prepared.method.efficiency.quantised_base.source
    text = (
        f"{_name(pair[base])} with its base in NF4 and {said(found.option.sites)} adapted is {_name(pair[name])}: one run by "
        f"two names. Both have the plan and the standing of {_name(lender)}, which {len(lender.evidence.studies)} independent "
        f"studies contain; {_name(taker)} is in {len(taker.evidence.studies)}."
    )
    cited = None if source is None else case.about.library.cite(source)
    return Twin(slug=found.twin.prepared.method.slug, name=_name(found.twin), text=text, source=cited)


def _name(item: Known) -> str:
    return item.prepared.method.name
