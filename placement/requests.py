"""From rows to a specification: what a VM, or a VM that there is not yet, asks of placement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import prefetch_related_objects

from cloudops.core import runtime
from cloudops.core.models import RuntimeSettings
from cloudops.hypervisors.port import PowerState
from cloudops.inventory import signals
from cloudops.inventory.models import Cluster, Offering, Template, Vm
from cloudops.inventory.notices import ask
from placement.models import AffinityGroup, Claim
from placement.spec import Purpose, Spec

AMONG = 8
"""So many hosts that are as good as the best take turns."""
MOVES = (Purpose.MIGRATE, Purpose.DRAIN)
AT_REST = (PowerState.OFF, PowerState.CRASHED)


def spec_for(vm: Vm, *, purpose: Purpose, **wanted: Any) -> Spec:
    """What this VM needs: :func:`specs_for` of one."""
    return specs_for([vm], purpose=purpose, **wanted)[vm.pk]


def specs_for(
    vms: Sequence[Vm],
    *,
    purpose: Purpose,
    settings: RuntimeSettings | None = None,
    across_clusters: bool | None = None,
    only_hosts: Iterable[UUID | str] | None = None,
    exclude_hosts: Mapping[UUID | str, str] | Mapping[str, str] | None = None,
    out_of_reach: Mapping[UUID, Mapping[str, str]] | None = None,
    drop_soft_tags: bool = False,
    copy_storage: bool = False,
    allocator: str | None = None,
    weights: Mapping[str, float] | None = None,
    groups: bool = True,
    offering_tags: bool = True,
    now: datetime | None = None,
) -> dict[UUID, Spec]:
    """What these VMs need, each by itself. They are best read with host, endpoint, offering and template joined.

    ``across_clusters`` None follows the settings. ``only_hosts`` overrides a pin; ``out_of_reach`` is ``exclude_hosts``
    by VM. With ``now`` the VMs' open consoles are counted too. ``groups`` off leaves their affinity groups aside,
    ``offering_tags`` off what their offerings ask of hosts. The number of queries does not depend on the number of
    VMs, hosts, tags or group members.
    """
    settings = settings or runtime.current()
    tags, mates, consoles = _Tags(vms, offerings=offering_tags), _Mates(vms if groups else ()), _consoles(vms, now)
    only_hosts = None if only_hosts is None else tuple(only_hosts)
    across = settings.placement_across_clusters if across_clusters is None else across_clusters
    policy = _policy(settings, allocator, weights)
    found = {}
    for vm in vms:
        hard, soft = tags.of(vm)
        only, reason = _only(vm, purpose, only_hosts)
        excluded = {str(key): words for key, words in (exclude_hosts or {}).items()}
        excluded |= (out_of_reach or {}).get(vm.pk, {})
        if purpose in MOVES:
            excluded.setdefault(str(vm.host_id), "It is there already.")
        offering = vm.offering
        found[vm.pk] = Spec(
            purpose=purpose,
            vcpus=vm.vcpus or (offering.vcpus if offering else 0),
            memory_mib=vm.memory_mib or (offering.memory_mib if offering else 0),
            tags=hard,
            soft_tags={} if drop_soft_tags else soft,
            home_cluster=str(vm.host.cluster_id),
            across_clusters=across,
            kind=vm.host.endpoint.kind,
            cpu_model=_cpu_model(vm),
            networks=tuple(sorted(set(vm.networks))),
            only_hosts=only,
            only_reason=reason,
            exclude_hosts=excluded,
            consoles=consoles.get(vm.pk, 0),
            seed=vm.pk.int & 0xFFFFFFFF,
            **_storage(vm, purpose, copy_storage),
            **mates.groups_of(vm, excluded),
            **policy,
        )
    return found


def spec_of_request(
    *,
    offering: Offering,
    template: Template | None = None,
    cluster: Cluster | None = None,
    kind: str = "",
    networks: Iterable[str] = (),
    datastores: Iterable[str] = (),
    across_clusters: bool | None = None,
    settings: RuntimeSettings | None = None,
    allocator: str | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Spec:
    """What a VM of this offering and template would need, for "where would it go?". ``cluster``: its home, if any."""
    settings = settings or runtime.current()
    tags, soft_tags = _tags_of(offering, template)
    return Spec(
        purpose=Purpose.DRY_RUN,
        vcpus=offering.vcpus,
        memory_mib=offering.memory_mib,
        tags=tags,
        soft_tags=soft_tags,
        home_cluster=str(cluster.pk) if cluster else None,
        across_clusters=settings.placement_across_clusters if across_clusters is None else across_clusters,
        kind=kind,
        networks=tuple(sorted(set(networks))),
        datastores=tuple(sorted(set(datastores))),
        seed=seed,
        **_policy(settings, allocator, weights),
    )


def _policy(settings: RuntimeSettings, allocator: str | None, weights: Mapping[str, float] | None) -> dict[str, Any]:
    return {
        "allocator": allocator or "",
        "default_allocator": settings.placement_allocator,
        "weights": dict(weights or {}),
        "cluster_order": settings.placement_cluster_order,
        "cpu_threshold_percent": settings.placement_cpu_threshold_percent,
        "memory_threshold_percent": settings.placement_memory_threshold_percent,
        "among": AMONG,
    }


def _tags_of(offering: Offering | None, template: Template | None) -> tuple[dict[str, str], dict[str, str]]:
    """Tag to who asks for it, strict and soft; a tag that both ask for names both."""
    strict: dict[str, list[str]] = defaultdict(list)
    soft: dict[str, list[str]] = defaultdict(list)
    for label, source in (("offering", offering), ("template", template)):
        if source is not None:
            for wanted, rows in ((strict, source.host_tags), (soft, source.soft_host_tags)):
                for name in sorted(tag.name for tag in rows.all()):
                    wanted[name].append(f"{label} {source.name}")
    return ({n: " and ".join(w) for n, w in strict.items()}, {n: " and ".join(w) for n, w in soft.items()})


def _only(vm: Vm, purpose: Purpose, only_hosts: Iterable[UUID | str] | None) -> tuple[tuple[str, ...] | None, str]:
    if only_hosts is not None:
        return tuple(str(pk) for pk in only_hosts), "Another host was asked for."
    if purpose is Purpose.START:
        return (str(vm.host_id),), f"It is defined on {vm.host.name} and starts there."
    if vm.pinned:
        return (str(vm.host_id),), f"It is pinned to {vm.host.name}."
    return None, ""


def _cpu_model(vm: Vm) -> str:
    """The host's CPU, where the guest was given it as it is; named models are compared by the hypervisor itself."""
    given = getattr(vm, "cpu_model", "")
    return vm.host.cpu_model if given in ("host-passthrough", "host-model", "maximum") else ""


