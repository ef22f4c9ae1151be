"""VNC server to browser: the hot path. Bytes are neither parsed nor, where the link allows it, copied."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from consoles.relay import splice
from consoles.relay.links import Hold, ReadGate, close_bounded
from consoles.relay.runtime import UPSTREAM_READ_BYTES, loop_state

if TYPE_CHECKING:
    from consoles.relay.console import RelayedConsole
    from consoles.relay.links import BrowserLink

WRITE_HIGH_BYTES: Final = 64 * 1024
# What may wait in the kernel of one VNC server. Left to itself Linux lets megabytes wait: pictures that are old when
# they are shown, and more than the processor's cache holds, which makes moving them dear (bench/relay.py).
UPSTREAM_WAITING_BYTES: Final = 256 * 1024
# Below this a copy is cheaper than a loan of the shared buffer.
COPY_BELOW_BYTES: Final = 8 * 1024


class UpstreamFlow(asyncio.BufferedProtocol):
    """The protocol of the VNC server's socket once its security handshake is done; an ``UpstreamLink``."""

    __slots__ = (
        "_browser",
        "_closed",
        "_gate",
        "_lent",
        "_loop",
        "_share",
        "_transport",
        "console",
        "splicing",
        "state",
    )

    def __init__(self, console: RelayedConsole, browser: BrowserLink, transport: asyncio.Transport):
        self.console = console
        self._browser = browser
        self._transport = transport
        self.state = loop_state()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._gate = ReadGate(transport, loop, Hold.START)
        self._closed = False
        self._share = UPSTREAM_READ_BYTES
        self._lent: list[memoryview] = []
        self.splicing: splice.SplicePump | None = None
        transport.pause_reading()  # until start(), as the gate has it; uvloop also needs it to change the protocol
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UPSTREAM_WAITING_BYTES)

    def start(self, early: bytes) -> None:
        """Lets bytes flow; ``early`` came with the handshake's last answer."""
        if early:
            self._forward(early)
        self._gate.release(Hold.START)

    # Reading (asyncio.BufferedProtocol)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._lent and not self._browser.unsent_bytes():
            for view in self._lent:
                self.state.give_back(view)
            self._lent.clear()
        self._share = self.state.upstream_share(self.console)
        return self.state.upstream_view[: self._share]

    def buffer_updated(self, nbytes: int) -> None:
        if self._closed:
            return
        view = self.state.upstream_view[:nbytes]
        if nbytes < COPY_BELOW_BYTES or not self._browser.lends_buffers:
            self._forward(bytes(view))
        else:
            self._forward(view)
            if self._browser.unsent_bytes():
                self._lent.append(self.state.lend_upstream_view())
        if nbytes == self._share:
            self._gate.yield_turn()
            self._try_splice()

    def _forward(self, data: bytes | memoryview) -> None:
        self.console.bytes_down += len(data)
        self._browser.send_data(data)

    def _try_splice(self) -> None:
        """Lets the kernel do it, when both sides are plain sockets and nothing waits for the browser."""
        if self.splicing is None and not self._closed:
            self.splicing = splice.try_splice(self, self._transport, self._browser.splice_target())
            if self.splicing is not None:
                self._gate.hold(Hold.SPLICE)

    def moved(self, size: int) -> None:
        """The kernel took that much from the server."""
        self.console.bytes_down += size

    def splice_left(self) -> None:
        """The pump has ended; the transport reads again."""
        self.splicing = None
        self._gate.release(Hold.SPLICE)

    def eof_received(self) -> None:
        self.console.upstream_gone("the VNC server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if self.splicing is not None:
            self.splicing.leave()
        self.console.upstream_gone(str(exc) if exc else "the connection to the VNC server ended")

    # Back-pressure of the VNC server (asyncio.BaseProtocol)

    def pause_writing(self) -> None:
        self.console.upstream_full()

    def resume_writing(self) -> None:
        self.console.upstream_drained()

    # UpstreamLink

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def hold_reading(self) -> None:
        self._gate.hold(Hold.PEER)

    def release_reading(self) -> None:
        self._gate.release(Hold.PEER)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.splicing is not None:
            self.splicing.leave()
        close_bounded(self._loop, self._transport)
