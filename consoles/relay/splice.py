"""splice(2) for consoles that flood: the kernel moves the bytes from socket to socket, Python writes frame headers.

Only on Linux, and only where both sides are plain sockets (TLS ends at the balancer). Interactive consoles never get
here: a console enters when a read filled its buffer, and goes back to ``flow`` when little comes or the browser does
not keep pace. While it is here it is polled, as network drivers are under load: at once when there was plenty, else
after a few milliseconds. Being woken for every few KiB would cost several times the CPU, and keep the loop from the
others.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from typing import TYPE_CHECKING, Final, Protocol

from consoles.relay.frames import header

if TYPE_CHECKING:
    from consoles.relay.flow import UpstreamFlow
    from consoles.relay.runtime import LoopState

ENABLED = sys.platform == "linux" and hasattr(os, "splice")

# What one console may move in one turn of the loop, in one frame. A browser's script sees a message only when all of it
# is there, so frames start small and grow only while the browser keeps pace.
SPLICE_BYTES: Final = 512 * 1024
_FIRST_BYTES: Final = 128 * 1024
_FEW_BYTES: Final = 32 * 1024
_FEW_TURNS: Final = 8
# Small portions cost the most CPU per byte: look less often while they are below this.
_FAIR_BYTES: Final = 128 * 1024
_POLL_SECONDS: Final = 0.001
_POLL_SECONDS_MOST: Final = 0.004
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if ENABLED else 0


class Pipe:
    """The kernel buffer between two splices; empty whenever it is not lent."""

    __slots__ = ("read_fd", "size", "write_fd")

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, SPLICE_BYTES)
        except OSError:  # an unprivileged user's share of pipe memory is used up
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_GETPIPE_SZ)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


def plain_socket(transport: asyncio.Transport) -> socket.socket | None:
    """A second descriptor of the transport's socket; None where the bytes are encrypted on the way."""
    found = transport.get_extra_info("socket")
    if found is None or transport.get_extra_info("ssl_object") is not None or transport.is_closing():
        return None
    try:
        return socket.socket(fileno=os.dup(found.fileno()))
    except OSError:  # no descriptor left: copying needs none
        return None


class SpliceTarget(Protocol):
    """A browser that frames can be written to beside its transport."""

    def plain_socket(self) -> socket.socket | None:
        """See :func:`plain_socket`."""

    def unsent_bytes(self) -> int:
        """What waits in the transport; nothing may be written beside it before it is sent."""

    def frame_stuck(self, pump: SplicePump) -> None:
        """Half a frame is out: write nothing until :meth:`frame_done`."""

    def frame_done(self) -> None:
        """The frame is out."""

    def abort(self) -> None:
        """Writing failed: end the socket now."""


class SplicePump:
    """Moves one console's bytes while it floods, on descriptors of its own beside the transports'."""

    __slots__ = (
        "_browser",
        "_few",
        "_flow",
        "_head",
        "_left",
        "_limit",
        "_loop",
        "_pipe",
        "_source",
        "_state",
        "_target",
        "_turn",
        "_wait_seconds",
    )

    def __init__(
        self,
        flow: UpstreamFlow,
        browser: SpliceTarget,
        state: LoopState,
        source: socket.socket,
        target: socket.socket,
    ):
        self._flow = flow
        self._browser = browser
        self._state = state
        self._source = source
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._left = 0
        self._limit = _FIRST_BYTES
        self._few = 0
        self._wait_seconds = _POLL_SECONDS
        self._pipe: Pipe | None = None  # only while a frame is stuck
        self._turn: asyncio.Handle = self._loop.call_soon(self._fill)
        # Makes the kernel take a whole turn's worth into its receive buffer between two polls (tcp(7), SO_RCVLOWAT).
        self._expect(SPLICE_BYTES)

    @property
    def waiting_bytes(self) -> int:
        """What of a stuck frame is still to be sent."""
        return self._left + len(self._head)

    def _fill(self) -> None:
        """One turn: what has come, as one frame."""
        if self._browser.unsent_bytes():
            self.leave()
            return
        pipe = self._state.pipes.current()
        limit = min(self._limit, pipe.size)
        try:
            size = os.splice(self._source.fileno(), pipe.write_fd, limit, flags=_FLAGS)
        except BlockingIOError:
            self._next(0, limit)
            return
        except OSError:
            size = 0
        if not size:  # the end of the line: the transport finds it too, and knows what to do
            self.leave()
            return
        self._flow.moved(size)
        self._head, self._left = header(size), size
        if self._drain(pipe):
            self._next(size, limit)
        else:
            self._pipe = self._state.pipes.lend()
            self._loop.add_writer(self._target.fileno(), self._more)
            self._browser.frame_stuck(self)

    def _next(self, size: int, limit: int) -> None:
        """When to look again."""
        self._few = self._few + 1 if size < _FEW_BYTES else 0
        if self._few >= _FEW_TURNS:
            self.leave()
        elif 2 * size < limit:
            if size < _FAIR_BYTES:
                self._wait_seconds = min(self._wait_seconds * 2, _POLL_SECONDS_MOST)
            self._turn = self._loop.call_later(self._wait_seconds, self._fill)
        else:
            self._limit = min(self._limit * 2, SPLICE_BYTES)
            self._wait_seconds = _POLL_SECONDS
            self._turn = self._loop.call_soon(self._fill)

    def _drain(self, pipe: Pipe) -> bool:
        """Sends what is there of the frame; whether that was all of it."""
        try:
            if self._head:
                sent = self._target.send(self._head, socket.MSG_MORE | socket.MSG_DONTWAIT)
                self._head = self._head[sent:]
            while self._left and not self._head:
                self._left -= os.splice(pipe.read_fd, self._target.fileno(), self._left, flags=_FLAGS)
        except BlockingIOError:
            return False
        except OSError:  # the browser is gone
            self._browser.abort()
            return False
        return not self._left and not self._head

    def _more(self) -> None:
        """The browser takes data again."""
        if self._pipe is None or not self._drain(self._pipe):
            return
        self._loop.remove_writer(self._target.fileno())
        self._state.pipes.give_back(self._pipe)
        self._pipe = None
        if self._flow.splicing is self:
            # It does not keep pace: smaller frames serve it better, and CPU is not what it lacks.
            self.leave()
        else:
            self._close()
        self._browser.frame_done()

    def leave(self) -> None:
        """Back to the copying path; a frame that is stuck is still finished."""
        if self._flow.splicing is not self:
            return
        self._turn.cancel()
        self._expect(1)
        if self._pipe is None:
            self._close()
        self._flow.splice_left()

    def stop(self) -> None:
        """The browser's socket is gone."""
        if self._pipe is not None:
            self._loop.remove_writer(self._target.fileno())
            self._pipe.close()  # it is not empty
            self._pipe = None
            if self._flow.splicing is not self:
                self._close()
        self.leave()

    def _expect(self, size: int) -> None:
        if self._source.family != socket.AF_UNIX:
            self._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _close(self) -> None:
        self._source.close()
        self._target.close()


class Pipes:
    """The loop's pipes: one in use by whoever has its turn, a few spare ones."""

    MAX_SPARE: Final = 4

    def __init__(self) -> None:
        self._spare: list[Pipe] = []

    def current(self) -> Pipe:
        if not self._spare:
            self._spare.append(Pipe())
        return self._spare[-1]

    def lend(self) -> Pipe:
        return self._spare.pop()

    def give_back(self, pipe: Pipe) -> None:
        if len(self._spare) < self.MAX_SPARE:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()
