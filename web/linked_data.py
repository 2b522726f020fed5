"""What other machines read in a page: JSON-LD after schema.org, and the address of the site where it is known."""

from __future__ import annotations

import json
import os
from typing import Any

from markupsafe import Markup

from kb.schema import Method, Paper

ORIGIN_VARIABLE = "PEFT_ATLAS_URL"
DATA_LICENCE = "https://creativecommons.org/licenses/by/4.0/"
CODE_LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"


def origin() -> str | None:
    """Where the site is on the web, without a slash at the end; ``None`` unless the environment says so.

    Raises ``ValueError`` if what it says is not such an address.
    """
    said = os.environ.get(ORIGIN_VARIABLE)
    if not said:
        return None
    if not said.startswith(("https://", "http://")):
        raise ValueError(f"{ORIGIN_VARIABLE} is {said!r}; write an address such as https://peft-atlas.example.org")
    return said.rstrip("/")


def of_method(method: Method) -> Markup:
    """A method's page as an article about a technique, with its paper and its code."""
    told: dict[str, Any] = {
        "@context": "https://schema.org",
        "@type": "TechArticle",
        "headline": f"{method.name}: {method.full_name}" if method.full_name != method.name else method.name,
        "abstract": method.summary,
        "keywords": ["parameter-efficient fine-tuning", method.name, *method.aliases],
        "license": DATA_LICENCE,
        "isPartOf": {"@type": "Dataset", "name": "PEFT Atlas"},
    }
    if method.paper is not None:
        told["citation"] = _paper(method.paper, method.year)
    if method.code.official is not None:
        told["mentions"] = {"@type": "SoftwareSourceCode", "codeRepository": method.code.official.url}
    return _block(told)


def of_atlas(methods: int, results: int) -> Markup:
    """The whole as a data set that can be downloaded."""
    address = origin() or ""
    downloads = (("export.json", "application/json"), ("export.csv", "text/csv"), ("export.graphml", "application/xml"))
    return _block(
        {
            "@context": "https://schema.org",
            "@type": "Dataset",
            "name": "PEFT Atlas",
            "description": f"{methods} methods of parameter-efficient fine-tuning, every value with its source, a taxonomy, "
            f"predicted memory and {results} published results.",
            "license": DATA_LICENCE,
            "isAccessibleForFree": True,
            "distribution": [
                {"@type": "DataDownload", "encodingFormat": media, "contentUrl": f"{address}/api/v1/{name}"}
                for name, media in downloads
            ],
        }
    )


def _paper(paper: Paper, year: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "@type": "ScholarlyArticle",
        "name": paper.title,
        "author": [{"@type": "Person", "name": name} for name in paper.authors],
        "datePublished": str(year),
    }
    address = f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else paper.url
    return told | ({"url": address} if address else {})


def _block(told: dict[str, Any]) -> Markup:
    """A data block. Characters that could end it are written as escapes of JSON, so text of a record stays text."""
    text = json.dumps(told, ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/ld+json">{text}</script>')  # noqa: S704 - escaped above
