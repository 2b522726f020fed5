"""What a client asked for: a page for browsers, data for everything else; packed, where it says that it unpacks."""

from __future__ import annotations

HTML, JSON = "text/html", "application/json"


def prefers_html(accept: str | None) -> bool:
    """Whether ``Accept`` names ``text/html`` with a quality above zero and not below that of JSON.

    ``*/*`` alone (curl, most libraries) and an absent header mean data.
    """
    if accept is None or HTML not in accept.lower():
        return False
    qualities = _qualities(accept)
    html = qualities.get(HTML, 0.0)
    json = qualities.get(JSON, qualities.get("application/*", qualities.get("*/*", 0.0)))
    return html > 0 and html >= json


def takes_gzip(accept: str | None) -> bool:
    """Whether ``Accept-Encoding`` allows gzip, by name or as ``*``."""
    if accept is None:
        return False
    qualities = _qualities(accept)
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _qualities(accept: str) -> dict[str, float]:
    """What a header lists, in small letters, with the quality of each."""
    found: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        found[name] = max(found.get(name, 0.0), _quality(parameters))
    return found


def _quality(parameters: list[str]) -> float:
    """The ``q`` of a media range; 1 where it is absent, 0 where it is no number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
