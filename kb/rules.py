"""What must hold across all records: small named rules, each complaint with file, line and the repair.

``peft-atlas check`` and the tests run the same rules. To add one, write a function and name it in ``RULES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from itertools import combinations
from pathlib import Path

import networkx as nx

from kb import _evidence, _formulas, _survey, jsonschema
from kb.knowledge import KnowledgeBase, near, problem_at, read, sources_in, texts_in
from kb.loader import Problem, shown
from kb.schema import Source
from kb.sites import SITES

Rule = Callable[[KnowledgeBase], Iterator[Problem]]

BASELINE = "full_fine_tuning"
"""The one record that is no parameter-efficient method: what all others are compared with."""

_PLACEHOLDERS = frozenset({"todo", "tbd", "fixme", "xxx", "n/a", "na", "unknown", "not known", "?", "??", "…", "..."})
_CITED = re.compile(r"\bfindings?\s+(\d+(?:(?:\s*,\s*|\s+and\s+)\d+)*)")


def slugs_are_file_names(kb: KnowledgeBase) -> Iterator[Problem]:
    """A record's slug is its file's name."""
    for stem, method in kb.methods.items():
        if method.slug != stem:
            message = f"the slug {method.slug!r} differs from the file's name; rename the file to {method.slug}.yaml"
            yield kb.problem(stem, ("slug",), message)


def relations_lead_somewhere(kb: KnowledgeBase) -> Iterator[Problem]:
    """A relation names another existing record, once."""
    for slug, method in kb.methods.items():
        stated: set[tuple[str, str]] = set()
        for place, relation in enumerate(method.taxonomy.relations):
            at = ("taxonomy", "relations", place, "to")
            if relation.to == slug:
                yield kb.problem(slug, at, "relates to itself; name the other method or remove the relation")
            elif relation.to not in kb.slugs:
                hint = near(relation.to, kb.slugs)
                yield kb.problem(slug, at, f"there is no record {relation.to!r} to relate to{hint}")
            if (relation.kind, relation.to) in stated:
                yield kb.problem(slug, at, f"{relation.kind} {relation.to} is written twice; keep one of the two")
            stated.add((relation.kind, relation.to))


def descent_has_no_circle(kb: KnowledgeBase) -> Iterator[Problem]:
    """Nothing extends, combines or supersedes what is built on itself."""
    graph = nx.DiGraph(
        (slug, relation.to)
        for slug, method in kb.methods.items()
        for relation in method.taxonomy.relations
        if relation.kind != "special_case_of" and relation.to != slug
    )
    for circle in nx.strongly_connected_components(graph):
        if len(circle) > 1:
            listed = ", ".join(sorted(circle))
            message = f"{listed} build on each other in a circle; keep the direction in which they were published"
            yield kb.problem(min(circle), ("taxonomy", "relations"), message)


def sources_can_be_followed(kb: KnowledgeBase) -> Iterator[Problem]:
    """Each source's ``ref`` is a record with a paper or code, a publication of kb/sources.yaml, or a study."""
    known = kb.slugs | kb.readings.keys() | kb.studies.keys()
    for slug, method in kb.methods.items():
        for location, source in sources_in(method):
            message = _unfollowed(kb, source, known)
            if message:
                yield kb.problem(slug, (*location, "ref"), message)
    for place, finding in enumerate(kb.findings.values()):
        message = _unfollowed(kb, finding.source, known)
        if message:
            yield problem_at(kb.root / "kb" / "findings.yaml", (place, "source", "ref"), message)
    for place, scheme in enumerate(kb.classification.schemes):
        message = _unfollowed(kb, scheme.source, known)
        if message:
            yield problem_at(kb.root / "kb" / "classes.yaml", ("schemes", place, "source", "ref"), message)


def _unfollowed(kb: KnowledgeBase, source: Source, known: frozenset[str]) -> str | None:
    if source.ref not in known:
        hint = near(source.ref, known)
        return f"{source.ref!r} is neither a record nor a study nor in kb/sources.yaml{hint}; add it or correct it"
    method = kb.methods.get(source.ref)
    if method is None or source.ref in kb.readings:
        return None
    if source.basis == "paper" and method.paper is None:
        return f"refers to the paper of {source.ref}, which has none; name the publication in kb/sources.yaml"
    if source.basis == "code" and method.code.official is None:
        return f"refers to the official code of {source.ref}, which has none; name the repository in kb/sources.yaml"
    return None


