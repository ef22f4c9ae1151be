"""What all consoles of one event loop share: the one-second ticker and the buffer that VNC servers are read into."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

from consoles.relay.splice import Pipes

if TYPE_CHECKING:
    from consoles.relay.splice import SplicePump

TICK_SECONDS: Final = 1.0

# One read's worth, and so what one VNC server may move in one turn of the loop: much while nobody else types, for every
# wake-up costs; less while somebody does, whose keys and pictures wait for the turn's end (measured by bench/relay.py).
UPSTREAM_READ_BYTES: Final = 256 * 1024
SHARED_READ_BYTES: Final = 32 * 1024
MAX_SPARE_BUFFERS: Final = 16
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
        self.typing: set[Ticking] = set()
        """Who had input from a person since the last tick."""
        self.upstream_view = memoryview(bytearray(UPSTREAM_READ_BYTES))
        self._spare: list[memoryview] = []
        self.pipes = Pipes()
        self.pumps: set[SplicePump] = set()
        self.browser_view = memoryview(bytearray(BROWSER_READ_BYTES))

    def add(self, member: Ticking) -> None:
        self.members[member] = None
        self.pipes.keep(True)
        if self._timer is None:
            self._timer = self._call_later(TICK_SECONDS, self._tick)

    def remove(self, member: Ticking) -> None:
        self.members.pop(member, None)
        self.typing.discard(member)
        if not self.members and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._spare.clear()
            self.pipes.keep(False)

    def upstream_share(self, member: Ticking) -> int:
        """How many bytes ``member`` may read in this turn."""
        return SHARED_READ_BYTES if self.others_type(member) else UPSTREAM_READ_BYTES

    def others_type(self, member: Ticking) -> bool:
        """Whether somebody other than ``member`` waits for what their input does."""
        typing = self.typing
        return bool(typing) and (len(typing) > 1 or member not in typing)

    def lend_upstream_view(self) -> memoryview:
        """The current buffer, which now belongs to a transport that has not sent all of it; reads go to another one."""
        lent = self.upstream_view
        self.upstream_view = self._spare.pop() if self._spare else memoryview(bytearray(UPSTREAM_READ_BYTES))
        return lent

    def give_back(self, view: memoryview) -> None:
        """A lent buffer is sent. Used again, as fresh memory costs more than the copy it saves."""
        if len(self._spare) < MAX_SPARE_BUFFERS:
            self._spare.append(view)

    def _tick(self) -> None:
        self._timer = self._call_later(TICK_SECONDS, self._tick)
        self.typing.clear()
        for member in list(self.members):
            member.tick()
        for pump in list(self.pumps):
            pump.tick()


_states: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopState] = WeakKeyDictionary()


def loop_state() -> LoopState:
    """The running loop's state."""
    loop = asyncio.get_running_loop()
    state = _states.get(loop)
    if state is None:
        state = _states[loop] = LoopState(loop)
    return state
