"""The description of the API: parameters from the query models, errors as problem details."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from web.problems import TITLES, Problem

SNAPSHOT = Path(__file__).parent / "openapi.json"
VERSION = "1"
_BESIDE = frozenset({"description", "title", "examples", "default"})
_PATH_VALUES = {
    "slug": {"type": "string", "maxLength": 80, "example": "lora", "description": "slug of a method, or a former name"},
    "study": {"type": "string", "maxLength": 80, "example": "llm_adapters_2023", "description": "id of a study"},
}


def problems_of(path: str, *more: int) -> dict[int | str, dict[str, Any]]:
    """The errors that an address can answer with."""
    statuses = {400, 414, 422, *more} | ({404} if "{" in path else set())
    return {status: {"model": Problem, "description": TITLES[status]} for status in sorted(statuses)}


def described(path: str, query: type[BaseModel] | None, repeatable: Collection[str] = ()) -> dict[str, Any]:
    """The parameters of an address for the description."""
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_VALUES[name]["description"],
            "schema": {
                key: value for key, value in _PATH_VALUES[name].items() if key not in ("description", "example")
            },
            "example": _PATH_VALUES[name]["example"],
        }
        for name in re.findall(r"{(\w+)}", path)
    ]
    if query is not None:
        parameters += query_parameters(query, repeatable)
    return {"parameters": parameters} if parameters else {}


def query_parameters(query: type[BaseModel], repeatable: Collection[str] = ()) -> list[dict[str, Any]]:
    """The fields of a query model as parameters; one that takes an object has no place in an address."""
    schema = query.model_json_schema()
    found = []
    for name, written in schema.get("properties", {}).items():
        kept = {key: value for key, value in written.items() if key not in _BESIDE}
        wanted = _without_null(kept) | ({} if written.get("default") in (None, []) else {"default": written["default"]})
        if wanted.get("type") == "object":
            continue
        parameter: dict[str, Any] = {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "allowEmptyValue": name not in schema.get("required", ()),
            "description": written.get("description", ""),
            "schema": wanted,
        }
        if written.get("examples"):
            parameter["example"] = written["examples"][0]
        if name in repeatable:
            parameter |= {"style": "form", "explode": True}
        found.append(parameter)
    return found


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without its null: an absent parameter is absent, there is no way to write null in an address."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(kinds) != 1:
        return dict(schema)
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}


def description(app: FastAPI) -> dict[str, Any]:
    """The description of ``app``, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title="PEFT Atlas",
            version=VERSION,
            summary="Which fine-tuning method, on my card, for my model and task, and why.",
            description="Every address answers GET and HEAD; lists and answers carry `schema_version` and `data_version`. "
            "Sizes are written with their unit: `24GB` is 24·10⁹ bytes, `24GiB` 24·2³⁰, `7B` seven billion parameters. "
            "Unknown and repeated parameters are refused.",
            license_info={"name": "Apache-2.0 (code), CC BY 4.0 (data)", "identifier": "Apache-2.0 AND CC-BY-4.0"},
            routes=app.routes,
        )
        for path in made["paths"].values():
            for operation in path.values():
                _as_problems(operation["responses"])
        app.openapi_schema = made
    return app.openapi_schema


def _as_problems(responses: dict[str, Any]) -> None:
    """Give every error its media type, which FastAPI takes from the route."""
    for status, response in responses.items():
        content = response.get("content", {})
        if int(status) >= 400 and "application/json" in content:
            response["content"] = {"application/problem+json": content["application/json"]}


def snapshot_text(app: FastAPI) -> str:
    """The description as it is committed."""
    return json.dumps(description(app), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def write_snapshot() -> None:
    """Write the committed description anew: ``python -m web.openapi``."""
    from web.app import create_app

    SNAPSHOT.write_text(snapshot_text(create_app()), encoding="utf-8")


if __name__ == "__main__":
    write_snapshot()
