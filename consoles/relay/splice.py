"""splice(2) for consoles that flood: the kernel moves the bytes from socket to socket, Python writes frame headers.

Only on Linux, and only where both sides are plain sockets (TLS ends at the balancer). Interactive consoles never get
here: a console enters when a read filled its buffer, and goes back to ``flow`` when little comes for some turns, when
something else waits to be sent, at the end of the line, and whenever the kernel refuses a descriptor or a pipe. It
works on descriptors of its own, as uvloop lets nobody watch those of its transports, which do not read meanwhile.
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

# What one console may move in one turn of the loop, in one frame; and what a browser that stalls may keep in a pipe.
SPLICE_BYTES: Final = 512 * 1024
# A browser's script sees a frame only when all of it is there: they start small and grow while it keeps pace.
FIRST_BYTES: Final = 64 * 1024
SLOW_SECONDS: Final = 0.02
# Each holds two descriptors; further consoles that flood at the same time are copied.
MAX_PUMPS: Final = 64
# While somebody types in another console: that much, then a rest, which comes to about a gigabit line's worth. A
# process that never sleeps waits for the processor behind others that never sleep, and the typist with it.
SHARED_SPLICE_BYTES: Final = 128 * 1024
REST_SECONDS: Final = 0.001
# Below this a copy is as cheap as four system calls.
FEW_BYTES: Final = 32 * 1024
FEW_TURNS: Final = 8
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if ENABLED else 0


class Pipe:
    """The kernel buffer between two splices. Raises :class:`OSError` when no descriptor is left."""

    __slots__ = ("read_fd", "size", "write_fd")

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, SPLICE_BYTES)
        except OSError:  # an unprivileged user's share of pipe memory is used up (pipe(7)): a smaller one does too
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_GETPIPE_SZ)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class Pipes:
    """The loop's pipes, all empty: the one that serves whoever has its turn, and a few spare ones."""

    MAX_SPARE: Final = 4

    def __init__(self) -> None:
        self._spare: list[Pipe] = []
        self._most = 0

    def keep(self, wanted: bool) -> None:
        """Whether there are consoles that may need spare pipes."""
        self._most = self.MAX_SPARE if wanted else 0
        while len(self._spare) > self._most:
            self._spare.pop().close()

    def take(self) -> Pipe | None:
        """A pipe that now belongs to the caller; None when there is none to be had."""
        if self._spare:
            return self._spare.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give_back(self, pipe: Pipe) -> None:
        """``pipe`` is empty again."""
        if len(self._spare) < self._most:
            self._spare.append(pipe)
        else:
            pipe.close()


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


def plain_socket(transport: asyncio.Transport) -> socket.socket | None:
    """A second descriptor of the transport's socket; None where the bytes are encrypted on the way."""
    found = transport.get_extra_info("socket")
    if found is None or transport.get_extra_info("ssl_object") is not None or transport.is_closing():
        return None
    try:
        return socket.socket(fileno=os.dup(found.fileno()))
    except OSError:  # no descriptor left: copying needs none
        return None


def try_splice(flow: UpstreamFlow, transport: asyncio.Transport, target: SpliceTarget | None) -> SplicePump | None:
    """A pump between the two sockets; None where they, or the limits of this process, do not allow one."""
    if not ENABLED or target is None or target.unsent_bytes() or len(flow.state.pumps) >= MAX_PUMPS:
        return None
    source, sink = plain_socket(transport), target.plain_socket()
    if source is not None and sink is not None:
        return SplicePump(flow, target, source, sink)
    for sock in (source, sink):
        if sock is not None:
            sock.close()
    return None


