"""What all consoles of one event loop share: the one-second ticker and the buffer that VNC servers are read into."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from consoles.relay.splice import Pipes

TICK_SECONDS: Final = 1.0

# One read's worth, and so what one VNC server may move in one turn of the loop. Larger is hardly faster, and makes an
# echo beside a flood wait longer (measured by bench/relay.py).
UPSTREAM_READ_BYTES: Final = 128 * 1024
# A few hundred input messages: about a millisecond of parsing in one turn.
BROWSER_READ_BYTES: Final = 4 * 1024


class Ticking(Protocol):
    """Something that wants to look at its clock every second."""

    def tick(self) -> None:
        """Must neither block nor raise."""


class LoopState:
    """Per event loop. A single timer however many consoles there are; none while there is no console."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._call_later: Callable[..., asyncio.TimerHandle] = loop.call_later
        self._timer: asyncio.TimerHandle | None = None
        self.members: dict[Ticking, None] = {}
        self.upstream_view = memoryview(bytearray(UPSTREAM_READ_BYTES))
        self.browser_view = memoryview(bytearray(BROWSER_READ_BYTES))
        self.pipes = Pipes()

    def add(self, member: Ticking) -> None:
        self.members[member] = None
        if self._timer is None:
            self._timer = self._call_later(TICK_SECONDS, self._tick)

    def remove(self, member: Ticking) -> None:
        self.members.pop(member, None)
        if not self.members and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.pipes.close()

    def lend_upstream_view(self) -> None:
        """The current buffer now belongs to a transport that has not sent all of it; reads go to a fresh one."""
        self.upstream_view = memoryview(bytearray(UPSTREAM_READ_BYTES))

    def _tick(self) -> None:
        self._timer = self._call_later(TICK_SECONDS, self._tick)
        for member in list(self.members):
            member.tick()


_states: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopState] = WeakKeyDictionary()


def loop_state() -> LoopState:
    """The running loop's state."""
    loop = asyncio.get_running_loop()
    state = _states.get(loop)
    if state is None:
        state = _states[loop] = LoopState(loop)
    return state