def readings_do_not_shadow_records(kb: KnowledgeBase) -> Iterator[Problem]:
    """An id of kb/sources.yaml is no slug, and its publication can be found."""
    path = kb.root / "kb" / "sources.yaml"
    for key in kb.readings:
        if key in kb.slugs:
            yield problem_at(
                path, (key,), f"{key!r} is also the slug of a record; refer to the record and remove the entry"
            )


def places_are_known(kb: KnowledgeBase) -> Iterator[Problem]:
    """``mechanism.where`` uses the names of kb/sites.py."""
    for slug, method in kb.methods.items():
        for place, site in enumerate(method.mechanism.where):
            if site not in SITES:
                hint = near(site, {*SITES}) or f"; known are {', '.join(SITES)}"
                yield kb.problem(slug, ("mechanism", "where", place), f"{site!r} is no known place of a model{hint}")


def findings_exist(kb: KnowledgeBase) -> Iterator[Problem]:
    """Texts cite only findings that kb/findings.yaml has."""
    for slug, method in kb.methods.items():
        for location, text in texts_in(method):
            for cited in _CITED.finditer(text):
                for number in map(int, re.findall(r"\d+", cited[1])):
                    if number not in kb.findings:
                        message = (
                            f"cites finding {number}; kb/findings.yaml has {min(kb.findings)} to {max(kb.findings)}"
                        )
                        yield kb.problem(slug, location, message)


def aliases_are_unique(kb: KnowledgeBase) -> Iterator[Problem]:
    """An alias leads to one record: it is no slug, name or alias of another."""
    owners = {slug: slug for slug in kb.slugs}
    for slug, method in kb.methods.items():
        owners.setdefault(method.name.casefold(), slug)
        owners.setdefault(method.full_name.casefold(), slug)
    for slug, method in kb.methods.items():
        for place, alias in enumerate(method.aliases):
            owner = owners.setdefault(alias.casefold(), slug)
            if owner != slug:
                message = f"the alias {alias!r} already leads to {owner}; remove it here or there"
                yield kb.problem(slug, ("aliases", place), message)
            elif alias == slug:
                yield kb.problem(slug, ("aliases", place), f"the alias {alias!r} is the slug itself; remove it")


def only_the_baseline_is_a_baseline(kb: KnowledgeBase) -> Iterator[Problem]:
    """Status and class ``baseline`` belong to full fine-tuning alone."""
    for slug, method in kb.methods.items():
        if (method.status == "baseline") != (slug == BASELINE):
            right = "baseline" if slug == BASELINE else "established or research"
            yield kb.problem(slug, ("status",), f"is {method.status}; write {right}")
        if ("baseline" in method.taxonomy.classes) != (slug == BASELINE):
            right = "the class baseline" if slug == BASELINE else "one of the survey's classes"
            yield kb.problem(slug, ("taxonomy", "classes"), f"needs {right}; only {BASELINE} is the baseline")


def implementations_are_declared(kb: KnowledgeBase) -> Iterator[Problem]:
    """``reference`` is filled if and only if ``reference_impls/<slug>.py`` exists."""
    for slug, method in kb.methods.items():
        exists = (kb.root / "reference_impls" / f"{slug}.py").is_file()
        if exists and method.reference is None:
            message = f"is null, but reference_impls/{slug}.py exists; say how its default run is to be started"
            yield kb.problem(slug, ("reference",), message)
        if not exists and method.reference is not None:
            message = f"is filled, but there is no reference_impls/{slug}.py; write it, or null here"
            yield kb.problem(slug, ("reference",), message)


def dates_are_plausible(kb: KnowledgeBase) -> Iterator[Problem]:
    """The review has a date of the calendar, and the year agrees with the arXiv number."""
    for slug, method in kb.methods.items():
        try:
            checked = date.fromisoformat(method.review.checked)
        except ValueError:
            yield kb.problem(slug, ("review", "checked"), f"{method.review.checked} is not a day; write year-month-day")
            continue
        if method.year > checked.year:
            yield kb.problem(
                slug, ("year",), f"{method.year} lies after the review in {checked.year}; correct one of them"
            )
        arxiv = method.paper.arxiv if method.paper else None
        if arxiv is None:
            continue
        posted, month = 2000 + int(arxiv[:2]), int(arxiv[2:4])
        if not 1 <= month <= 12 or posted > checked.year:
            yield kb.problem(
                slug, ("paper", "arxiv"), f"{arxiv} is no arXiv number up to {checked.year}; it begins with yymm"
            )
        elif not posted - 2 <= method.year <= posted:
            message = (
                f"{method.year} does not fit arXiv {arxiv}, posted in {posted}; give the year of the first version"
            )
            yield kb.problem(slug, ("year",), message)


