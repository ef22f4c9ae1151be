"""What a console needs of its two sockets, and the switch that both directions' back-pressure shares.

A console never touches a transport: it speaks to a :class:`BrowserLink` and an :class:`UpstreamLink`. There are two
browser links, one on a swapped transport (``swap``) and one over ASGI messages (``asgi``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from consoles.relay.splice import SpliceTarget


class Hold:
    """Why a socket is not being read just now; plain ints, as they are combined on the hot path."""

    PEER: Final = 1
    """The other side cannot take more."""
    TURN: Final = 2
    """Its share of this loop turn is used up."""
    START: Final = 4
    """The console has not started yet."""
    SPLICE: Final = 8
    """The kernel moves the bytes (``splice``)."""


class ReadGate:
    """Pauses and resumes reading of one transport for several reasons at once; reads only while none holds."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, held: int = 0):
        self._transport = transport
        self._loop = loop
        self._held = held

    @property
    def held(self) -> int:
        return self._held

    def hold(self, why: int) -> None:
        if not self._held and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= why

    def release(self, why: int) -> None:
        if not self._held & why:
            return
        self._held &= ~why
        if not self._held and not self._transport.is_closing():
            self._transport.resume_reading()

    def yield_turn(self) -> None:
        """Lets every other connection have its turn before this one is read again.

        libuv reads a socket up to 32 times in a row as long as each read fills its buffer, so a flooding connection
        would keep the loop to itself.
        """
        if not self._held & Hold.TURN:
            self.hold(Hold.TURN)
            self._loop.call_soon(self.release, Hold.TURN)


CLOSE_SECONDS: Final = 2.0


def waiting_bytes(transport: asyncio.Transport) -> int:
    """What waits in the transport to be sent. Once it closes it cannot be asked (uvloop's TLS transport raises)."""
    return 0 if transport.is_closing() else transport.get_write_buffer_size()


def close_bounded(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
    """Closes after what is buffered was sent, or without it when the peer does not take it in time.

    Also a TLS peer that never answers the shutdown, and a transport that was closing already, are cut off.
    """
    at_once = (
        not transport.is_closing()
        and not transport.get_write_buffer_size()
        and transport.get_extra_info("ssl_object") is None
    )
    transport.close()
    if not at_once:
        loop.call_later(CLOSE_SECONDS, transport.abort)


class BrowserLink(Protocol):
    """The way to one browser."""

    can_ping: bool
    """Whether :meth:`ping` reaches the browser; where not, the ASGI server's own keep-alive has to notice silence."""

    lends_buffers: bool
    """Whether :meth:`send_data` may get a view that is valid only while :meth:`unsent_bytes` is 0 afterwards."""

    def send_data(self, data: bytes | memoryview) -> None:
        """RFB bytes for the browser, in one binary frame."""

    def send_text(self, text: str) -> bool:
        """A control message; False when it was dropped because the browser does not take its data."""

    def ping(self) -> None:
        """Asks for a sign of life."""

    def unsent_bytes(self) -> int:
        """How much waits in this process for the browser."""

    def splice_target(self) -> SpliceTarget | None:
        """Where the kernel may write frames beside the transport; None where it cannot."""

    def hold_reading(self) -> None:
        """The VNC server takes no more: read nothing from the browser."""

    def release_reading(self) -> None:
        """The VNC server takes data again."""

    def close(self, code: int, text: str) -> None:
        """Sends a close frame and ends the socket, within a bounded time also when the browser does not answer."""


class UpstreamLink(Protocol):
    """The way to one VNC server, after the RFB security handshake."""

    def write(self, data: bytes) -> None:
        """RFB bytes for the server."""

    def hold_reading(self) -> None:
        """The browser takes no more: read nothing from the server."""

    def release_reading(self) -> None:
        """The browser takes data again."""

    def close(self) -> None:
        """Ends the socket within a bounded time."""
