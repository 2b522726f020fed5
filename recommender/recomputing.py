"""What computing activations twice takes at least, told from how two forms differ without working out the second.

Most plans are compared with the same plan that computes activations twice, and nearly all of them stay as they are: what
each example then costs in operations alone makes a step longer.
"""

from __future__ import annotations

from functools import lru_cache

from kb.closed_form import Form
from kb.polynomial import EFFORT, Row, Settled, Weights, ends
from recommender.base import base, held
from recommender.family import Difference, Extra, heavier, lighter
from recommender.plans import Demand, Option, Sheet
from recommender.speed import Rates

Whole = tuple[Settled[Form], tuple[Difference, ...]]
"""A form with what the family of a model adds to it."""


def least(of: Sheet, option: Option, asked: Demand, rates: Rates) -> float:
    """Seconds that ``option`` takes at least for the share of a card, in one pass and with activations computed twice.

    0 where the forms do not tell.
    """
    formula, storage, seq = option.line.of, option.key[1], asked.asked.seq
    twice = of.forms.get((storage, True))
    if twice is None or twice.form.storage != formula.form.storage or of.variant.rank is not None:
        return 0.0
    beside = base(of.about, held(twice, storage, of.about.windowed(seq)), of.prepared).extra
    more = _more(_whole(formula.settled, formula.extra), _whole(twice, beside))
    if more is None:
        return 0.0
    _, each = formula.values.at_length(more, seq)
    return option.work.seconds(rates, asked.share, 1, each)


def _whole(known: Settled[Form], beside: Extra | None) -> Whole:
    return known, () if beside is None else beside.differences


@lru_cache(maxsize=512)
def _more(once: Whole, twice: Whole) -> Row | None:
    """The operations that activations computed twice add; ``None`` unless no work of any kind becomes less on any model."""
    added = {name: lighter(_weights(twice, name), _weights(once, name)) for name in (*EFFORT, "kernels")}
    added["flops"] = lighter(added["flops"], added["flops_fp32"])
    weights = (weight for by_product in added.values() for sums in by_product.values() for weight in sums.values())
    same = not lighter(twice[0].own("gradients"), once[0].own("gradients"))
    return ends(added["flops"]) if same and min(weights, default=0.0) >= 0 else None


def _weights(of: Whole, name: str) -> Weights:
    known, beside = of
    return heavier(known.own(name), *(one.weights(name) for one in beside))
