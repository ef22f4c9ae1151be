"""uvicorn's WebSocket protocol with one more ASGI extension: ``cloudops.relay``.

``uvicorn --ws consoles.relay.server:RelayProtocol``. Everything but consoles works as before; a console, once it is
authorised like any other ASGI WebSocket, leaves the ASGI message path and owns its transport.
"""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import socket
import stat
from functools import cache
from typing import TYPE_CHECKING

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from consoles.reasons import ClosedReason
from consoles.relay.serve import EXTENSION
from consoles.relay.swap import SwappedBrowser

if TYPE_CHECKING:
    from consoles.relay.console import RelayedConsole


@cache
def prepare_process() -> None:
    """What is worth doing once the server has started: at its first WebSocket.

    Leaves all that was imported out of later garbage collections, which stop every console while they last.
    """
    gc.freeze()
    unpace_local_listeners()


def unpace_local_listeners() -> int:
    """Takes congestion control that paces (bbr) off what this process accepts on loopback; how many listeners.

    The line to a balancer on this machine has no queue to spare, and pacing was measured to halve what flows over it.
    It cannot be taken off a connection, only inherited from the listener, which uvicorn does not show. Reno is in
    every Linux, and every user may choose it (tcp(7), ``TCP_CONGESTION``).
    """
    changed = 0
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                    with socket.socket(fileno=os.dup(int(name))) as sock:
                        changed += _unpace(sock)
    return changed


def _unpace(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    if not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
        return False
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    if not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"bbr"):
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    return True


class RelayProtocol(WebSocketsSansIOProtocol):
    """Offers :meth:`take_over` to the application, and closes consoles when the server stops."""

    console: RelayedConsole | None = None
    early_frames = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        prepare_process()
        if scope is not None:  # absent when the handshake was refused
            scope["extensions"][EXTENSION] = self.take_over

    async def take_over(self, subprotocol: str | None, console: RelayedConsole) -> SwappedBrowser:
        """Answers 101 and gives the transport to ``console``.

        Raises what uvicorn's ``send`` raises (an :class:`OSError`) when the browser is gone. Bytes that came before
        the 101 are a violation (RFC 6455, 4.1: the client waits) and close the connection with 1002.
        """
        self.response.headers.pop("Sec-WebSocket-Extensions", None)  # no deflate: RFB is compressed already
        await self.send({"type": "websocket.accept", "subprotocol": subprotocol})
        if self.transport.is_closing():
            raise ClientDisconnected
        self.stop_keepalive()
        too_early = self.early_frames or bool(self.conn.reader.buffer)
        self.console = console
        browser = SwappedBrowser(self.transport, console, super().connection_lost)
        if too_early:
            console.browser_violation(1002, "Frames came before the handshake's answer.")
            browser.close(1002, "Frames came before the handshake's answer.")
        # A console lives long: keep nothing of the handshake.
        self.conn = None  # type: ignore[assignment]
        self.request = None  # type: ignore[assignment]
        return browser

    def send_receive_event_to_app(self) -> None:
        self.early_frames = self.early_frames or not self.handshake_complete
        super().send_receive_event_to_app()

    def shutdown(self) -> None:
        if self.console is None:
            super().shutdown()
        else:
            self.console.close(ClosedReason.SERVER_STOPPING)
