"""What happens elsewhere and ends consoles: lost rights, stopped, moved and removed VMs, lost hosts.

Accounts and inventory announce it by signal, after commit. The reaper finds out by itself what a lost signal would
have told, and every connect asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from cloudops.accounts.models import Membership, Role
from cloudops.core import live
from cloudops.core.actors import Actor, system
from cloudops.inventory.models import Host
from consoles import limits, sessions
from consoles.models import ConsoleSession, ForeignConnection
from consoles.reasons import ClosedReason, moving_words


class Move(Protocol):
    """A VM that is on another host now."""

    @property
    def vm_id(self) -> UUID: ...
    @property
    def to_host_id(self) -> UUID: ...


def revoke_lost_rights(
    *,
    now: datetime,
    by: Actor | None = None,
    user_ids: Iterable[int] | None = None,
    vm_ids: Iterable[UUID] | None = None,
) -> int:
    """Ends the consoles of those who may not have them any more; returns how many. Two queries when there are none."""
    rows = ConsoleSession.objects.live().select_related("user", "vm").order_by()
    if user_ids is not None:
        rows = rows.filter(user_id__in=list(user_ids))
    if vm_ids is not None:
        rows = rows.filter(vm_id__in=list(vm_ids))
    found = list(rows)
    if not found:
        return 0
    holders = {session.user_id for session in found}
    granted = set(Membership.objects.filter(user_id__in=holders, can_console=True).values_list("user_id", "project_id"))
    lost = [session.pk for session in found if not _may(session, granted)]
    if not lost:
        return 0
    return sessions.close_many(
        sessions=ConsoleSession.objects.filter(pk__in=lost),
        reason=ClosedReason.RIGHT_REVOKED,
        by=by or system("rights"),
        now=now,
    )


def _may(session: ConsoleSession, granted: set[tuple[int, UUID]]) -> bool:
    """``rights.on_project(…, CONSOLE, …)`` for many sessions at once."""
    user = session.user
    if not user.is_active:
        return False
    if user.is_admin or (user.role == Role.OPERATOR and user.can_console):
        return True
    return session.vm.project_id is not None and (user.pk, session.vm.project_id) in granted


def note_vms_stopped(*, vm_ids: Sequence[UUID], now: datetime) -> int:
    """The VMs are off or gone: their consoles end, and so do connections from elsewhere."""
    ForeignConnection.objects.filter(vm_id__in=vm_ids).delete()
    stopped = ConsoleSession.objects.live().filter(vm_id__in=vm_ids)
    return sessions.close_many(sessions=stopped, reason=ClosedReason.VM_STOPPED, by=system("inventory"), now=now)


def note_vms_moved(*, moves: Iterable[Move], now: datetime) -> int:
    """The VMs are on other hosts: open consoles let go and come back there by themselves, taking a slot anew.

    A link that was not used yet takes its slot on the new host when it is.
    """
    target = {move.vm_id: move.to_host_id for move in moves}
    ForeignConnection.objects.filter(vm_id__in=target).exclude(host_id__in=set(target.values())).delete()
    open_now = ConsoleSession.objects.attached(now).filter(vm_id__in=target).select_related("vm")
    moved = [session for session in open_now if session.host_id != target[session.vm_id]]
    names = dict(Host.objects.filter(pk__in=set(target.values())).values_list("pk", "name")) if moved else {}
    by, count = system("inventory"), 0
    for session in moved:
        host = names.get(target[session.vm_id])
        text = moving_words(session.vm.name, host) if host else ""
        count += sessions.detach(session=session, reason=ClosedReason.VM_MOVED, by=by, now=now, text=text)
    return count


def note_hosts_lost(*, host_ids: Sequence[UUID], now: datetime) -> int:
    """The hosts' management does not answer. Guests and their displays may live on: each relay tries its own, and ends
    only the consoles whose display does not answer either. Returns how many are tried."""
    tried = ConsoleSession.objects.attached(now).filter(host_id__in=host_ids).values_list("process_id", "pk")
    count = 0
    for process_id, session_id in tried.order_by():
        if process_id is not None:
            live.send(sessions.relay_group(process_id), {"type": "relay.check", "session": str(session_id)})
            count += 1
    return count


def note_hosts_removing(*, host_ids: Sequence[UUID], now: datetime) -> int:
    """The hosts' rows are about to be deleted, in this transaction: their consoles end first."""
    held = ConsoleSession.objects.live().filter(host_id__in=host_ids)
    return sessions.close_many(sessions=held, reason=ClosedReason.HOST_LOST, by=system("inventory"), now=now)


