"""Search inside a still copy, which has no server to ask: one file of words, looked through by a script of the site.

The words are those that the running site looks through (``web.search``); the script ``still.js`` compares them in a plainer
way, by beginnings and by a few wrong letters.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import lru_cache
from typing import get_args
from urllib.parse import urlsplit

from web.assets import address
from web.render import render
from web.search import KINDS, Group, descriptions, index, standing
from web.views.front import SHOWN, Other

PLACE = "search.words.json"
"""Where the file of words lies in a copy; the script names it as well."""


def words() -> bytes:
    """Everything that can be found: by group a list of name, text, address and, by kind of text, what it is found by."""
    found = {group: _group(group) for group in get_args(Group)}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _group(group: Group) -> list[tuple[str, str, str, list[list[str]]]]:
    texts: defaultdict[str, list[list[str]]] = defaultdict(lambda: [[] for _ in KINDS])
    for row in index(group):
        held = texts[row.id][KINDS[row.kind]]
        if row.folded not in held:
            held.append(row.folded)
    if group == "methods":
        for slug, _, text in descriptions():
            texts[slug][KINDS["description"]].append(" ".join(sorted(set(text.split()))))
    shown = {found: SHOWN[group](found) for found in texts}
    known = standing(group)
    order = sorted(texts, key=lambda found: (-known.get(found, 0), found))
    return [(shown[found].name, shown[found].text, _place(shown[found]), texts[found]) for found in order]


def _place(found: Other) -> str:
    """Where it stands in a copy, whose lists cannot be filtered: at its row of the whole list."""
    parts = urlsplit(found.href)
    return f"{parts.path}#{found.id}" if parts.query else found.href


def header_form(form: str, up: str) -> str:
    """The search of every page, leading to the copy's own; without script it keeps its room, unseen and out of reach."""
    led = form.replace('class="search"', 'class="search waits"').replace('action="/search"', f'action="{up}search/"')
    return f'{led}<script type="module" src="{address("still.js")}"></script>'


@lru_cache(maxsize=1)
def page_form() -> str:
    """The form of the page of search, and the room for what it finds."""
    return render("still_search.html").decode()
