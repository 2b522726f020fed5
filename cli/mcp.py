"""``peft-atlas mcp``: the recommender and the records as tools of a language model."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from cli.terminal import stop


def mcp() -> None:
    """Serve the recommender and the records to a language model (Model Context Protocol).

    It speaks over standard input and output, as a client starts it.
    """
    if find_spec("mcp") is None:
        stop("the Model Context Protocol is not installed here: pip install 'peft-atlas[mcp]'", code=1)
    from web.app import load
    from web.tools import server

    try:
        number = version("peft-atlas")
    except PackageNotFoundError:
        number = "unreleased"
    load()
    server(number).run("stdio")
