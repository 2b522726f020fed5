"""One line of JSON for each request, and an id that ties a reader's report to it (``peft-atlas serve --access-log``)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE = "PEFT_ATLAS_ACCESS_LOG"
"""Set to 1 in the environment, it turns the log on: every worker process reads it."""
_HEADER = b"x-request-id"
_GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def wanted() -> bool:
    """Whether the environment asks for the log."""
    return os.environ.get(VARIABLE) == "1"


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class AccessLog:
    """Writes a line for every request once its answer is sent, and sends its id along.

    An id that a proxy has given is kept if it is short and plain. No address of a client is written.
    """

    def __init__(self, app: ASGIApp, write: Callable[[str], None] = _write) -> None:
        self.app, self.write = app, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        request_id = given if _GIVEN.fullmatch(given) else uuid4().hex.encode()
        started, seen = time.perf_counter(), {"status": 500, "bytes": 0}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message["headers"] = [*message["headers"], (_HEADER, request_id)]
            else:
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            told = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "id": request_id.decode(),
                "method": scope["method"],
                "path": scope["path"],
                "query": scope["query_string"].decode("latin-1"),
                **seen,
                "ms": round(1000 * (time.perf_counter() - started), 2),
            }
            self.write(json.dumps(told))
