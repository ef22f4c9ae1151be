"""Reads what a plan stands on: the fleet, the VMs that hold room, their wishes, and what moves already.

The number of queries does not depend on how many hosts and VMs there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db.models import Q

from cloudops.core.models import Operation, RuntimeSettings
from cloudops.hypervisors.port import PowerState
from cloudops.inventory import signals
from cloudops.inventory.models import Host, Offering, Template, Vm
from cloudops.inventory.notices import ask
from placement import mirror
from placement.fleet import Fleet
from placement.maintenance.options import VmChoice
from placement.models import AffinityGroup, Claim, ClaimKind, VmMigration

ALIVE: Final = (PowerState.RUNNING, PowerState.PAUSED)
VM_FIELDS: Final = (
    "pk",
    "name",
    "host_id",
    "vcpus",
    "memory_mib",
    "power_state",
    "pinned",
    "missing_since",
    "offering_id",
    "template_id",
    "networks",
    "disks",
    "cpu_model",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan is asked for. Ids are primary keys.

    ``leaving``: hosts to be emptied. ``closed``: hosts that take nothing, with words; ``later``: hosts of the same job
    that wait for their turn, used only when nothing else is left. ``stays``: VMs that are not to be moved now.
    ``off``: VMs that are off and move nevertheless. ``homes``: VMs that go to just this host.
    """

    leaving: frozenset[UUID] = frozenset()
    closed: Mapping[UUID, str] = field(default_factory=dict)
    later: Mapping[UUID, str] = field(default_factory=dict)
    choices: Mapping[UUID, VmChoice] = field(default_factory=dict)
    tried: Mapping[UUID, frozenset[UUID]] = field(default_factory=dict)
    stays: frozenset[UUID] = frozenset()
    off: frozenset[UUID] = frozenset()
    homes: Mapping[UUID, UUID] = field(default_factory=dict)
    across_clusters: bool = True
    host_parallel: int | None = None


@dataclass(frozen=True, slots=True)
class VmGround:
    """One VM as planning sees it. ``held``: (host, vCPUs, MiB) of its claim. ``busy``: title of its operation."""

    pk: UUID
    name: str
    host_id: UUID
    vcpus: int
    memory_mib: int
    power_state: str
    pinned: bool
    missing_since: datetime | None
    offering_id: UUID | None
    template_id: UUID | None
    networks: list[str]
    disks: list[dict[str, Any]]
    cpu_model: str

    @property
    def alive(self) -> bool:
        return self.power_state in ALIVE

    @property
    def wishes(self) -> tuple[object, ...]:
        """VMs with the same wishes, on hosts of the same kind and cluster, may be on the same hosts."""
        disks = tuple(
            (one.get("kind"), one.get("datastore"), one.get("target"), one.get("removable")) for one in self.disks
        )
        return (self.offering_id, self.template_id, tuple(self.networks), disks, self.cpu_model)


@dataclass(frozen=True, slots=True)
class Running:
    """A migration that has not ended."""

    vm_id: UUID
    target_id: UUID
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class VmGroups:
    """Names of the groups of a VM, strict and soft: those that keep apart, those that keep together."""

    apart: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    soft_apart: tuple[str, ...] = ()
    soft_together: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ground:
    """Everything a problem is made from."""

    fleet: Fleet
    settings: RuntimeSettings
    hosts: Mapping[UUID, Host]
    vms: tuple[VmGround, ...]
    held: Mapping[UUID, tuple[UUID, int, int]]
    busy: Mapping[UUID, str]
    groups: Mapping[UUID, VmGroups]
    offerings: Mapping[UUID, Offering]
    templates: Mapping[UUID, Template]
    consoles: Mapping[UUID, int]
    running: tuple[Running, ...]
    rate_mib_per_second: float


def read(asked: Asked, *, residents: bool, settings: RuntimeSettings, now: datetime) -> Ground:
    """``residents``: every VM that holds room anywhere is read too, so that it can make room for others."""
    with mirror.current().up_to_date(now=now, consoles=True) as current:
        fleet = current.copy()
    hosts = {host.pk: host for host in Host.objects.select_related("endpoint", "cluster").order_by()}
    running = _running()
    vms = _vms(asked, residents, [one.vm_id for one in running])
    ids = [vm.pk for vm in vms]
    return Ground(
        fleet=fleet,
        settings=settings,
        hosts=hosts,
        vms=vms,
        held=_held(ids, everything=residents),
        busy=_busy(ids, everything=residents),
        groups=_groups(),
        offerings=_in_bulk(Offering, {vm.offering_id for vm in vms}),
        templates=_in_bulk(Template, {vm.template_id for vm in vms}),
        consoles=_consoles(ids, now) if fleet.consoles.any() else {},
        running=running,
        rate_mib_per_second=rate(settings),
    )


