"""Why a display went away: asked of the hypervisor, within a moment, while the browser still waits.

A VM that moves takes its display along: the console is let go once the inventory knows the new host, and comes after
it at once. Whether it moves may not be known in time; then its console does not end for good, but may come back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import HypervisorError, PowerState, Unreachable, VmNotFound
from cloudops.inventory import endpoints, signals
from cloudops.inventory.models import Vm
from cloudops.inventory.notices import ask
from consoles.attach import Attached
from consoles.lease import DATABASE_TROUBLE, keeper
from consoles.reasons import ClosedReason, moving_words
from consoles.sessions import why_gone

ASK_SECONDS: Final = 1.5
SETTLE_SECONDS: Final = 0.3
LOOK_SECONDS: Final = 1.0
LOOK_AGAIN_SECONDS: Final = 0.1
FOLLOW_SECONDS: Final = 3.5
"""For a migration that CloudOps runs: its end is seen within a second. With the answers below it fits into the relay's
patience (5 s)."""
UNKNOWN_SECONDS: Final = 2.0
"""For a VM that its host does not know any more: somebody else may have moved it."""


@dataclass(frozen=True, slots=True)
class _Whereabouts:
    """Names of hosts: where the VM is now, if elsewhere, and where it is moving to; empty when it is not. ``known``:
    the database could tell."""

    moved_to: str = ""
    moving_to: str = ""
    known: bool = True


async def why(attached: Attached) -> tuple[ClosedReason, str]:
    """VM moved, VM stopped, host lost, or else the display itself closed; with words if there are better ones."""
    where = await _follow(attached, FOLLOW_SECONDS)
    if words := _words(attached, where):
        return ClosedReason.VM_MOVED, words
    reason = ClosedReason.GUEST_CLOSED
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reason = await _ask(attached)
    except VmNotFound:
        reason = ClosedReason.VM_STOPPED
        where = await _follow(attached, UNKNOWN_SECONDS, unknown=True)
    except TimeoutError:
        reason = ClosedReason.HOST_LOST
    if reason is ClosedReason.VM_MOVED:
        # Somebody else moved it: come after it once the inventory knows, or that would let go of it a second time.
        where = await _follow(attached, UNKNOWN_SECONDS, unknown=True)
    if not where.moved_to and reason in {ClosedReason.VM_STOPPED, ClosedReason.HOST_LOST}:
        where = await _look(attached)
    if words := _words(attached, where):
        return ClosedReason.VM_MOVED, words
    return (reason if where.known or reason.resumable else ClosedReason.GUEST_CLOSED), ""


async def failed(attached: Attached, reason: ClosedReason) -> tuple[ClosedReason, str]:
    """Why a display could not be had, for which its host gave ``reason``, and words if there are better ones."""
    where = await _look(attached)
    if words := _words(attached, where):
        return ClosedReason.VM_MOVED, words
    if not where.known and reason is ClosedReason.VM_STOPPED:
        return ClosedReason.GUEST_UNREACHABLE, ""
    return reason, ""


async def overtaken(attached: Attached) -> ClosedReason:
    """Why the session is not this socket's any more, although it was just opening its display."""
    session_id = attached.session.pk
    try:
        found = await keeper().threads.run(lambda: why_gone([session_id]), timeout_seconds=LOOK_SECONDS)
    except DATABASE_TROUBLE:
        return ClosedReason.LEASE_LAPSED
    return found[session_id]


def _words(attached: Attached, where: _Whereabouts) -> str:
    host = where.moved_to or where.moving_to
    return moving_words(attached.vm.name, host) if host else ""


async def _follow(attached: Attached, seconds: float, *, unknown: bool = False) -> _Whereabouts:
    """Waits while the VM moves or may move, or with ``unknown`` in any case, until it has moved or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        where = await _look(attached)
        if where.moved_to or not (where.moving_to or unknown or not where.known) or loop.time() >= deadline:
            return where
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _ask(attached: Attached) -> ClosedReason:
    """A display goes a moment before its VM is reported as stopped: "running" is asked again. Raises VmNotFound."""
    vm = attached.vm
    for _ in range(4):
        try:
            facts = await endpoints.acall(
                attached.host.endpoint, "vm", lambda driver: driver.vm(vm.ref), timeout=ASK_SECONDS
            )
        except VmNotFound:
            raise
        except (Unreachable, Unavailable):
            return ClosedReason.HOST_LOST
        except HypervisorError:
            return ClosedReason.GUEST_CLOSED
        if facts.host_ref != attached.host.ref:
            return ClosedReason.VM_MOVED
        if facts.power_state in {PowerState.OFF, PowerState.CRASHED}:
            return ClosedReason.VM_STOPPED
        await asyncio.sleep(SETTLE_SECONDS)
    return ClosedReason.GUEST_CLOSED


async def _look(attached: Attached) -> _Whereabouts:
    """What the inventory knows, and whether CloudOps is moving the VM."""
    vm_id, host_id = attached.vm.pk, attached.host.pk

    def look() -> _Whereabouts:
        elsewhere = Vm.objects.filter(pk=vm_id).exclude(host_id=host_id).values_list("host__name", flat=True).first()
        moving = {key: name for answer in ask(signals.vms_moving, vm_ids=[vm_id]) for key, name in answer.items()}
        return _Whereabouts(elsewhere or "", moving.get(vm_id, ""))

    try:
        return await keeper().threads.run(look, timeout_seconds=LOOK_SECONDS)
    except DATABASE_TROUBLE:
        return _Whereabouts(known=False)
