"""Starting a maintenance job: cordon, hold and rows in one transaction. Asked twice, it is one job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction

from cloudops.core import events, runtime
from cloudops.core.actors import Actor
from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Host, Vm
from placement.maintenance import jobs, rolling, words
from placement.maintenance.errors import AlreadyInMaintenance, NoHosts, UnknownHost
from placement.maintenance.options import Choice, Mode, Options
from placement.models import Maintenance, MaintenanceHost, MaintenanceHostStatus, MaintenanceMove


def start(
    *,
    host_ids: Iterable[UUID],
    options: Options | None = None,
    reason: str = "",
    title: str = "",
    by: Actor,
    now: datetime,
) -> Maintenance:
    """Begins to empty hosts; returns at once, workers do the rest.

    The first ``hosts_at_once`` of them take no VMs from here on. The live job on exactly these hosts in the same mode
    is returned as it is. Raises :class:`AlreadyInMaintenance`, :class:`UnknownHost` and :class:`NoHosts`.
    """
    ids = list(dict.fromkeys(host_ids))
    options = options or Options()
    if not ids:
        raise NoHosts
    demand_known_choices(options)
    with transaction.atomic():
        # The lock is what makes two who ask at once find each other's job; always in the order of the keys.
        found = {
            host.pk: host for host in Host.objects.select_for_update(of=("self",)).filter(pk__in=ids).order_by("pk")
        }
        if missing := [pk for pk in ids if pk not in found]:
            raise UnknownHost(f"{words.count(len(missing), 'host')} of {len(ids)} not found.", hosts=len(missing))
        if (same := _live_job(ids, options)) is not None:
            return same
        return _create([found[pk] for pk in ids], options, reason, title, by, now)


def demand_known_choices(options: Options) -> None:
    """Raises :class:`UnknownHost` when a VM was to go to a host that is not in the inventory (any more)."""
    wanted = {choice.host_id for choice in options.choices.values() if choice.host_id is not None}
    known = set(Host.objects.filter(pk__in=wanted).values_list("pk", flat=True)) if wanted else set()
    if missing := wanted - known:
        told = sorted(map(str, missing))
        raise UnknownHost(f"{words.count(len(missing), 'chosen host')} not found.", hosts=len(told), unknown=told)


def _live_job(ids: Sequence[UUID], options: Options) -> Maintenance | None:
    rows = MaintenanceHost.objects.filter(host_id__in=ids).exclude(status=MaintenanceHostStatus.RELEASED)
    busy = list(rows.select_related("maintenance", "host"))
    if not busy:
        return None
    job = busy[0].maintenance
    whole = set(job.hosts.exclude(status=MaintenanceHostStatus.RELEASED).values_list("host_id", flat=True))
    if whole == set(ids) and job.mode == options.mode:
        return job
    raise AlreadyInMaintenance(
        f"{busy[0].host.name} is part of “{job.title}” ({job.get_status_display().lower()}), asked for by "
        f"{job.requested_by_name}.",
        maintenance=str(job.pk),
        host=busy[0].host.name,
    )


def _create(hosts: Sequence[Host], options: Options, reason: str, title: str, by: Actor, now: datetime) -> Maintenance:
    settings = runtime.current()
    job = Maintenance.objects.create(
        mode=options.mode,
        title=(title or _title(hosts, options.mode))[:200],
        reason=reason,
        across_clusters=across(options, settings),
        move_powered_off=options.move_powered_off,
        hosts_at_once=min(options.hosts_at_once or len(hosts), len(hosts)),
        host_parallel=options.host_parallel,
        requested_by_id=by.user_id,
        requested_by_name=by.name[:200],
        created_at=now,
        started_at=now,
    )
    MaintenanceHost.objects.bulk_create(
        MaintenanceHost(maintenance=job, host=host, position=index) for index, host in enumerate(hosts)
    )
    events.record(
        "maintenance.started",
        by=by,
        now=now,
        subject=job,
        reason=reason,
        severity="notice",
        data={"hosts": [host.name for host in hosts], "mode": job.mode, "hosts_at_once": job.hosts_at_once},
    )
    rows = list(job.hosts.select_related("host__endpoint"))
    begun = rolling.begin_turns(job, rows, by=by, now=now)
    add_moves(job, Vm.objects.filter(host_id__in=[row.host_id for row in begun]), options, now=now)
    _keep_choices(job, options, now=now)
    jobs.wake(job, now=now)
    return job


def _title(hosts: Sequence[Host], mode: str) -> str:
    names = ", ".join(host.name for host in hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
    return f"{'Drain' if mode == Mode.DRAIN else 'Maintenance'} of {names}"


def across(options: Options, settings: RuntimeSettings) -> bool:
    """Whether VMs may go to other clusters."""
    return settings.placement_across_clusters if options.across_clusters is None else options.across_clusters


def add_moves(job: Maintenance, vms: Iterable[Vm], options: Options, *, now: datetime) -> list[MaintenanceMove]:
    """Rows for VMs that the job has to deal with, with what was chosen for them."""
    rows = []
    for vm in vms:
        chosen = options.choice(vm.pk)
        rows.append(
            MaintenanceMove(
                maintenance=job,
                vm=vm,
                source_id=vm.host_id,
                choice=chosen.main,
                choice_host_id=chosen.host_id,
                relaxed=sorted(chosen.relaxed),
                updated_at=now,
            )
        )
    return MaintenanceMove.objects.bulk_create(rows, ignore_conflicts=True)


def _keep_choices(job: Maintenance, options: Options, *, now: datetime) -> None:
    """Choices for VMs on hosts that wait for their turn: kept as rows now, acted on when the turn comes."""
    waiting = job.hosts.filter(status=MaintenanceHostStatus.WAITING).values("host_id")
    chosen = [pk for pk, choice in options.choices.items() if choice.main != Choice.NONE or choice.relaxed]
    if chosen:
        add_moves(job, Vm.objects.filter(pk__in=chosen, host_id__in=waiting), options, now=now)
