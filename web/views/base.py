"""What views have in common, and the small views that several pages use."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from recommender.service import SCHEMA_VERSION, default_catalogue
from taxonomy import Taxonomy, build
from web.views.mark import mark

EXAMPLE_MODEL = {
    "decoder": "llama-3.1-8b",
    "encoder": "roberta-large",
    "encoder_decoder": "t5-large",
    "vision": "vit-base-patch16-224",
}
"""The model that the counts are shown for until the reader chooses one: by the first architecture that applies."""


class View(BaseModel):
    """Base of what pages show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """The view as JSON."""
        return self.__pydantic_serializer__.to_json(self)


class Stamped(View):
    """A view that says which schema and which state of the knowledge base it comes from."""

    schema_version: str = Field(description="version of the shape of this object")
    data_version: str = Field(description="state of the knowledge base")
    links: dict[str, str] = Field(description="related addresses")


class Envelope(Stamped):
    """A list with what is needed to read it."""

    total: int = Field(description="how many items there are")


class ClassTag(View):
    """A class of the taxonomy, ready to be shown beside a name."""

    id: str = Field(description="dotted path of the class")
    name: str = Field(description="how it is written")
    base: str = Field(description="base class that it lies in")
    mark: str = Field(description="its mark: an SVG path on a square of 16 by 16, so that colour is not the only sign")


class MethodItem(View):
    """A method in a list."""

    slug: str = Field(description="name in addresses")
    name: str = Field(description="the name that the field uses")
    full_name: str = Field(description="the name written out")
    year: int = Field(description="year of the first public version")
    status: str = Field(description="baseline, established or research")
    summary: str = Field(description="what it does")
    classes: tuple[ClassTag, ...] = Field(description="leaf classes")
    hybrid: bool = Field(description="whether it lies in more than one boundary of the survey's Figure 2")
    mergeable: bool | None = Field(description="whether it can be written back as one plain model; null: not known")
    backprop_through_backbone: bool | None = Field(
        description="whether gradients flow through the frozen model; null: not known"
    )
    architectures: tuple[str, ...] = Field(description="kinds of transformer it applies to")
    libraries: tuple[str, ...] = Field(description="libraries that ship it")
    implemented: bool = Field(description="whether this project has running code of it")
    links: dict[str, str] = Field(description="related addresses")


def stamp() -> dict[str, Any]:
    """The versions that every list and page carries."""
    return {"schema_version": SCHEMA_VERSION, "data_version": default_catalogue().data_version}


def class_tag(taxonomy: Taxonomy, class_id: str) -> ClassTag:
    """The tag of a class."""
    base = class_id.partition(".")[0]
    return ClassTag(id=class_id, name=taxonomy.classes[class_id].name, base=base, mark=mark(class_id))


def method_item(slug: str) -> MethodItem:
    """A method as lists show it."""
    taxonomy = build()
    method = taxonomy.method(slug)
    known = default_catalogue().known[method.slug]
    return MethodItem(
        slug=method.slug,
        name=method.name,
        full_name=method.full_name,
        year=method.year,
        status=method.status,
        summary=method.summary,
        classes=tuple(class_tag(taxonomy, each) for each in method.taxonomy.classes),
        hybrid=taxonomy.is_hybrid(method.slug),
        mergeable=method.efficiency.mergeable.value,
        backprop_through_backbone=method.efficiency.backprop_through_backbone.value,
        architectures=method.applies_to.architectures,
        libraries=tuple(dict.fromkeys(each.name for each in method.code.libraries)),
        implemented=known.code.run is not None,
        links={"html": f"/methods/{method.slug}", "api": f"/api/v1/methods/{method.slug}"},
    )