def nothing_extends_its_successor(kb: KnowledgeBase) -> Iterator[Problem]:
    """What a method extends, combines or supersedes was public no later than the year after it."""
    for slug, method in kb.methods.items():
        for place, relation in enumerate(method.taxonomy.relations):
            other = kb.methods.get(relation.to)
            if other is not None and relation.kind != "special_case_of" and other.year > method.year + 1:
                message = f"of {method.year} {relation.kind} {other.slug} of {other.year}; turn the relation round"
                yield kb.problem(slug, ("taxonomy", "relations", place), message)


def papers_are_not_told_twice(kb: KnowledgeBase) -> Iterator[Problem]:
    """Records of one paper say how they relate, directly or through a third record of that paper."""
    by_paper: dict[str, list[str]] = {}
    for slug, method in kb.methods.items():
        if method.paper is not None and method.paper.arxiv is not None:
            by_paper.setdefault(method.paper.arxiv, []).append(slug)
    for arxiv, slugs in by_paper.items():
        graph = nx.Graph()
        graph.add_nodes_from(slugs)
        for one, other in combinations(slugs, 2):
            if _related(kb, one, other) or _related(kb, other, one):
                graph.add_edge(one, other)
        first, *apart = sorted(min(each) for each in nx.connected_components(graph))
        for slug in apart:
            message = f"{arxiv} is also the paper of {first}; correct the number, or add the relation between the two"
            yield kb.problem(slug, ("paper", "arxiv"), message)


def _related(kb: KnowledgeBase, one: str, other: str) -> bool:
    """Whether one record names the other: in a relation, or in a sentence of its own."""
    method = kb.methods[one]
    if any(relation.to == other for relation in method.taxonomy.relations):
        return True
    name = kb.methods[other].name
    return name in method.summary or name in method.mechanism.description


def nothing_is_a_placeholder(kb: KnowledgeBase) -> Iterator[Problem]:
    """What is not known is null, never a word that says so."""
    for slug, method in kb.methods.items():
        for location, text in texts_in(method):
            if text.strip().casefold() in _PLACEHOLDERS:
                yield kb.problem(slug, location, f"{text!r} is no fact; write it, or null")


def merged_models_cost_nothing(kb: KnowledgeBase) -> Iterator[Problem]:
    """A mergeable method leaves nothing behind at inference: merging gives a plain model of the same architecture."""
    for slug, method in kb.methods.items():
        left = method.efficiency.inference_overhead.value
        if method.efficiency.mergeable.value and left not in (None, "none"):
            message = f"is mergeable, yet {left} remains at inference; correct mergeable or inference_overhead"
            yield kb.problem(slug, ("efficiency", "mergeable", "value"), message)


RULES: tuple[Rule, ...] = (
    slugs_are_file_names,
    relations_lead_somewhere,
    descent_has_no_circle,
    nothing_extends_its_successor,
    sources_can_be_followed,
    readings_do_not_shadow_records,
    _evidence.studies_name_what_they_compare,
    _evidence.studies_can_be_looked_up,
    _evidence.studies_compare,
    _evidence.results_say_what_they_are,
    _evidence.metrics_have_one_direction,
    _evidence.methods_are_called_by_their_slug,
    _evidence.results_are_written_once,
    _evidence.baselines_are_counted_once,
    _survey.classes_form_a_tree,
    _survey.classes_are_leaves,
    _survey.schemes_agree_with_the_schema,
    _survey.table_rows_agree_with_classes,
    places_are_known,
    _formulas.formulas_can_be_evaluated,
    _formulas.formulas_have_plausible_values,
    _formulas.linear_formulas_name_linear_places,
    _formulas.symbols_keep_apart,
    _formulas.equations_are_explained,
    _formulas.numbers_are_numbers,
    _formulas.sizes_are_plausible,
    findings_exist,
    aliases_are_unique,
    only_the_baseline_is_a_baseline,
    implementations_are_declared,
    dates_are_plausible,
    papers_are_not_told_twice,
    nothing_is_a_placeholder,
    merged_models_cost_nothing,
)


def check(root: Path) -> tuple[Problem, ...]:
    """Everything that is wrong with the knowledge base of the project folder ``root``, by file and line."""
    kb, problems = read(root)
    if kb is not None:
        problems.extend(problem for rule in RULES for problem in rule(kb))
    schema = root / "kb" / "schema.json"
    if schema.is_file() and schema.read_bytes() != jsonschema.text().encode():
        message = "is not what kb/schema.py says; run peft-atlas check --write-schema"
        problems.append(Problem(shown(schema), 1, message))
    return tuple(sorted(set(problems)))
