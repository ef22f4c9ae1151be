"""The way from a session to its VM's display: asked for now and not earlier, as a ticket is good for a moment only."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog
from django.utils import timezone

from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import ConsoleEndpoint, ConsoleLimitReached, HypervisorError
from cloudops.inventory import endpoints
from consoles import reconcile
from consoles.attach import Attached
from consoles.dbthreads import DbThreads
from consoles.lease import DATABASE_TROUBLE, LeaseKeeper
from consoles.relay import Upstream, open_upstream
from consoles.relay.errors import UpstreamTicketRefused
from consoles.sockets import Socket
from consoles.turns import Turn

log = structlog.get_logger(__name__)

UPSTREAM_SECONDS: Final = 10.0
ROOM_SECONDS: Final = 6.0
AGAIN_AFTER_SECONDS: Final = (0.2, 0.6)
"""When the platform says that a VM has no room, but we have a slot: what was just closed takes it a moment to see."""
_threads = DbThreads("console-room", size=2)


async def open_display(socket: Socket, lease: LeaseKeeper) -> Upstream:
    """Gets the VM's display and connects to it; whoever gets it closes it.

    Raises :class:`UpstreamError`, :class:`HypervisorError`, :class:`Unavailable`.
    """
    turn = Turn(socket.attached, lease) if Turn.is_needed(socket.attached) else None
    if turn is None:
        return await _connect(socket)
    try:
        await turn.begin()
        upstream = await _connect(socket)
    except BaseException:
        lease.in_background(turn.end())
        raise
    lease.in_background(turn.learn(upstream.local_address, lambda: socket.console.outcome is not None))
    return upstream


async def _connect(socket: Socket) -> Upstream:
    """A ticket that came too late for its host is replaced once."""
    try:
        return await _connect_once(socket)
    except UpstreamTicketRefused as error:
        log.warning("console_ticket_refused", session=str(socket.session_id), error=str(error))
    return await _connect_once(socket)


async def _connect_once(socket: Socket) -> Upstream:
    attached = socket.attached
    socket.endpoint = endpoints.reachable(await _find(attached), attached.host)
    return await open_upstream(socket.endpoint, UPSTREAM_SECONDS)


async def _find(attached: Attached) -> ConsoleEndpoint:
    vm_ref = attached.vm.ref
    for pause in AGAIN_AFTER_SECONDS:
        try:
            return await _ask(attached, vm_ref)
        except ConsoleLimitReached as error:
            log.info("console_platform_limit", vm=attached.vm.name, limit=error.numbers.get("limit"))
            await _make_room(attached)
            await asyncio.sleep(pause)
    return await _ask(attached, vm_ref)


async def _ask(attached: Attached, vm_ref: str) -> ConsoleEndpoint:
    return await endpoints.acall(attached.host.endpoint, "console", lambda driver: driver.console(vm_ref))


async def _make_room(attached: Attached) -> None:
    """Drops what is left of consoles that are over, and learns who else is there."""
    visit = partial(
        reconcile.reconcile_vms,
        endpoint=attached.host.endpoint,
        vms=[attached.vm],
        now=timezone.now(),
        besides=attached.session.pk,
        grace_seconds=0.0,
    )
    try:
        await _threads.run(visit, timeout_seconds=ROOM_SECONDS)
    except (HypervisorError, Unavailable, *DATABASE_TROUBLE) as error:
        log.warning("console_room_unknown", vm=attached.vm.name, error=str(error) or type(error).__name__)