class SplicePump:
    """Moves one console's bytes while it floods, a bounded share in every turn of the loop.

    Holds a pipe only while half a frame is out because the browser does not take the rest; reads nothing meanwhile.
    """

    __slots__ = (
        "_browser",
        "_few",
        "_flow",
        "_head",
        "_left",
        "_limit",
        "_loop",
        "_moved",
        "_pipe",
        "_rest",
        "_source",
        "_state",
        "_stuck_at",
        "_target",
    )

    def __init__(self, flow: UpstreamFlow, browser: SpliceTarget, source: socket.socket, target: socket.socket):
        self._flow = flow
        self._browser = browser
        self._state: LoopState = flow.state
        self._source = source
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._left = 0
        self._few = 0
        self._limit = FIRST_BYTES
        self._moved = True
        self._stuck_at = 0.0
        self._rest: asyncio.TimerHandle | None = None
        self._pipe: Pipe | None = None
        self._state.pumps.add(self)
        self._loop.add_reader(source.fileno(), self._fill)

    @property
    def waiting_bytes(self) -> int:
        """What of a stuck frame is still to be sent."""
        return self._left + len(self._head)

    def _fill(self) -> None:
        """One turn: what has come, as one frame."""
        pipe = None if self._browser.unsent_bytes() else self._state.pipes.take()
        if pipe is None:
            self.leave()
            return
        shared = self._state.others_type(self._flow.console)
        limit = min(self._limit, SHARED_SPLICE_BYTES) if shared else self._limit
        try:
            size = os.splice(self._source.fileno(), pipe.write_fd, limit, flags=_FLAGS)
        except BlockingIOError:
            self._state.pipes.give_back(pipe)
            return
        except OSError:
            size = 0
        if not size:  # the end of the line: the transport finds it too, and knows what to do
            self._state.pipes.give_back(pipe)
            self.leave()
            return
        self._moved = True
        self._flow.moved(size)
        self._head, self._left, self._pipe = header(size), size, pipe
        if not self._drain(pipe):
            self._loop.remove_reader(self._source.fileno())
            self._loop.add_writer(self._target.fileno(), self._more)
            self._stuck_at = self._loop.time()
            self._browser.frame_stuck(self)
            return
        self._give_back()
        self._limit = min(2 * self._limit, SPLICE_BYTES)
        if shared:
            self._loop.remove_reader(self._source.fileno())
            self._rest = self._loop.call_later(REST_SECONDS, self._rested)
        self._few = self._few + 1 if size < FEW_BYTES else 0
        if self._few >= FEW_TURNS:
            self.leave()

    def _rested(self) -> None:
        self._rest = None
        self._loop.add_reader(self._source.fileno(), self._fill)

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
        return not self.waiting_bytes

    def _more(self) -> None:
        """The browser takes data again."""
        if self._pipe is None or not self._drain(self._pipe):
            return
        self._loop.remove_writer(self._target.fileno())
        self._give_back()
        if self._loop.time() - self._stuck_at > SLOW_SECONDS:
            self._limit = max(self._limit // 2, FIRST_BYTES)
        if self._flow.splicing is self:
            self._loop.add_reader(self._source.fileno(), self._fill)
        else:
            self._close()
        self._browser.frame_done()

    def _give_back(self) -> None:
        if self._pipe is not None:
            self._state.pipes.give_back(self._pipe)
            self._pipe = None

    def tick(self) -> None:
        """Once a second: a console that floods no more gives its descriptors back."""
        if not self._moved and self._pipe is None:
            self.leave()
        self._moved = False

    def leave(self) -> None:
        """Back to the copying path; a frame that is stuck is still finished."""
        if self._flow.splicing is not self:
            return
        if self._rest is not None:
            self._rest.cancel()
        if self._pipe is None:
            self._loop.remove_reader(self._source.fileno())
            self._close()
        self._flow.splice_left()

    def stop(self) -> None:
        """The browser's socket is gone, in the middle of a frame."""
        if self._pipe is None:
            return
        self._loop.remove_writer(self._target.fileno())
        self._pipe.close()  # it is not empty
        self._pipe = None
        if self._flow.splicing is self:
            self._flow.splice_left()
        self._close()

    def _close(self) -> None:
        self._state.pumps.discard(self)
        self._source.close()
        self._target.close()
