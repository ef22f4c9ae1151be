"""Fencing: an administrator declares an unreachable host dead. Nothing is restarted elsewhere by it.

Its consoles end, its VMs are shown as unknown and keep their room, nothing is placed on it. A host that comes back
stays fenced until an administrator takes that back.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.hypervisors.port import PowerState
from cloudops.inventory import signals
from cloudops.inventory.models import Connection, Host, Vm
from cloudops.inventory.notices import after_commit
from placement import capacity
from placement.models import Hold, HostCapacity, MaintenanceHost, MaintenanceHostStatus


class HostAnswers(Conflict):
    code = "host-answers"
    title = "The host is not unreachable."
    remedy = "A host that answers is put into maintenance instead; fence only one that is dead."


class NotFenced(Conflict):
    code = "host-not-fenced"
    title = "The host is not fenced."
    remedy = "There is nothing to take back."


WORDS = (
    "Fence a host only when it is certainly off: switched off at its power supply, or cut from storage and network. "
    "Its consoles end, its VMs are shown as unknown, and nothing is placed on it until it is unfenced."
)


def fence(host: Host, *, by: Actor, now: datetime, reason: str) -> None:
    """Declares the host dead. Doing it twice is harmless. Raises :class:`HostAnswers` unless it is unreachable."""
    with transaction.atomic():
        row = Host.objects.select_for_update(of=("self",)).get(pk=host.pk)
        if row.connection != Connection.UNREACHABLE:
            raise HostAnswers(f"{row.name} is {row.get_connection_display().lower()}.", connection=row.connection)
        if is_fenced(row):
            return
        capacity.set_hold(row.pk, Hold.FENCED, now=now)
        Vm.objects.filter(host=row).exclude(power_state=PowerState.UNKNOWN).update(power_state=PowerState.UNKNOWN)
        vms = Vm.objects.filter(host=row).count()
        events.record("host.fenced", by=by, now=now, subject=row, reason=reason, severity="warning", data={"vms": vms})
        live.publish("hosts", "vms", f"host:{row.pk}")
        after_commit(signals.host_fenced, host_ids=[row.pk], now=now)


def unfence(host: Host, *, by: Actor, now: datetime, reason: str = "") -> None:
    """The host may be used again once it answers; a maintenance job that has it goes on holding it.

    Raises :class:`NotFenced`.
    """
    with transaction.atomic():
        row = Host.objects.select_for_update(of=("self",)).get(pk=host.pk)
        if not is_fenced(row):
            raise NotFenced(f"{row.name} is not fenced.")
        capacity.set_hold(row.pk, _hold_of_job(row), now=now)
        events.record("host.unfenced", by=by, now=now, subject=row, reason=reason, severity="notice")
        live.publish("hosts", f"host:{row.pk}")


def is_fenced(host: Host) -> bool:
    """Whether an administrator declared it dead."""
    return HostCapacity.objects.filter(pk=host.pk, hold=Hold.FENCED).exists()


def _hold_of_job(host: Host) -> str:
    status = (
        MaintenanceHost.objects.filter(host=host)
        .exclude(status__in=[MaintenanceHostStatus.RELEASED, MaintenanceHostStatus.WAITING])
        .values_list("status", flat=True)
        .first()
    )
    if status is None:
        return Hold.NONE
    return Hold.MAINTENANCE if status == MaintenanceHostStatus.HELD else Hold.DRAINING