def _vms(asked: Asked, residents: bool, moving: Collection[UUID]) -> tuple[VmGround, ...]:
    rows = Vm.objects.order_by()
    if residents:
        rows = rows.filter(Q(power_state__in=ALIVE) | Q(pk__in=asked.off) | Q(pk__in=[*asked.homes]) | Q(pk__in=moving))
    else:
        there = Q(host_id__in=asked.leaving, power_state__in=ALIVE)
        named = Q(pk__in=[*asked.off, *asked.homes, *moving])
        rows = rows.filter(there | named | Q(pk__in=_mates(there | named), power_state__in=ALIVE))
    found = (VmGround(*row) for row in rows.values_list(*VM_FIELDS))
    return tuple(vm for vm in found if vm.missing_since is None)


def _mates(whose: Q) -> Any:
    """VMs in a group with one of these."""
    members = AffinityGroup.vms.through.objects
    groups = members.filter(vm__in=Vm.objects.filter(whose).order_by().values("pk"))
    return members.filter(affinitygroup__in=groups.values("affinitygroup")).values("vm")


def _held(vm_ids: Collection[UUID], *, everything: bool) -> dict[UUID, tuple[UUID, int, int]]:
    rows = Claim.objects.filter(kind=ClaimKind.VM).order_by()
    if not everything:
        rows = rows.filter(vm_id__in=vm_ids)
    return {vm: (host, vcpus, mib) for vm, host, vcpus, mib in rows.values_list("vm", "host", "vcpus", "memory_mib")}


def _busy(vm_ids: Collection[UUID], *, everything: bool) -> dict[UUID, str]:
    rows = Operation.objects.filter(
        status__in=[Operation.Status.PENDING, Operation.Status.RUNNING], subject_type=Vm._meta.label_lower
    )
    if not everything:
        rows = rows.filter(subject_id__in=[str(pk) for pk in vm_ids])
    return {UUID(subject): title for subject, title in rows.order_by().values_list("subject_id", "title")}


def _groups() -> dict[UUID, VmGroups]:
    """The groups of each VM that is in one."""
    rows = AffinityGroup.vms.through.objects.order_by("affinitygroup__name")
    found: dict[UUID, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    columns = ("vm_id", "affinitygroup__name", "affinitygroup__kind", "affinitygroup__strict")
    for vm, name, kind, strict in rows.values_list(*columns):
        kept = "apart" if kind == AffinityGroup.Kind.APART else "together"
        found[vm][kept if strict else f"soft_{kept}"].append(name)
    return {vm: VmGroups(**{kind: tuple(names) for kind, names in kinds.items()}) for vm, kinds in found.items()}


def _in_bulk(model: type[Any], keys: Iterable[UUID | None]) -> dict[UUID, Any]:
    rows = model.objects.filter(pk__in=[key for key in keys if key is not None])
    return {row.pk: row for row in rows.prefetch_related("host_tags", "soft_host_tags")}


def _consoles(vm_ids: Collection[UUID], now: datetime) -> dict[UUID, int]:
    found: dict[UUID, int] = {}
    for answer in ask(signals.vm_console_load, vm_ids=list(vm_ids), now=now):
        for vm, count in answer.items():
            found[vm] = found.get(vm, 0) + count
    return found


def _running() -> tuple[Running, ...]:
    rows = VmMigration.objects.filter(ended_at__isnull=True).order_by("created_at")
    return tuple(
        Running(vm, target, _seconds_left(progress))
        for vm, target, progress in rows.values_list("vm_id", "target_id", "progress")
    )


def _seconds_left(progress: Mapping[str, Any]) -> float | None:
    """None as long as nothing was measured."""
    rate_now = progress.get("rate_mib_per_second") or 0.0
    return float(progress.get("memory_remaining_mib", 0)) / rate_now if rate_now else None


LAST_MEASURED: Final = 50
USUAL_RATE: Final = 560.0
"""MiB/s of a live migration on a 10 Gbit/s line, about half of what the line carries; until something was measured."""


def rate(settings: RuntimeSettings) -> float:
    """What a migration is expected to carry: the median of the last ones, never more than the bandwidth allows."""
    ended = VmMigration.objects.filter(ended_at__isnull=False, phase=VmMigration.Phase.ENDED).order_by("-ended_at")
    rates = sorted(
        float(sent) / float(elapsed)
        for progress in ended.values_list("progress", flat=True)[:LAST_MEASURED]
        if (sent := progress.get("memory_sent_mib")) and (elapsed := progress.get("elapsed_seconds"))
    )
    usual = rates[len(rates) // 2] if rates else USUAL_RATE
    limit = settings.migration_bandwidth_mib_per_second
    return max(1.0, min(usual, float(limit)) if limit else usual)