def note_hosts_fenced(*, host_ids: Sequence[UUID], now: datetime) -> int:
    """An administrator declared the hosts dead: their consoles end, whatever a display may still answer."""
    ForeignConnection.objects.filter(host_id__in=host_ids).delete()
    held = ConsoleSession.objects.live().filter(host_id__in=host_ids)
    return sessions.close_many(sessions=held, reason=ClosedReason.HOST_LOST, by=system("inventory"), now=now)


# Receivers, connected in ``apps``


def on_rights_changed(*, user_ids: list[int], now: datetime, **_: Any) -> None:
    revoke_lost_rights(user_ids=user_ids, now=now)


def on_vm_access_changed(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    revoke_lost_rights(vm_ids=vm_ids, now=now)


def on_vm_stopped(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    note_vms_stopped(vm_ids=vm_ids, now=now)


def on_vm_moved(*, moves: Sequence[Move], now: datetime, **_: Any) -> None:
    note_vms_moved(moves=moves, now=now)


def on_host_lost(*, host_ids: list[UUID], now: datetime, **_: Any) -> None:
    note_hosts_lost(host_ids=host_ids, now=now)


def on_host_removing(*, host_ids: list[UUID], now: datetime, **_: Any) -> None:
    note_hosts_removing(host_ids=host_ids, now=now)


def on_host_fenced(*, host_ids: list[UUID], now: datetime, **_: Any) -> None:
    note_hosts_fenced(host_ids=host_ids, now=now)


def on_host_console_load(*, host_ids: list[UUID] | None, now: datetime, **_: Any) -> dict[UUID, tuple[int, int]]:
    """Consoles in use and allowed, by host."""
    usages = limits.usage_by_host(host_ids, now=now)
    return {host_id: (usage.in_use, usage.limit) for host_id, usage in usages.items()}


def on_vm_console_load(*, vm_ids: list[UUID], now: datetime, **_: Any) -> dict[UUID, int]:
    """Consoles in use, by VM."""
    return {vm_id: usage.in_use for vm_id, usage in limits.usage_by_vm(vm_ids, now=now).items() if usage.in_use}


def on_project_use(*, project_ids: list[UUID], now: datetime, **_: Any) -> dict[UUID, dict[str, int]]:
    """Consoles in use, by project."""
    return {pk: {"consoles": count} for pk, count in limits.in_use_by_project(project_ids, now=now).items()}


def on_host_use(*, host_ids: list[UUID], now: datetime, **_: Any) -> dict[str, int]:
    """How many consoles are open on hosts that somebody wants to remove."""
    return {"consoles": ConsoleSession.objects.current(now).filter(host_id__in=host_ids).count()}


def on_vm_use(*, vm_ids: list[UUID], **_: Any) -> set[UUID]:
    """The vanished VMs whose console history is still kept."""
    kept = ConsoleSession.objects.filter(vm_id__in=vm_ids).order_by().values_list("vm_id", flat=True)
    return set(kept.distinct())


def on_vm_console_changed(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    """A display connection came or went: look at who is connected now."""
    from consoles.tasks import reconcile_vms

    reconcile_vms.delay([str(vm_id) for vm_id in vm_ids])
