"""``peft-atlas serve``: the site on this machine."""

from __future__ import annotations

import errno
import os
import socket
from importlib.util import find_spec
from typing import Annotated

import typer

from cli.terminal import stop


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes.")] = 1,
    access_log: Annotated[bool, typer.Option("--access-log", help="Write a line of JSON for each request.")] = False,
) -> None:
    """Serve the site and the HTTP API on this machine."""
    _check_free(host, port)
    if find_spec("web.app") is None:
        stop("the site is not installed here; run from a checkout or install peft-atlas", code=1)
    import uvicorn

    from web.access_log import VARIABLE

    if access_log:
        os.environ[VARIABLE] = "1"
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"PEFT Atlas is on http://{shown}:{port} (stop with Ctrl+C)")
    uvicorn.run("web.app:create_app", factory=True, host=host, port=port, workers=workers, log_level="warning")


def _check_free(host: str, port: int) -> None:
    """Say in words what a server would otherwise say in a trace: the address is taken, or is not one of ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        stop(f"--host {host}: no such address; write 127.0.0.1, 0.0.0.0 or a name of this machine")
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                stop(f"port {port} is taken; stop what listens there, or choose another with --port", code=1)
            stop(f"cannot listen on {host}:{port}: {error.strerror}", code=1)
