"""The lease by which this web process holds its consoles: renewed every few seconds, never outlived by a socket.

One visit to the database per renewal moves the lease on, tells which consoles are no longer ours, and writes down when
people typed. If renewals fail, every socket is closed before the lease can lapse, as its slot is then free for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

import structlog
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from cloudops import __version__
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from cloudops.managers.processes import LEASE_SECONDS, RENEW_SECONDS, SKEW_SECONDS
from consoles import renewal, sessions
from consoles.dbthreads import DbThreads
from consoles.reasons import ClosedReason
from consoles.renewal import Gone, Renewed
from consoles.sockets import Socket

log = structlog.get_logger(__name__)

VISIT_SECONDS: Final = 4.0
RETRY_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 3.0
FINISH_TRIES_SECONDS: Final = 2 * LEASE_SECONDS
STOP_SECONDS: Final = 5.0
LISTEN_AGAIN_SECONDS: Final = 1.0
SOCKET_THREADS: Final = 8
DATABASE_TROUBLE = (DatabaseError, InterfaceError, TimeoutError)


class LeaseKeeper:
    """One per event loop. Everything here belongs to that loop, except what :mod:`renewal` does in a thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.threads = DbThreads("console-db", size=SOCKET_THREADS)
        self.sockets: dict[UUID, Socket] = {}
        self.process: ServerProcess | None = None
        self._own_thread = DbThreads("console-lease", size=1)
        self._clock = clock
        self._held_until = 0.0
        self._fence: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._strays: dict[UUID, int] = {}
        self._draining = False
        self._stopping = False

    # For the gateway

    def taking(self) -> UUID | None:
        """The process under which a console may be taken now; None when this process takes none."""
        if self.process is None or self._draining or self._stopping or self._clock() >= self._held_until:
            return None
        return self.process.pk

    def hold(self, socket: Socket) -> None:
        """From now on ``socket`` is this session's; an earlier one of it is closed."""
        earlier = self.sockets.get(socket.session_id)
        self.sockets[socket.session_id] = socket
        if earlier is not None:
            earlier.close(ClosedReason.TAKEN_OVER)

    def let_go(self, socket: Socket, reason: ClosedReason) -> None:
        """The socket has ended: its slot goes back, now or as soon as the database answers."""
        if self.sockets.get(socket.session_id) is socket:
            del self.sockets[socket.session_id]
        traffic, by, ended_at = socket.traffic(), socket.actor, timezone.now()

        def finish() -> bool:
            return sessions.finish(
                session_id=socket.session_id,
                attachment=socket.attachment,
                reason=reason,
                traffic=traffic,
                by=by,
                now=ended_at,
            )

        self.in_background(self._until_done(finish, socket.session_id))

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs ``work`` as a task that :meth:`stop` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _until_done(self, finish: Callable[[], bool], session_id: UUID) -> None:
        give_up, pause = self._clock() + FINISH_TRIES_SECONDS, 0.1
        while True:
            try:
                await self.threads.run(finish, timeout_seconds=FINISH_SECONDS)
                return
            except DATABASE_TROUBLE as error:
                if self._clock() >= give_up:  # the lease has ended by now, and with it the slot
                    log.warning("console_end_not_recorded", session=str(session_id), error=str(error))
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS)

    # Life

    async def start(self) -> None:
        """Registers this process and keeps its lease. Also without a database: it is tried again until there is one."""
        if self._tasks:
            return
        self._stopping = False
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep()))
        with contextlib.suppress(*DATABASE_TROUBLE):
            await self.beat()

    async def stop(self) -> None:
        """Closes every console as resumable elsewhere, gives the slots back and ends the lease."""
        self._stopping = True
        for task in [*self._tasks, *([self._listening] if self._listening else [])]:
            task.cancel()
        self._close_all(ClosedReason.SERVER_STOPPING)
        if self._background:
            await asyncio.wait(set(self._background), timeout=STOP_SECONDS)
        if self._fence is not None:
            self._fence.cancel()
        process, self.process = self.process, None
        if process is not None:
            now = timezone.now()
            with contextlib.suppress(*DATABASE_TROUBLE):
                await self._own_thread.run(
                    lambda: processes.stop(process=process, now=now), timeout_seconds=VISIT_SECONDS
                )
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _keep(self) -> None:
        pause = RENEW_SECONDS if self.process is not None else RETRY_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = RETRY_SECONDS
            try:
                await self.beat()
            except DATABASE_TROUBLE as error:
                log.warning("lease_not_renewed", error=str(error) or type(error).__name__)
            except Exception:
                log.exception("lease_renewal_failed")
            else:
                pause = RENEW_SECONDS if self.process is not None else 0.0

    async def beat(self) -> None:
        """One renewal, or the registration when there is no lease. Raises what the database raises."""
        asked_at, now = self._clock(), timezone.now()
        if self.process is None:
            self.process = await self._own_thread.run(
                lambda: processes.register(
                    role=ServerProcess.Role.WEB,
                    server_name=settings.SERVER_NAME,
                    pid=os.getpid(),
                    version=__version__,
                    now=now,
                ),
                timeout_seconds=VISIT_SECONDS,
            )
            self._extend(asked_at)
            self._listen_anew(self.process.pk)
            return
        process, held = self.process, dict(self.sockets)
        report = renewal.report_of(held.values(), now)
        renewed = await self._own_thread.run(
            lambda: renewal.renew(process=process, report=report, now=now), timeout_seconds=VISIT_SECONDS
        )
        if self.process is not process:
            return  # the lease was given up while this renewal was under way
        if renewed is None:
            self._give_up()
            return
        self._extend(asked_at)
        self._apply(renewed, held)

    def _extend(self, asked_at: float) -> None:
        """The lease runs from when it was asked for; sockets are closed early enough for any clock's error."""
        self._held_until = asked_at + LEASE_SECONDS - SKEW_SECONDS
        if self._fence is not None:
            self._fence.cancel()
        wait = max(0.0, self._held_until - self._clock())
        self._fence = asyncio.get_running_loop().call_later(wait, self._give_up)

    def _give_up(self) -> None:
        """The lease is about to lapse, or has: nothing may be held under it any more. The next beat registers anew."""
        log.warning("lease_lapsed", consoles=len(self.sockets))
        self.process = None
        self._strays.clear()
        if self._fence is not None:
            self._fence.cancel()
            self._fence = None
        self._close_all(ClosedReason.LEASE_LAPSED)

    def _close_all(self, reason: ClosedReason) -> None:
        for socket in list(self.sockets.values()):
            socket.close(reason)

    def _apply(self, renewed: Renewed, held: dict[UUID, Socket]) -> None:
        self._draining = renewed.draining
        for gone in renewed.gone:
            self._close(gone)
        for socket in held.values():
            socket.note_written()
            socket.apply_settings(renewed.settings)
            if (usage := renewed.usages.get(socket.host_id)) is not None:
                socket.tell_slots(usage)
        self._end_strays(renewed.mine)

    def _close(self, gone: Gone) -> None:
        socket = self.sockets.get(gone.session_id)
        if socket is not None and socket.attachment == gone.attachment:
            socket.close(gone.reason)

    def _end_strays(self, mine: dict[UUID, int]) -> None:
        """Sessions that the database gives us and that have no socket here twice in a row: their socket failed."""
        strays = {pk: number for pk, number in mine.items() if pk not in self.sockets}
        for session_id, attachment in strays.items():
            if self._strays.get(session_id) == attachment:
                log.warning("console_without_socket", session=str(session_id))
                finish = renewal.end_stray(session_id, attachment, timezone.now())
                self.in_background(self._until_done(finish, session_id))
        self._strays = strays

    # What others tell

    def _listen_anew(self, process_id: UUID) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._listening = asyncio.get_running_loop().create_task(self._listen(sessions.relay_group(process_id)))

    async def _listen(self, group: str) -> None:
        """Hears at once what the next renewal would tell. Without Redis it tries again; nothing depends on it."""
        layer = get_channel_layer()
        while layer is not None:
            try:
                channel = await layer.new_channel("relay.")
                await layer.group_add(group, channel)
                while True:
                    self._hear(await layer.receive(channel))
            except Exception as error:
                log.warning("relay_messages_unavailable", error=str(error) or type(error).__name__)
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    def _hear(self, message: dict[str, Any]) -> None:
        try:
            socket = self.sockets.get(UUID(message["session"]))
            if socket is None:
                return
            match message["type"]:
                case "relay.close" if message["attachment"] == socket.attachment:
                    socket.close(ClosedReason(message["reason"]), message.get("text", ""))
                case "relay.control":
                    socket.send_control(message["message"])
                case "relay.check":
                    self.in_background(socket.check_display())
        except (KeyError, ValueError):
            log.warning("relay_message_unknown", type=message.get("type"))


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, LeaseKeeper] = WeakKeyDictionary()


def keeper() -> LeaseKeeper:
    """The running loop's keeper; one per web process."""
    loop = asyncio.get_running_loop()
    found = _keepers.get(loop)
    if found is None:
        found = _keepers[loop] = LeaseKeeper()
    return found
