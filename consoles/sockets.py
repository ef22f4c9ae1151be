"""One browser's socket and the session that it carries: between the relay, which knows bytes, and the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from django.utils import timezone

from cloudops.core.models import RuntimeSettings
from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.attach import Attached, actor_of_session
from consoles.limits import Usage
from consoles.reasons import ClosedReason
from consoles.relay import ConsoleHooks, ConsolePolicy, Outcome, RelayedConsole
from consoles.sessions import Traffic

BYTES_EVERY_SECONDS: Final = 15.0
CHECK_SECONDS: Final = 3.0


class Keeper(Protocol):
    """What a socket needs of the lease keeper."""

    def let_go(self, socket: Socket, reason: ClosedReason) -> None: ...


class Socket(ConsoleHooks):
    """The relay's hooks, and the lease keeper's handle. Belongs to the event loop."""

    def __init__(
        self,
        attached: Attached,
        keeper: Keeper,
        *,
        why_lost: Callable[[Attached], Awaitable[tuple[ClosedReason, str]]],
        now: datetime,
    ):
        session = attached.session
        self.attached = attached
        self.session_id = session.pk
        self.attachment = session.attachment
        self.host_id = attached.host.pk
        self.actor = actor_of_session(session)
        self.endpoint: ConsoleEndpoint | None = None
        self._keeper = keeper
        self._settings = attached.settings
        self._why_lost = why_lost
        self._usage = attached.usage
        self._before = session.duration_seconds(now)
        self._bytes_before = (session.bytes_to_browser, session.bytes_from_browser)
        self._first = session.last_input_at is None
        idle = (now - session.last_input_at).total_seconds() if session.last_input_at else 0.0
        self.console = RelayedConsole(str(session.pk), self._policy(attached.settings), self, idle_seconds=idle)
        self._written_input = self.console.last_input_at
        self._written_bytes = (0, 0)
        self._bytes_written_at = self.console.started_at
        self._offered: tuple[float, tuple[int, int]] | None = None

    def _policy(self, settings: RuntimeSettings) -> ConsolePolicy:
        longest = settings.console_max_seconds
        return ConsolePolicy(
            view_only=self.attached.session.view_only,
            idle_warning_seconds=settings.console_idle_warning_seconds,
            idle_disconnect_seconds=settings.console_idle_disconnect_seconds,
            max_seconds=max(0.0, longest - self._before) if longest else None,
        )

    # The relay's hooks

    def started(self, console: RelayedConsole) -> None:
        console.send_control(self.hello())

    def hello(self) -> dict[str, Any]:
        """The first control message: what the page needs to know of its console."""
        settings = self.attached.settings
        return {
            "type": "hello",
            "session": str(self.session_id),
            "vm": self.attached.vm.name,
            "host": self.attached.host.name,
            "slot": {"in_use": self._usage.in_use, "limit": self._usage.limit},
            "view_only": self.attached.session.view_only,
            "resume": self.attached.resume_secret,
            "idle_warning_seconds": settings.console_idle_warning_seconds,
            "idle_disconnect_seconds": settings.console_idle_disconnect_seconds,
            "max_seconds": settings.console_max_seconds or None,
        }

    def ended(self, console: RelayedConsole, outcome: Outcome) -> None:
        self._keeper.let_go(self, outcome.reason)

    async def upstream_lost(self, console: RelayedConsole) -> tuple[ClosedReason, str]:
        return await self._why_lost(self.attached)

    # For the lease keeper

    def close(self, reason: ClosedReason, text: str = "") -> None:
        """``text``: words for the page, if there are better ones than the reason's own."""
        self.console.close(reason, text)

    def send_control(self, message: dict[str, Any]) -> None:
        self.console.send_control(message)

    def apply_settings(self, settings: RuntimeSettings) -> None:
        """Limits that were changed while the console is open act on it too."""
        self._settings = settings
        policy = self._policy(settings)
        if policy != self.console.policy:
            self.console.policy = policy

    def tell_slots(self, usage: Usage) -> None:
        if (usage.in_use, usage.limit) != (self._usage.in_use, self._usage.limit):
            self._usage = usage
            self.console.send_control({"type": "slots", "in_use": usage.in_use, "limit": usage.limit})

    def traffic(self) -> Traffic:
        """Everything of this session so far. No input time as long as nobody touched a key on its first socket."""
        console = self.console
        touched = timezone.now() - timedelta(seconds=console.idle_seconds)
        down, up = self._bytes_before
        moved = console.last_input_at != self._written_input or self._first
        return Traffic(touched if moved else None, down + console.bytes_down, up + console.bytes_up)

    def unwritten_traffic(self) -> Traffic | None:
        """What the database should know and does not yet: input at once, mere bytes now and then."""
        console = self.console
        moved = (console.bytes_down, console.bytes_up)
        typed = console.last_input_at != self._written_input
        late = console.duration_seconds - (self._bytes_written_at - console.started_at) >= BYTES_EVERY_SECONDS
        if not typed and not (late and moved != self._written_bytes):
            return None
        self._offered = (console.last_input_at, moved)
        return self.traffic()

    def note_written(self) -> None:
        """The last offered traffic is in the database."""
        if self._offered is not None:
            self._written_input, self._written_bytes = self._offered
            self._bytes_written_at = self.console.started_at + self.console.duration_seconds
            self._offered = None

    def was_idle_until_now(self) -> bool:
        """Whether input just ended a time long enough to be shown as idle."""
        console = self.console
        quiet = console.last_input_at - self._written_input
        return quiet >= self._settings.console_idle_warning_seconds

    async def check_display(self) -> None:
        """The VM's host seems lost: the console ends unless the display's machine still takes connections. A VM that
        is leaving such a host takes its display along."""
        where = _address(self.endpoint)
        if where is None:
            return
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                _, writer = await asyncio.open_connection(*where)
        except (OSError, TimeoutError):
            reason, text = await self._why_lost(self.attached)
            self.console.close(reason, text)
            return
        writer.close()


def _address(endpoint: ConsoleEndpoint | None) -> tuple[str, int] | None:
    """Where a display listens; None for a passed descriptor, which lives on this machine."""
    if endpoint is None or endpoint.transport is Transport.FD:
        return None
    if endpoint.transport is Transport.WSS:
        parts = urlsplit(endpoint.url)
        return (parts.hostname or "", parts.port or 443)
    return (endpoint.host, endpoint.port)
