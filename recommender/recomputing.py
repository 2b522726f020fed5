"""What computing activations twice takes at least, told from how two forms differ without working out the second.

Most plans are compared with the same plan that computes activations twice, and nearly all of them stay as they are: what
each example then costs in operations alone makes a step longer.
"""

from __future__ import annotations

from functools import lru_cache
from operator import add, sub

from kb.closed_form import Form
from kb.polynomial import EFFORT, Row, Settled, ends
from recommender.base import base, held
from recommender.family import Extra, lighter
from recommender.plans import Demand, Option, Sheet
from recommender.speed import NO_WORK, Rates, Work


def least(of: Sheet, option: Option, asked: Demand, rates: Rates) -> float:
    """Seconds that ``option`` takes at least for the share of a card, in one pass and with activations computed twice.

    0 where the forms do not tell.
    """
    found = option.repeated
    if found is None:
        found = option.repeated = _repeated(of, option, asked.asked.seq)
    return found.seconds(rates, asked.share, 1)


def _repeated(of: Sheet, option: Option, seq: int) -> Work:
    """The work of a micro-batch at least: what the second form surely adds, and what the model's family does beyond it."""
    formula, storage = option.line.of, option.key[1]
    twice = of.forms.get((storage, True))
    if twice is None or twice.form.storage != formula.form.storage or of.variant.rank is not None:
        return NO_WORK
    more = _more(formula.settled, twice)
    if more is None:
        return NO_WORK
    beside = base(of.about, held(twice, storage, of.about.windowed(seq)), of.prepared).extra
    (each,), work = formula.values.at_length(more, seq), option.work
    work = work._replace(each_flops=work.each_flops + each)
    if formula.extra is None and beside is None:
        return work
    further = map(sub, _family(beside, seq), _family(formula.extra, seq))
    return Work._make(map(add, work, (*further, 0.0)))


def _family(beside: Extra | None, seq: int) -> tuple[float, ...]:
    """What the family of a model adds to the numbers of the work, but for the last, the optimizer's."""
    return (0.0,) * 7 if beside is None else (*beside.effort(seq), beside.kernels)


@lru_cache(maxsize=4096)
def _more(once: Settled[Form], twice: Settled[Form]) -> Row | None:
    """What each example adds to the operations of a form where activations are computed twice.

    ``None`` unless no work of any kind becomes less on any model.
    """
    added = {name: lighter(twice.own(name), once.own(name)) for name in (*EFFORT, "kernels", "gradients")}
    added["flops"] = lighter(added["flops"], added["flops_fp32"])
    weights = (weight for by_product in added.values() for sums in by_product.values() for weight in sums.values())
    return None if added["gradients"] or min(weights, default=0.0) < 0 else ends(added["flops"])[1:]
