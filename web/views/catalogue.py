"""The catalogue: models and cards that a request can name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal
from urllib.parse import urlencode

from pydantic import Field

from kb.catalogue import Gpu, ModelRecord, load_gpus, load_models
from recommender.naming import model_id
from recommender.variant import meaning
from web.query import Query
from web.search import folded
from web.views.base import Envelope, View, stamp

EXAMPLE_MEMORY = "24GB"
EXAMPLE_MODEL = "7B"
_VERSION = re.compile(r"(?<=[A-Za-z]{3})[\d.]+$")


class ModelsQuery(Query):
    """Filters of the list of models."""

    q: str | None = Field(None, max_length=80, description="part of a name, an id or a family")
    modality: Literal["text", "vision", "vision and text", "speech"] | None = Field(None, description="what it reads")
    sort: Literal["name", "size", "year"] = Field("name", description="order of the list")


class GpusQuery(Query):
    """Filters of the list of cards."""

    q: str | None = Field(None, max_length=80, description="part of a name, an id or a generation")
    vendor: Literal["NVIDIA", "AMD", "Apple"] | None = Field(None, description="who makes it")
    sort: Literal["name", "memory", "year"] = Field("name", description="order of the list")


class ModelItem(View):
    """A model of the catalogue."""

    id: str = Field(description="the value of model=")
    name: str = Field(description="name to show")
    family: str = Field(description="first word of the name without its version, which related models share")
    hf_id: str = Field(description="repository on the Hugging Face hub")
    model_type: str = Field(description="family, as the configuration names it")
    year: int = Field(description="year of release")
    modality: str = Field(description="what it reads")
    kind: str = Field(description="kind of transformer")
    parameters: int = Field(description="unique parameters, computed from the configuration")
    parameters_status: str = Field(description="how the count was verified against the published total")
    active: int | None = Field(description="parameters that one token uses; null for a dense model")
    layers: int = Field(description="blocks")
    hidden_size: int = Field(description="width")
    context: int | None = Field(description="longest input in tokens; null if the configuration sets none")
    licence: str | None = Field(description="licence of the weights; null if not known")
    notes: tuple[str, ...] = Field(description="peculiarities and doubts")
    links: dict[str, str] = Field(description="related addresses")


class GpuItem(View):
    """A card of the catalogue."""

    card: Gpu = Field(description="the record")
    usable_bytes: int = Field(description="memory of one device as answers use it")
    usable_note: str = Field(description="what that rests on")
    links: dict[str, str] = Field(description="related addresses")


class ModelsPage(Envelope):
    """The models of the catalogue."""

    items: tuple[ModelItem, ...]
    q: str | None
    modality: str | None
    sort: str


class GpusPage(Envelope):
    """The cards of the catalogue."""

    items: tuple[GpuItem, ...]
    q: str | None
    vendor: str | None
    sort: str


@lru_cache(maxsize=512)
def _model(record: str) -> ModelItem:
    found: ModelRecord = load_models()[record]
    shape = found.architecture
    return ModelItem(
        id=found.id,
        name=found.name,
        family=_VERSION.sub("", found.name.split()[0]),
        hf_id=found.hf_id,
        model_type=found.model_type,
        year=found.year,
        modality=found.modality,
        kind=shape.kind,
        parameters=found.parameters.computed,
        parameters_status=found.parameters.status,
        active=found.parameters.active,
        layers=shape.layers,
        hidden_size=shape.d,
        context=found.context,
        licence=found.licence.value,
        notes=found.notes,
        links={
            "recommend": f"/recommend?{urlencode({'gpu_mem': EXAMPLE_MEMORY, 'model': found.id})}",
            "hub": f"https://huggingface.co/{found.hf_id}",
        },
    )


@lru_cache(maxsize=256)
def _card(card_id: str) -> GpuItem:
    card = load_gpus()[card_id]
    return GpuItem(
        card=card,
        usable_bytes=card.usable_bytes(),
        usable_note=card.usable_note(),
        links={"recommend": f"/recommend?{urlencode({'gpu': card.id, 'params': EXAMPLE_MODEL})}"},
    )


def models_page(query: ModelsQuery) -> ModelsPage:
    """The models that pass the filters."""
    wanted, meant = folded(query.q or ""), meaning(model_id(query.q or ""))
    items = [
        each
        for each in map(_model, load_models())
        if wanted in folded(f"{each.name} {each.id} {each.hf_id} {each.model_type}")
        or (meant is not None and meant.id == each.id)
    ]
    items = [each for each in items if query.modality in (None, each.modality)]
    orders = {
        "name": lambda each: (each.name.casefold(), 0),
        "size": lambda each: ("", each.parameters),
        "year": lambda each: ("", -each.year),
    }
    return ModelsPage(
        **stamp(),
        links=_links("models", query),
        total=len(items),
        items=tuple(sorted(items, key=orders[query.sort])),
        q=query.q,
        modality=query.modality,
        sort=query.sort,
    )


def gpus_page(query: GpusQuery) -> GpusPage:
    """The cards that pass the filters."""
    wanted = folded(query.q or "")
    items = [_card(card_id) for card_id in load_gpus()]
    items = [each for each in items if wanted in folded(f"{each.card.name} {each.card.id} {each.card.architecture}")]
    items = [each for each in items if query.vendor in (None, each.card.vendor)]
    orders = {
        "name": lambda each: (each.card.name.casefold(), 0),
        "memory": lambda each: ("", -each.usable_bytes),
        "year": lambda each: ("", -each.card.year),
    }
    return GpusPage(
        **stamp(),
        links=_links("gpus", query),
        total=len(items),
        items=tuple(sorted(items, key=orders[query.sort])),
        q=query.q,
        vendor=query.vendor,
        sort=query.sort,
    )


def _links(name: str, query: Query) -> dict[str, str]:
    chosen = urlencode(query.model_dump(exclude_defaults=True))
    tail = f"?{chosen}" if chosen else ""
    return {"html": f"/{name}{tail}", "self": f"/api/v1/{name}{tail}"}