def _storage(vm: Vm, purpose: Purpose, copy_storage: bool) -> dict[str, Any]:
    disks = [disk for disk in vm.disks if not disk.get("removable")]
    shared = {disk["datastore"] for disk in disks if disk.get("kind") == "shared" and disk.get("datastore")}
    local = {disk.get("target", "?") for disk in disks if disk.get("kind") == "local"}
    stays = purpose not in MOVES or copy_storage
    return {"datastores": tuple(sorted(shared)), "local_disks": () if stays else tuple(sorted(local))}


class _Tags:
    """The tags that VMs' offerings and templates ask for, read once for each of those."""

    def __init__(self, vms: Iterable[Vm], *, offerings: bool) -> None:
        self._offerings = {vm.offering_id: copy(vm.offering) for vm in vms if offerings and vm.offering is not None}
        self._templates = {vm.template_id: copy(vm.template) for vm in vms if vm.template is not None}
        for rows in (self._offerings, self._templates):  # copies: the caller's own may be out of date some day
            prefetch_related_objects([*rows.values()], "host_tags", "soft_host_tags")
        self._found: dict[tuple[Any, Any], tuple[dict[str, str], dict[str, str]]] = {}

    def of(self, vm: Vm) -> tuple[dict[str, str], dict[str, str]]:
        """:func:`_tags_of` this VM's, not to be changed."""
        key = vm.offering_id, vm.template_id
        if key not in self._found:
            self._found[key] = _tags_of(self._offerings.get(key[0]), self._templates.get(key[1]))
        return self._found[key]


class _Mates:
    """Where the other VMs of VMs' affinity groups are, or are on their way to. VMs that are off do not count."""

    def __init__(self, vms: Sequence[Vm]) -> None:
        members = AffinityGroup.vms.through.objects.order_by()
        self._groups_of: dict[UUID, list[UUID]] = defaultdict(list)
        for group_id, vm_id in members.filter(vm__in=[vm.pk for vm in vms]).values_list("affinitygroup_id", "vm_id"):
            self._groups_of[vm_id].append(group_id)
        wanted = {group_id for found in self._groups_of.values() for group_id in found}
        self._groups: dict[UUID, AffinityGroup] = {}
        self._at: dict[UUID, set[str]] = defaultdict(set)
        self._count: dict[UUID, Counter[str]] = defaultdict(Counter)
        if wanted:
            self._groups = AffinityGroup.objects.in_bulk(wanted)
            self._read(members.filter(affinitygroup__in=wanted))

    def _read(self, members: Any) -> None:
        rows = members.exclude(vm__power_state__in=AT_REST).values_list("affinitygroup_id", "vm_id", "vm__host_id")
        found = list(rows)
        for _, vm_id, host_id in found:
            self._at[vm_id].add(str(host_id))
        for vm_id, host_id in Claim.objects.filter(vm__in=members.values("vm")).values_list("vm_id", "host_id"):
            if vm_id in self._at:
                self._at[vm_id].add(str(host_id))
        for group_id, vm_id, _ in found:
            self._count[group_id].update(self._at[vm_id])

    def groups_of(self, vm: Vm, excluded: Mapping[str, str]) -> dict[str, Any]:
        """The specification's part. Mates on excluded hosts bind nobody to them: when a host is emptied, the first VM
        of a group leads the way."""
        found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        own = self._at.get(vm.pk, set())
        for group_id in self._groups_of.get(vm.pk, ()):
            group = self._groups[group_id]
            name = ("" if group.strict else "soft_") + f"{group.kind}_hosts"
            together = group.kind == AffinityGroup.Kind.TOGETHER
            for place, count in self._count[group_id].items():
                if count > (place in own) and not (together and place in excluded):
                    found[name][place].add(group.name)
        return {
            name: {host: tuple(sorted(names)) for host, names in sorted(hosts.items())} for name, hosts in found.items()
        }


def _consoles(vms: Sequence[Vm], now: datetime | None) -> dict[UUID, int]:
    signal = getattr(signals, "vm_console_load", None)
    found: Counter[UUID] = Counter()
    if now is not None and signal is not None:
        for answer in ask(signal, vm_ids=[vm.pk for vm in vms], now=now):
            found.update(answer)
    return found
