"""The relay behind a small but realistic console endpoint: router, Origin check, one-time-secret rows in SQLite.

The product's own endpoint needs its whole database; this one has the same shape and the same number of statements:
one SELECT over session and VM, one compare-and-set UPDATE, off the event loop, as Django runs them.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from django.conf import settings
from django.urls import path

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.reasons import Refused
from consoles.relay import ConsolePolicy, RelayedConsole, UpstreamError, open_upstream, refuse, serve_console
from consoles.relay.server import RelayProtocol

SECRET_PREFIX = "cloudops.secret."
POLICY = ConsolePolicy(idle_warning_seconds=600, idle_disconnect_seconds=900)


def create_database(file: Path, ports: dict[str, int]) -> None:
    """One VM per kind of source; the secret of its session is the kind's name."""
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE vm (id INTEGER PRIMARY KEY, host TEXT, port INTEGER)")
    database.execute("CREATE TABLE session (id INTEGER PRIMARY KEY, vm INTEGER, secret TEXT UNIQUE, opened INTEGER)")
    for number, (kind, port) in enumerate(ports.items(), start=1):
        database.execute("INSERT INTO vm VALUES (?, '127.0.0.1', ?)", (number, port))
        digest = hashlib.sha256(kind.encode()).hexdigest()
        database.execute("INSERT INTO session VALUES (?, ?, ?, 0)", (number, number, digest))
    database.commit()
    database.close()


class Sessions:
    """The two statements of a redeem, in a thread of their own."""

    def __init__(self, file: str):
        self._thread = ThreadPoolExecutor(1)
        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA synchronous=NORMAL")

    async def redeem(self, secret: str) -> tuple[int, str, int] | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._redeem, secret)

    def _redeem(self, secret: str) -> tuple[int, str, int] | None:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found: tuple[int, str, int] | None = self._database.execute(
            "SELECT session.id, vm.host, vm.port FROM session JOIN vm ON vm.id = session.vm WHERE secret = ?", (digest,)
        ).fetchone()
        if found is None:
            return None
        changed = self._database.execute("UPDATE session SET opened = opened + 1 WHERE id = ?", (found[0],))
        return found if changed.rowcount == 1 else None


def make_app(sessions: Sessions) -> Any:
    """An ASGI application as the product has it."""

    async def console(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        secret = next((name for name in scope["subprotocols"] if name.startswith(SECRET_PREFIX)), "")
        found = await sessions.redeem(secret.removeprefix(SECRET_PREFIX))
        if found is None:
            await refuse(scope, receive, send, Refused.SECRET.ws_code, Refused.SECRET.text)
            return
        try:
            upstream = await open_upstream(ConsoleEndpoint(Transport.TCP, host=found[1], port=found[2]))
        except UpstreamError as error:
            await refuse(scope, receive, send, error.closed_reason.ws_code, error.closed_reason.text)
            return
        relayed = RelayedConsole(str(found[0]), POLICY)
        await serve_console(scope, receive, send, console=relayed, upstream=upstream)

    view: Any = console  # path() is typed for HTTP views only
    router = URLRouter([path("ws/live/", view), path("ws/console/", view)])
    return ProtocolTypeRouter({"websocket": OriginValidator(router, ["127.0.0.1"])})


def main(port: int, database: str) -> None:
    settings.configure()
    uvicorn.run(
        make_app(Sessions(database)),
        host="127.0.0.1",
        port=port,
        ws=RelayProtocol,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        interface="asgi3",
        log_level="warning",
        backlog=4096,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
