"""Who descends from whom, and who resembles whom, with the reason in words."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb.schema import Classification, Method
from taxonomy.graph import DESCENT
from taxonomy.views import Kin, Neighbour

if TYPE_CHECKING:
    import networkx as nx

SHARES = {
    "relation": 0.30,  # a record says so itself
    "classes": 0.25,
    "form": 0.20,  # the shape of the computation decides memory and speed
    "parent": 0.10,
    "where": 0.10,
    "library": 0.05,
}
"""How much each likeness weighs in the score of ``nearest``; they add up to 1."""

_WORDS = {
    "extends": "extends",
    "combines": "combines",
    "special_case_of": "is a special case of",
    "supersedes": "supersedes",
}


@dataclass(frozen=True)
class _Likeness:
    """One likeness: its share of the score (0 to 1 of it) and its words."""

    share: str
    degree: float
    reason: str


def walk(graph: nx.MultiDiGraph, slug: str, *, up: bool) -> tuple[Kin, ...]:
    """Methods reached over relations from ``slug``: towards its origins (``up``) or towards what came of it."""
    found: dict[str, Kin] = {}
    queue = deque([(slug, 0)])
    while queue:
        here, distance = queue.popleft()
        edges = graph.out_edges(here, data=True) if up else graph.in_edges(here, data=True)
        steps = [((target if up else source), data) for source, target, data in edges if data["kind"] in DESCENT]
        for other, data in sorted(steps, key=lambda step: (step[0], DESCENT.index(step[1]["kind"]))):
            if other != slug and other not in found:
                name = graph.nodes[other]["name"]
                found[other] = Kin(other, name, data["kind"], here, distance + 1, data["note"])
                queue.append((other, distance + 1))
    return tuple(found.values())


def nearest(
    methods: Mapping[str, Method], classification: Classification, slug: str, limit: int
) -> tuple[Neighbour, ...]:
    """The ``limit`` most similar methods, best first; ties in alphabetical order."""
    names = {each.id: each.name for each in classification.classes}
    neighbours = []
    for other in methods:
        if other == slug:
            continue
        likenesses = _likenesses(methods, names, slug, other)
        score = sum(SHARES[each.share] * each.degree for each in likenesses)
        if score > 0:
            likenesses.sort(key=lambda each: -SHARES[each.share] * each.degree)
            reasons = tuple(each.reason for each in likenesses)
            neighbours.append(Neighbour(other, methods[other].name, round(score, 4), reasons))
    return tuple(sorted(neighbours, key=lambda each: (-each.score, each.slug))[:limit])


def _likenesses(methods: Mapping[str, Method], names: Mapping[str, str], slug: str, other: str) -> list[_Likeness]:
    this, that = methods[slug], methods[other]
    found = []
    stated = [_stated(this, that), _stated(that, this)]
    if any(stated):
        found.append(_Likeness("relation", 1.0, "; ".join(filter(None, stated))))
    parents = _targets(this) & _targets(that)
    if parents:
        listed = _listed(methods[each].name if each in methods else each for each in sorted(parents))
        found.append(_Likeness("parent", 1.0, f"both build on {listed}"))
    for share, mine, theirs, words in (
        ("classes", {*this.taxonomy.classes}, {*that.taxonomy.classes}, "same class: {}"),
        ("form", {*this.mechanism.form}, {*that.mechanism.form}, "same form of change: {}"),
        ("where", {*this.mechanism.where}, {*that.mechanism.where}, "acts on the same places: {}"),
    ):
        shared: Set[str] = mine & theirs
        if shared:
            listed = _listed(names.get(each, each.replace("_", " ").replace(".", " ")) for each in sorted(shared))
            found.append(_Likeness(share, len(shared) / len(mine | theirs), words.format(listed)))
    group = this.taxonomy.schemes.library
    if group is not None and group == that.taxonomy.schemes.library:
        found.append(_Likeness("library", 1.0, f"libraries sort both under {group.replace('_', ' ')}"))
    return found


def _stated(this: Method, that: Method) -> str:
    kinds = [_WORDS[relation.kind] for relation in this.taxonomy.relations if relation.to == that.slug]
    return f"{this.name} {_listed(kinds)} {that.name}" if kinds else ""


def _targets(method: Method) -> set[str]:
    return {relation.to for relation in method.taxonomy.relations}


def _listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
