"""Which of a platform's connections is whose, where no address tells: one console connects to a VM at a time.

The turn is a row, as any web process may connect; within a process a lock keeps the queue off the database. Whoever
does not get it in time connects all the same: its connection is counted then, but has no name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import structlog
from django.db import IntegrityError, transaction
from django.utils import timezone

from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import (
    ConsoleConnection,
    HypervisorError,
    Kind,
    Overloaded,
    TimedOut,
    Unreachable,
)
from cloudops.inventory import endpoints
from consoles.attach import Attached
from consoles.connections import Newcomer
from consoles.lease import DATABASE_TROUBLE, LeaseKeeper
from consoles.models import ConnectTurn, OwnConnection

log = structlog.get_logger(__name__)
T = TypeVar("T")

NAMING: Final = frozenset({Kind.VSPHERE})
"""Platforms that have names of their own for connections."""
WAIT_SECONDS: Final = 6.0
HELD_SECONDS: Final = 30
"""Longer than connecting and looking can take together; a process that dies holds up its VM's names for so long."""
VISIT_SECONDS: Final = 3.0
ASK_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 0.05
LOOKS_AFTER_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


def take(*, vm_id: UUID, holder: UUID, now: datetime) -> bool:
    """True for one holder at a time."""
    until = now + timedelta(seconds=HELD_SECONDS)
    if ConnectTurn.objects.filter(vm_id=vm_id, until__lte=now).update(holder=holder, until=until):
        return True
    if ConnectTurn.objects.filter(vm_id=vm_id).exists():
        return False
    try:
        with transaction.atomic():
            ConnectTurn.objects.create(vm_id=vm_id, holder=holder, until=until)
    except IntegrityError:
        return False
    return True


def give_back(*, vm_id: UUID, holder: UUID) -> None:
    ConnectTurn.objects.filter(vm_id=vm_id, holder=holder).delete()


def note(*, attached: Attached, label: str, holder: UUID, now: datetime) -> bool:
    """Writes down what the platform calls a console's connection; False when the turn was over by then."""
    session = attached.session
    with transaction.atomic():
        turn = ConnectTurn.objects.select_for_update(no_key=True).filter(vm_id=session.vm_id, holder=holder).first()
        if turn is None or turn.until <= now:
            return False
        OwnConnection.objects.update_or_create(
            vm_id=session.vm_id,
            label=label[:255],
            defaults={"session_id": session.pk, "attachment": session.attachment, "learned_at": now},
        )
    return True


_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[UUID, asyncio.Lock]] = WeakKeyDictionary()


def _lock_of(vm_id: UUID) -> asyncio.Lock:
    locks = _locks.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    return locks.setdefault(vm_id, asyncio.Lock())


class Turn:
    """One console's turn: :meth:`begin` before the platform is asked for a display, then :meth:`learn` or else
    :meth:`end`."""

    def __init__(self, attached: Attached, lease: LeaseKeeper):
        self._attached = attached
        self._threads = lease.threads
        self._holder = uuid4()
        self._lock: asyncio.Lock | None = None
        self._asked = False
        self._before: frozenset[str] | None = None

    @staticmethod
    def is_needed(attached: Attached) -> bool:
        return attached.host.endpoint.kind in NAMING

    async def begin(self) -> None:
        """Waits for the turn, and looks who is there already. Raises :class:`Unreachable` when there is nobody to ask,
        but not for one who is only slow."""
        lock = _lock_of(self._vm_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
            self._lock = lock
            self._asked = True
            # Not cut short by the deadline: what is taken is to be known here, so that it is given back.
            while not await self._visit(self._take):  # another process has it, of which nothing here hears
                if loop.time() >= deadline:
                    raise TimeoutError("another console of this VM is just connecting")
                await asyncio.sleep(AGAIN_SECONDS)
            self._before = frozenset(one.label for one in await self._connections())
        except (TimeoutError, HypervisorError, Unavailable, *DATABASE_TROUBLE) as error:
            if isinstance(error, Unreachable) and not isinstance(error, (TimedOut, Overloaded)):
                raise
            log.info("console_connection_unnamed", vm=self._attached.vm.name, why=str(error) or type(error).__name__)

    async def learn(self, our_address: tuple[str, int] | None, is_over: Callable[[], bool]) -> None:
        """Finds the new connection and writes down its name, then ends the turn."""
        try:
            if self._before is not None:
                await self._learn(Newcomer(self._before, our_address), is_over)
        except (HypervisorError, Unavailable, *DATABASE_TROUBLE) as error:
            log.info("console_connection_unnamed", vm=self._attached.vm.name, why=str(error) or type(error).__name__)
        finally:
            await self.end()

    async def _learn(self, newcomer: Newcomer, is_over: Callable[[], bool]) -> None:
        for pause in LOOKS_AFTER_SECONDS:
            await asyncio.sleep(pause)
            label = newcomer.look(await self._connections())
            if label is not None:
                await self._visit(partial(self._note, label))
                return
            if is_over():
                return
        log.info("console_connection_unnamed", vm=self._attached.vm.name, why="nothing tells which one is new")

    async def end(self) -> None:
        """Lets the next one connect."""
        try:
            if self._asked:
                self._asked = False
                await self._visit(lambda now: give_back(vm_id=self._vm_id, holder=self._holder))
        except DATABASE_TROUBLE as error:
            log.warning("connect_turn_not_given_back", vm=self._attached.vm.name, error=str(error))
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    def _take(self, now: datetime) -> bool:
        return take(vm_id=self._vm_id, holder=self._holder, now=now)

    def _note(self, label: str, now: datetime) -> bool:
        return note(attached=self._attached, label=label, holder=self._holder, now=now)

    @property
    def _vm_id(self) -> UUID:
        return self._attached.vm.pk

    async def _connections(self) -> Sequence[ConsoleConnection]:
        vm_ref = self._attached.vm.ref
        endpoint = self._attached.host.endpoint
        return await endpoints.acall(
            endpoint, "connections", lambda driver: driver.connections(vm_ref), timeout=ASK_SECONDS
        )

    async def _visit(self, function: Callable[[datetime], T]) -> T:
        return await self._threads.run(partial(function, timezone.now()), timeout_seconds=VISIT_SECONDS)
