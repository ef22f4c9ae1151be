"""Joins an authorised browser and an opened VNC server, on the fast path where the web server offers it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from consoles.reasons import ClosedReason
from consoles.relay.asgi import AsgiBrowser, Receive, Send
from consoles.relay.console import Outcome, RelayedConsole
from consoles.relay.flow import UpstreamFlow
from consoles.relay.frames import close_payload
from consoles.relay.links import BrowserLink
from consoles.relay.runtime import loop_state
from consoles.relay.upstream import Upstream

EXTENSION: Final = "cloudops.relay"
DATA_SUBPROTOCOL: Final = "binary"
CONTROL_SUBPROTOCOL: Final = "cloudops.control.v1"

Scope = MutableMapping[str, Any]


async def refuse(
    scope: Scope, receive: Receive, send: Send, code: int, text: str, *, first: Mapping[str, Any] | None = None
) -> None:
    """Accepts and closes at once: a browser sees the code and the text of an accepted socket only. ``first``: a control
    message that goes before, to a page that understands those.

    ``websocket.connect`` must have been received. Does nothing when the browser is gone.
    """
    try:
        await send({"type": "websocket.accept", "subprotocol": _subprotocol(scope)})
        if first is not None and CONTROL_SUBPROTOCOL in scope.get("subprotocols", ()):
            await send({"type": "websocket.send", "text": json.dumps(first, separators=(",", ":"))})
        await send({"type": "websocket.close", "code": code, "reason": close_payload(code, text)[2:].decode()})
    except OSError:
        return


async def serve_console(
    scope: Scope, receive: Receive, send: Send, *, console: RelayedConsole, upstream: Upstream
) -> Outcome:
    """Accepts the browser and relays until the console ends; owns ``upstream`` from here on.

    ``websocket.connect`` must have been received. Never raises for what a browser or a VNC server does.
    """
    console.local_address = upstream.local_address
    try:
        if console.outcome is not None:
            await refuse(scope, receive, send, console.outcome.reason.ws_code, console.outcome.reason.text)
        elif EXTENSION in scope.get("extensions", {}):
            await _serve_swapped(scope, console, upstream)
        else:
            await _serve_messages(scope, receive, send, console, upstream)
    except OSError as error:  # uvicorn's ClientDisconnected is one
        console.never_started(ClosedReason.LINE_LOST, str(error) or "the browser went away before it was accepted")
    except BaseException:
        console.close(ClosedReason.SERVER_STOPPING)
        raise
    finally:
        upstream.close()
    if console.outcome is None:
        console.close(ClosedReason.LINE_LOST)
    assert console.outcome is not None  # noqa: S101 - close() sets it
    return console.outcome


def live_consoles() -> list[RelayedConsole]:
    """Every console of the running loop that has started and not ended."""
    return [member for member in loop_state().members if isinstance(member, RelayedConsole)]


async def _serve_swapped(scope: Scope, console: RelayedConsole, upstream: Upstream) -> None:
    take_over = scope["extensions"][EXTENSION]
    browser = await take_over(_subprotocol(scope), console)
    if console.outcome is None:
        _start(scope, console, browser, upstream)
    else:
        upstream.close()
    await asyncio.shield(browser.closed)


async def _serve_messages(
    scope: Scope, receive: Receive, send: Send, console: RelayedConsole, upstream: Upstream
) -> None:
    await send({"type": "websocket.accept", "subprotocol": _subprotocol(scope)})
    browser = AsgiBrowser(receive, send, console)
    if console.outcome is not None:
        upstream.close()
        browser.close(console.outcome.reason.ws_code, console.outcome.reason.text)
    else:
        _start(scope, console, browser, upstream)
    await browser.run()


def _start(scope: Scope, console: RelayedConsole, browser: BrowserLink, upstream: Upstream) -> None:
    flow = UpstreamFlow(console, browser, upstream.attach())
    console.start(browser, flow, has_control=CONTROL_SUBPROTOCOL in scope.get("subprotocols", ()))
    flow.start(upstream.take_early())
    if upstream.lost:
        console.upstream_gone("the VNC server went away before the browser was accepted")


def _subprotocol(scope: Scope) -> str | None:
    return DATA_SUBPROTOCOL if DATA_SUBPROTOCOL in scope.get("subprotocols", ()) else None
