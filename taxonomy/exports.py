"""The taxonomy and its records in formats that other programs read. Equal input gives equal bytes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kb.bibliography import bibliography
from kb.table import to_csv
from taxonomy.atlas import Taxonomy

SCHEMA_VERSION = "1"

_ARROWS = {
    "is_a": "-->",
    "in_group": "-.->",
    "extends": "==>",
    "combines": "==>",
    "special_case_of": "==>",
    "supersedes": "==>",
}
_DOT_STYLE = {"class": "shape=box, style=rounded", "method": "shape=ellipse", "group": "shape=note"}


@dataclass(frozen=True)
class Format:
    """One way to write everything down."""

    suffix: str
    media_type: str
    description: str
    write: Callable[[Taxonomy], str]


def to_json(taxonomy: Taxonomy) -> str:
    """The graph as node-link data (``networkx.node_link_graph`` reads it back), with every record beside it."""
    from networkx import node_link_data

    data: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        **node_link_data(taxonomy.graph, edges="edges"),  # type: ignore[call-arg]  # the stubs lag behind
        "classification": taxonomy.classification.model_dump(mode="json"),
        "records": {slug: method.model_dump(mode="json") for slug, method in taxonomy.methods.items()},
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def to_graphml(taxonomy: Taxonomy) -> str:
    """The graph as GraphML."""
    from networkx import write_graphml_xml

    stream = io.BytesIO()
    write_graphml_xml(taxonomy.graph, stream, named_key_ids=True)
    return stream.getvalue().decode("utf-8") + "\n"


def to_mermaid(taxonomy: Taxonomy) -> str:
    """The graph as a Mermaid flowchart: thick arrows for relations between methods, dotted ones into groups."""
    graph = taxonomy.graph
    lines = ["flowchart BT"]
    for node, data in graph.nodes(data=True):
        opening, closing = {"class": ("[", "]"), "method": ("([", "])"), "group": ("[[", "]]")}[data["kind"]]
        lines.append(f'  {_mermaid_id(node, data["kind"])}{opening}"{_mermaid_text(data["name"])}"{closing}')
    for source, target, kind in graph.edges(keys=True):
        label = "" if kind in ("is_a", "in_group") else f"|{kind.replace('_', ' ')}|"
        start, end = (_mermaid_id(each, graph.nodes[each]["kind"]) for each in (source, target))
        lines.append(f"  {start} {_ARROWS[kind]}{label} {end}")
    return "\n".join(lines) + "\n"


def _mermaid_id(node: str, kind: str) -> str:
    """A word that is no keyword of Mermaid (``end``, ``class`` …) and tells the kinds of node apart."""
    return f"{kind[0]}_{re.sub(r'[^0-9a-z_]', '_', node.rpartition(':')[2])}"


def _mermaid_text(text: str) -> str:
    """Text inside quotation marks: what Mermaid could read as markup becomes an entity code."""
    return "".join(each if each.isalnum() or each in " -,./()" else f"#{ord(each)};" for each in text)


def to_dot(taxonomy: Taxonomy) -> str:
    """The graph in Graphviz's language."""
    graph = taxonomy.graph
    lines = ["digraph peft_atlas {", "  rankdir=BT;"]
    for node, data in graph.nodes(data=True):
        kind = data["kind"]
        lines.append(f"  {_quoted(node)} [label={_quoted(data['name'])}, kind={kind}, {_DOT_STYLE[kind]}];")
    for source, target, kind in graph.edges(keys=True):
        style = "" if kind == "is_a" else f", label={_quoted(kind.replace('_', ' '))}"
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [kind={kind}{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


FORMATS: dict[str, Format] = {
    "json": Format("json", "application/json", "graph and records, node-link data", to_json),
    "graphml": Format("graphml", "application/graphml+xml", "graph", to_graphml),
    "mermaid": Format("mmd", "text/vnd.mermaid", "graph, flowchart", to_mermaid),
    "dot": Format("dot", "text/vnd.graphviz", "graph, Graphviz", to_dot),
    "csv": Format("csv", "text/csv", "one row per method", lambda taxonomy: to_csv(taxonomy.methods.values())),
    "bib": Format("bib", "application/x-bibtex", "papers", lambda taxonomy: bibliography(taxonomy.methods.values())),
}
"""Every format by the name that ``peft-atlas export --format`` takes."""
