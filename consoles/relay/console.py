"""One relayed console: its policy, clocks, counters and every way it can end. Knows no transport, only links."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consoles.reasons import ClosedReason
from consoles.relay.links import BrowserLink, UpstreamLink
from consoles.relay.rfb_input import GREETING, RfbInput, RfbViolation
from consoles.relay.runtime import LoopState, loop_state

log = logging.getLogger("consoles.relay")

PING_SECONDS: Final = 10.0
# Two pings are out by then; with the ticker's second a dead browser is known within 30 s.
SILENT_SECONDS: Final = 25.0
# How long a VNC server may refuse to take input before the console is given up.
UPSTREAM_STUCK_SECONDS: Final = 30.0
UPSTREAM_LOST_SECONDS: Final = 5.0
MAX_CONTROL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class ConsolePolicy:
    """What one console may do and for how long. ``None`` means without limit."""

    view_only: bool = False
    idle_warning_seconds: float | None = None
    idle_disconnect_seconds: float | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a console ended. ``detail`` is for logs; the reason's text is for people."""

    reason: ClosedReason
    detail: str
    bytes_up: int
    bytes_down: int
    idle_seconds: float
    duration_seconds: float


class ConsoleHooks:
    """What the domain wants to know. Synchronous hooks run on the loop and must not block; errors are logged."""

    def started(self, console: RelayedConsole) -> None:
        """The browser was accepted; bytes flow from now on."""

    def ended(self, console: RelayedConsole, outcome: Outcome) -> None:
        """Exactly once: the VNC socket is closed, the browser's is about to be. The slot can be given back now."""

    async def upstream_lost(self, console: RelayedConsole) -> tuple[ClosedReason, str]:
        """Why the VNC side went away, and words for the page (empty: the reason's own). The browser stays open
        meanwhile, for at most 5 s."""
        return ClosedReason.GUEST_CLOSED, ""

    def control(self, console: RelayedConsole, message: dict[str, Any]) -> None:
        """A control message the relay does not handle itself."""


