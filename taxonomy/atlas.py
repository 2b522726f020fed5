"""The taxonomy as one object: built once from the knowledge base, asked by everyone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from rapidfuzz import process

from kb.records import load_classification, load_methods
from kb.schema import Classification, ClassNode, Method
from taxonomy import kinship
from taxonomy.euler import Region, base_of, region_of
from taxonomy.graph import draw
from taxonomy.views import ClassView, Common, GroupView, Kin, Lineage, Moment, Neighbour, SchemeView, Sibling, Statement

if TYPE_CHECKING:
    import networkx as nx


class UnknownMethod(KeyError):  # noqa: N818 - reads as a statement where it is raised
    """Raised for a slug that no record has; ``near`` holds the nearest existing slugs."""

    def __init__(self, slug: str, near: tuple[str, ...]) -> None:
        self.slug, self.near = slug, near
        super().__init__(slug)

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(self.near)}?" if self.near else ""
        return f"there is no method {self.slug[:60]!r}{hint}"


class Taxonomy:
    """How the methods relate. Every query takes slugs and raises ``UnknownMethod`` for one that does not exist."""

    def __init__(self, methods: Mapping[str, Method], classification: Classification) -> None:
        self.methods = methods
        self.classification = classification
        self.classes: Mapping[str, ClassNode] = {each.id: each for each in classification.classes}

    @cached_property
    def graph(self) -> nx.MultiDiGraph:
        """Classes, methods and groups with all that ties them; drawn when it is asked for, as most requests never do."""
        return draw(self.methods, self.classification)

    def method(self, slug: str) -> Method:
        """The record of a slug, or of an alias (former names lead to it)."""
        if slug in self.methods:
            return self.methods[slug]
        if slug.casefold() in self._aliases:
            return self.methods[self._aliases[slug.casefold()]]
        raise UnknownMethod(slug, self.near(slug))

    def near(self, text: str, limit: int = 3) -> tuple[str, ...]:
        """Slugs whose slug, name or alias resembles ``text``, nearest first."""
        spellings = {**{slug: slug for slug in self.methods}, **self._aliases}
        matches = process.extract(text.casefold()[:80], list(spellings), limit=3 * limit, score_cutoff=60)
        return tuple(dict.fromkeys(spellings[match[0]] for match in matches))[:limit]

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Other spellings of slugs: an alias comes before a name, a name before a name written out."""
        spellings: dict[str, str] = {}
        for slug, method in self.methods.items():
            spellings |= {method.full_name.casefold(): slug}
        for slug, method in self.methods.items():
            spellings |= {method.name.casefold(): slug}
        for slug, method in self.methods.items():
            spellings |= {alias.casefold(): slug for alias in method.aliases}
        return spellings

    # The survey's classes

    def region(self, slug: str) -> tuple[str, ...]:
        """The innermost boundaries of the survey's Figure 2 around a method."""
        return region_of(self.method(slug).taxonomy.classes, self.classes)

    def bases(self, slug: str) -> tuple[str, ...]:
        """The base classes of a method, in the order of ``kb/classes.yaml``."""
        mine = {base_of(each) for each in self.method(slug).taxonomy.classes}
        return tuple(each for each in self.classes if each in mine)

    def is_hybrid(self, slug: str) -> bool:
        """Whether the method lies in more than one boundary of Figure 2 (MAM: two circles of one base class)."""
        return len(self.region(slug)) > 1

    def is_base_hybrid(self, slug: str) -> bool:
        """Whether the method lies in more than one base class."""
        return len(self.bases(slug)) > 1

    @cached_property
    def class_tree(self) -> tuple[ClassView, ...]:
        """The base classes, each with its methods, counts and the classes inside it."""
        return tuple(self._class_view(each) for each in self.classification.classes if "." not in each.id)

    def _class_view(self, node: ClassNode) -> ClassView:
        inside = (each for each in self.classification.classes if each.id.rpartition(".")[0] == node.id)
        named = tuple(slug for slug, method in self.methods.items() if node.id in method.taxonomy.classes)
        return ClassView(
            id=node.id,
            name=node.name,
            definition=node.definition,
            survey=node.survey,
            circle=node.circle,
            methods=named,
            count=len(self.members(node.id)),
            children=tuple(self._class_view(each) for each in inside),
        )

    def members(self, class_id: str) -> tuple[str, ...]:
        """Slugs of the methods in a class and in the classes inside it; ``KeyError`` for an unknown class."""
        if class_id not in self.classes:
            raise KeyError(class_id)
        return tuple(
            slug
            for slug, method in self.methods.items()
            if any(each == class_id or each.startswith(f"{class_id}.") for each in method.taxonomy.classes)
        )

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The regions of the Euler diagram that hold a method: plain ones first, then overlaps."""
        inside: dict[tuple[str, ...], list[str]] = {}
        for slug in self.methods:
            inside.setdefault(self.region(slug), []).append(slug)
        ranks = {class_id: rank for rank, class_id in enumerate(self.classes)}
        order = sorted(inside, key=lambda region: (len(region), [ranks[each] for each in region]))
        return tuple(
            Region(
                boundaries=region,
                name=" ∩ ".join(self.classes[each].name for each in region),
                bases=tuple(dict.fromkeys(base_of(each) for each in region)),
                hybrid=len(region) > 1,
                methods=tuple(sorted(inside[region])),
            )
            for region in order
        )

    @cached_property
    def schemes(self) -> tuple[SchemeView, ...]:
        """The other schemes with the methods of each group."""
        views = []
        for scheme in self.classification.schemes:
            chosen = {slug: getattr(method.taxonomy.schemes, scheme.id) for slug, method in self.methods.items()}
            groups = tuple(
                GroupView(group.id, group.name, group.definition, tuple(s for s in chosen if chosen[s] == group.id))
                for group in scheme.groups
            )
            unsorted = tuple(slug for slug, value in chosen.items() if value is None)
            views.append(SchemeView(scheme.id, scheme.name, scheme.source.ref, scheme.source.where, groups, unsorted))
        return tuple(views)

    # Relations

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """Every relation between methods."""
        return tuple(
            Statement(slug, relation.kind, relation.to, relation.note)
            for slug, method in self.methods.items()
            for relation in method.taxonomy.relations
            if relation.to in self.methods
        )

    def relations_of(self, slug: str) -> tuple[Statement, ...]:
        """What a method's record says about others, then what theirs say about it."""
        own = self.method(slug).slug
        own_words = [each for each in self.statements if each.method == own]
        return (*own_words, *(each for each in self.statements if each.other == own))

    def lineage(self, slug: str) -> Lineage:
        """Where a method comes from: its classes, and the methods it builds on, nearest first."""
        method = self.method(slug)
        classes = method.taxonomy.classes
        around = (base for base in self.bases(method.slug) if base not in classes)
        return Lineage(method.slug, (*classes, *around), kinship.walk(self.graph, method.slug, up=True))

    def descendants(self, slug: str) -> tuple[Kin, ...]:
        """The methods that build on this one, nearest first."""
        return kinship.walk(self.graph, self.method(slug).slug, up=False)

    def siblings(self, slug: str) -> tuple[Sibling, ...]:
        """The methods that share a leaf class, those with most in common first."""
        method = self.method(slug)
        found = []
        for other in self.methods.values():
            shared = tuple(each for each in method.taxonomy.classes if each in other.taxonomy.classes)
            if shared and other is not method:
                found.append(Sibling(other.slug, other.name, shared))
        return tuple(sorted(found, key=lambda each: (-len(each.shared), each.slug)))

    def nearest(self, slug: str, limit: int = 5) -> tuple[Neighbour, ...]:
        """The most similar methods with a score between 0 and 1 and the reasons in words."""
        return kinship.nearest(self.methods, self.classification, self.method(slug).slug, limit)

    def common(self, *slugs: str) -> Common:
        """The nearest classes around all of ``slugs``, and the nearest methods that all are or build on."""
        methods = [self.method(slug) for slug in slugs]
        if not methods:
            raise ValueError("name at least one method")
        lineages = [self.lineage(each.slug) for each in methods]
        classes = set.intersection(*({*each.classes} for each in lineages))
        origins = set.intersection(*({each.slug, *(kin.slug for kin in each.methods)} for each in lineages))
        around = {each.rpartition(".")[0] for each in classes}
        near_classes = tuple(each for each in self.classes if each in classes - around)
        reached = {each: {kin.slug for kin in self.lineage(each).methods} for each in origins}
        beyond = {far for each in origins for far in reached[each] & origins if each not in reached[far]}
        return Common(near_classes, tuple(sorted(origins - beyond)))

    def timeline(self) -> tuple[Moment, ...]:
        """The methods in the order of their first publication: by year, then by the month of the arXiv number."""
        moments = []
        for slug, method in self.methods.items():
            arxiv = method.paper.arxiv if method.paper else None
            month = int(arxiv[2:4]) if arxiv and int(f"20{arxiv[:2]}") == method.year else None
            moments.append(Moment(slug, method.name, method.year, month))
        return tuple(sorted(moments, key=lambda each: (each.year, each.month or 13, each.slug)))


@lru_cache(maxsize=1)
def build() -> Taxonomy:
    """The taxonomy of the project's knowledge base, built once per process."""
    return Taxonomy(load_methods(), load_classification())
