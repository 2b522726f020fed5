"""The graph of the taxonomy: classes, methods and groups of other schemes as nodes, typed statements as edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from kb.schema import Classification, Method

if TYPE_CHECKING:
    import networkx as nx

NodeKind = Literal["class", "method", "group"]
EdgeKind = Literal["is_a", "extends", "combines", "special_case_of", "supersedes", "in_group"]

DESCENT: tuple[EdgeKind, ...] = ("extends", "combines", "supersedes", "special_case_of")
"""Edges that lead from a method to what it is built on or belongs under."""


def class_node(class_id: str) -> str:
    """The node of a class; methods use their slug, so the prefix keeps the two apart."""
    return f"class:{class_id}"


def group_node(scheme: str, group: str) -> str:
    """The node of a group of another scheme."""
    return f"group:{scheme}.{group}"


def draw(methods: Mapping[str, Method], classification: Classification) -> nx.MultiDiGraph:
    """The multigraph of records and classes. Node attributes are plain values, so that every export can hold them.

    Edges lead from the special to the general (``is_a``), from a method to the one that a relation names, and from a
    method to its groups (``in_group``); each edge's key is its kind.
    """
    import networkx as nx  # as long to import as all records take to read, and seldom needed

    graph = nx.MultiDiGraph(name="PEFT Atlas taxonomy")
    shown: dict[str, str | bool]
    for each in classification.classes:
        shown = {"name": each.name, "id_in_kb": each.id, "survey": each.survey, "circle": each.circle}
        graph.add_node(class_node(each.id), kind="class", **shown)
        if "." in each.id:
            graph.add_edge(class_node(each.id), class_node(each.id.rpartition(".")[0]), key="is_a", kind="is_a")
    for scheme in classification.schemes:
        for group in scheme.groups:
            shown = {"name": group.name, "id_in_kb": group.id, "scheme": scheme.id}
            graph.add_node(group_node(scheme.id, group.id), kind="group", **shown)
    for slug, method in methods.items():
        graph.add_node(slug, kind="method", name=method.name, id_in_kb=slug, year=method.year, status=method.status)
    for slug, method in methods.items():
        for class_id in method.taxonomy.classes:
            graph.add_edge(slug, class_node(class_id), key="is_a", kind="is_a")
        for scheme_id, chosen in method.taxonomy.schemes.model_dump().items():
            if chosen is not None:
                graph.add_edge(slug, group_node(scheme_id, chosen), key="in_group", kind="in_group")
        for relation in method.taxonomy.relations:
            if relation.to in methods:
                graph.add_edge(slug, relation.to, key=relation.kind, kind=relation.kind, note=relation.note)
    return graph