class RelayedConsole:
    """A console from its authorisation to its end. All methods belong to the event loop.

    ``clock`` is monotonic, in seconds. ``idle_seconds`` is what a resumed session was already idle.
    """

    __slots__ = (
        "__weakref__",
        "_browser",
        "_clock",
        "_heard_at",
        "_hooks",
        "_lost_task",
        "_pinged_at",
        "_rfb",
        "_state",
        "_stuck_since",
        "_upstream",
        "_warned",
        "bytes_down",
        "bytes_up",
        "has_control",
        "id",
        "last_input_at",
        "local_address",
        "outcome",
        "policy",
        "started_at",
    )

    def __init__(
        self,
        console_id: str,
        policy: ConsolePolicy,
        hooks: ConsoleHooks | None = None,
        *,
        idle_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.id = console_id
        self.policy = policy
        self.has_control = False
        self.local_address: tuple[str, int] | None = None
        self.outcome: Outcome | None = None
        self.bytes_up = 0
        self.bytes_down = 0
        now = clock()
        self.started_at = now
        self.last_input_at = now - idle_seconds
        self._clock = clock
        self._hooks = hooks or ConsoleHooks()
        self._browser: BrowserLink | None = None
        self._upstream: UpstreamLink | None = None
        self._rfb = RfbInput(view_only=policy.view_only)
        self._state: LoopState | None = None
        self._lost_task: asyncio.Task[None] | None = None
        self._heard_at = self._pinged_at = now
        self._stuck_since: float | None = None
        self._warned = False

    # For the domain

    @property
    def idle_seconds(self) -> float:
        """Since the last key, click, pointer movement, clipboard text or "stay connected"."""
        return max(0.0, self._clock() - self.last_input_at)

    @property
    def duration_seconds(self) -> float:
        return max(0.0, self._clock() - self.started_at)

    def close(self, reason: ClosedReason, text: str = "") -> None:
        """Ends the console: closes the VNC socket, tells the browser. Does nothing when it has ended already."""
        self._end(reason, text or reason.text, text=text)

    def send_control(self, message: Mapping[str, Any]) -> bool:
        """A control message to the page; False when the page has no control protocol, does not take its data, or is
        gone. Raises :class:`ValueError` above 4 KiB."""
        if self._browser is None or self.outcome is not None or not self.has_control:
            return False
        text = json.dumps(message, separators=(",", ":"))
        if len(text) > MAX_CONTROL_BYTES:
            raise ValueError(f"A control message has {len(text)} bytes; at most {MAX_CONTROL_BYTES} fit.")
        return self._browser.send_text(text)

    # For serve_console

    def start(self, browser: BrowserLink, upstream: UpstreamLink, *, has_control: bool) -> None:
        """Both links are open; the browser was accepted."""
        self._browser, self._upstream = browser, upstream
        self.has_control = has_control
        now = self._clock()
        self._heard_at = self._pinged_at = now
        self._state = loop_state()
        self._state.add(self)
        self._call_hook(self._hooks.started, self)
        if self.outcome is None:
            browser.send_data(GREETING)

    def never_started(self, reason: ClosedReason, detail: str) -> None:
        """The browser went away, or the console was closed, before it was accepted."""
        self._end(reason, detail)

    # Events of the browser's link

    def browser_data(self, data: bytes) -> None:
        """Payload of binary frames, a few KiB at most."""
        if self.outcome is not None or self._browser is None or self._upstream is None:
            return
        self._heard_at = now = self._clock()
        rfb = self._rfb
        rfb.view_only = self.policy.view_only
        try:
            forward = rfb.feed(data)
        except RfbViolation as error:
            self._end(ClosedReason.PROTOCOL_ERROR, str(error), text=str(error))
            return
        if rfb.input_seen:
            rfb.input_seen = False
            self._active(now)
        if rfb.replies:
            for reply in rfb.replies:
                self._browser.send_data(reply)
            rfb.replies.clear()
        if forward:
            self.bytes_up += len(forward)
            self._upstream.write(forward)

    def browser_text(self, data: str) -> None:
        """A control message of the page."""
        if self.outcome is not None:
            return
        self._heard_at = self._clock()
        try:
            message = json.loads(data) if self.has_control and len(data) <= MAX_CONTROL_BYTES else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._end(ClosedReason.PROTOCOL_ERROR, "The browser sent a text message that is no control message.")
            return
        match message.get("type"):
            case "ping":
                self._pong(message.get("t"))
            case "stay":
                self._active(self._heard_at)
            case "bye":
                self._end(ClosedReason.USER_CLOSED, "the page said bye")
            case _:
                self._call_hook(self._hooks.control, self, message)

    def browser_heard(self) -> None:
        """A sign of life without content: a pong, or the browser took buffered data."""
        self._heard_at = self._clock()

    def browser_gone(self, close_code: int | None) -> None:
        """The browser closed with this code, or its line was lost (None)."""
        if close_code in (1000, 1001):
            reason = ClosedReason.USER_CLOSED
        elif close_code == 1012:  # what a stopping ASGI server reports on the plain path
            reason = ClosedReason.SERVER_STOPPING
        else:
            reason = ClosedReason.LINE_LOST
        detail = "connection lost" if close_code is None else f"closed with code {close_code}"
        self._end(reason, detail)

    def browser_violation(self, ws_code: int, detail: str) -> None:
        """The browser broke the WebSocket protocol."""
        self._end(ClosedReason.PROTOCOL_ERROR, detail, text=detail, ws_code=ws_code)

    def browser_full(self) -> None:
        """The browser takes no more: stop reading the VNC server."""
        if self._upstream is not None:
            self._upstream.hold_reading()

    def browser_drained(self) -> None:
        self.browser_heard()
        if self._upstream is not None:
            self._upstream.release_reading()

    # Events of the VNC server's link

    def upstream_full(self) -> None:
        """The VNC server takes no more: stop reading the browser."""
        self._stuck_since = self._clock()
        if self._browser is not None:
            self._browser.hold_reading()

    def upstream_drained(self) -> None:
        self._stuck_since = None
        self._heard_at = self._clock()  # the browser could not be heard meanwhile
        if self._browser is not None:
            self._browser.release_reading()

    def upstream_gone(self, detail: str) -> None:
        """The VNC side ended; asks the domain why, then closes."""
        if self.outcome is None and self._lost_task is None:
            self.upstream_drained()  # what the browser sends now goes nowhere, but its close must be heard
            self._lost_task = asyncio.get_running_loop().create_task(self._ask_why(detail))

    async def _ask_why(self, detail: str) -> None:
        reason, text = ClosedReason.GUEST_CLOSED, ""
        try:
            async with asyncio.timeout(UPSTREAM_LOST_SECONDS):
                reason, text = await self._hooks.upstream_lost(self)
        except TimeoutError:
            log.warning("console %s: nobody could tell in time why its display went away", self.id)
        except Exception:
            log.exception("console %s: upstream_lost failed", self.id)
        self._lost_task = None
        self._end(reason, detail, text=text)

    # Time

    def tick(self) -> None:
        """Once a second: limits, warnings, signs of life."""
        if self.outcome is not None or self._browser is None:
            return
        now = self._clock()
        policy = self.policy
        if policy.max_seconds is not None and now - self.started_at >= policy.max_seconds:
            self.close(ClosedReason.MAX_DURATION)
            return
        idle = now - self.last_input_at
        if policy.idle_disconnect_seconds is not None and idle >= policy.idle_disconnect_seconds:
            self.close(ClosedReason.IDLE)
            return
        if policy.idle_warning_seconds is not None and idle >= policy.idle_warning_seconds:
            self._warn(idle)
        self._check_life(now)

    def _warn(self, idle: float) -> None:
        self._warned = True
        limit = self.policy.idle_disconnect_seconds
        left = None if limit is None else math.ceil(limit - idle)
        self.send_control({"type": "idle", "idle_seconds": int(idle), "disconnect_in_seconds": left})

    def _check_life(self, now: float) -> None:
        if self._stuck_since is not None:
            if now - self._stuck_since >= UPSTREAM_STUCK_SECONDS:
                self.close(ClosedReason.GUEST_UNREACHABLE)
            return
        if self._browser is None or not self._browser.can_ping:
            return
        silence = now - self._heard_at
        if silence >= SILENT_SECONDS:
            self.close(ClosedReason.BROWSER_SILENT)
        elif silence >= PING_SECONDS and now - self._pinged_at >= PING_SECONDS:
            self._pinged_at = now
            self._browser.ping()

    def _active(self, now: float) -> None:
        self.last_input_at = now
        if self._state is not None:
            self._state.typing.add(self)
        if self._warned:
            self._warned = False
            self.send_control({"type": "active"})

    def _pong(self, echo: object) -> None:
        if isinstance(echo, int | float) and math.isfinite(echo):
            self.send_control({"type": "pong", "t": echo})

    # The end

    def _end(self, reason: ClosedReason, detail: str, *, text: str = "", ws_code: int | None = None) -> None:
        if self.outcome is not None:
            return
        self.outcome = Outcome(reason, detail, self.bytes_up, self.bytes_down, self.idle_seconds, self.duration_seconds)
        if self._state is not None:
            self._state.remove(self)
        if self._lost_task is not None:
            self._lost_task.cancel()
            self._lost_task = None
        if self._upstream is not None:
            self._upstream.close()
        if self._browser is not None:
            self._browser.close(reason.ws_code if ws_code is None else ws_code, text or reason.text)
        self._call_hook(self._hooks.ended, self, self.outcome)

    def _call_hook(self, hook: Callable[..., None], *args: object) -> None:
        try:
            hook(*args)
        except Exception:
            log.exception("console %s: a hook failed", self.id)
