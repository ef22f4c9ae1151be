"""From what was read to a problem for the planner. Which hosts suit a VM is told by the scheduler's own filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import numpy as np

from cloudops.inventory import endpoints
from cloudops.inventory.models import Host, Offering, Template, Vm
from placement import requests
from placement.filters import BY_NAME
from placement.fleet import UP, Fleet
from placement.maintenance import words
from placement.maintenance.ground import Asked, Ground, VmGround, VmGroups
from placement.maintenance.options import AS_PLANNED, Choice, VmChoice
from placement.planner import model as planner
from placement.spec import Purpose, Spec

SETUP_SECONDS: Final = 2.0
NO_GROUPS: Final = VmGroups()
NO_URI: Final = "no-migration-uri"
KINDS: Final[Mapping[str, str]] = {
    "kind": planner.Kind.HYPERVISOR,
    "cpu-model": planner.Kind.CPU_MODEL,
    "cluster-scope": planner.Kind.CLUSTER,
    "tags": planner.Kind.TAG,
    "networks": planner.Kind.NETWORK,
    "datastores": planner.Kind.DATASTORE,
    "local-disks": planner.Kind.LOCAL_DISK,
}


def build(asked: Asked, ground: Ground, *, residents_may_move: bool, use_later: bool) -> planner.Problem:
    """``use_later``: hosts that wait for their turn take VMs, too. VMs whose hosts are gone are left out."""
    return _Builder(asked, ground, residents_may_move, use_later).problem()


def spec_of(vm: VmGround, ground: Ground, asked: Asked, choice: VmChoice) -> Spec:
    """What the VM asks of a host, its groups left aside: the planner follows those by itself."""
    row = Vm(
        pk=vm.pk,
        name=vm.name,
        host=ground.hosts[vm.host_id],
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        offering=ground.offerings.get(vm.offering_id) if vm.offering_id else None,
        template=ground.templates.get(vm.template_id) if vm.template_id else None,
        networks=vm.networks,
        disks=vm.disks,
        cpu_model=vm.cpu_model,
    )
    return requests.spec_for(
        row,
        purpose=Purpose.DRAIN,
        settings=ground.settings,
        across_clusters=asked.across_clusters or Choice.ACROSS in choice.relaxed or vm.pk in asked.homes,
        drop_soft_tags=Choice.DROP_SOFT_TAGS in choice.relaxed,
        copy_storage=Choice.COPY_STORAGE in choice.relaxed,
        groups=False,
    )


@dataclass
class _Builder:
    asked: Asked
    ground: Ground
    residents_may_move: bool
    use_later: bool

    def __post_init__(self) -> None:
        self.fleet: Fleet = self.ground.fleet
        self.names = {key: place for place, key in enumerate(self.fleet.structure.ids)}
        self.rules: dict[tuple[object, ...], tuple[planner.Rule, ...]] = {}
        chosen = {pk: one.host_id for pk, one in self.asked.choices.items() if one.main == Choice.HOST}
        self.fixed: dict[UUID, UUID] = {**self.asked.homes, **{pk: host for pk, host in chosen.items() if host}}
        self.reached: dict[UUID, int | None] = {}
        self.open: dict[UUID, bool] = {}
        self.soft: dict[UUID, tuple[str, ...]] = {}

    def _usable(self, place: int) -> bool:
        return bool(self.fleet.connection[place] == UP and self.fleet.hold[place] == 0)

    def problem(self) -> planner.Problem:
        settings, asked = self.ground.settings, self.asked
        known = [vm for vm in self.ground.vms if str(vm.host_id) in self.names and vm.host_id in self.ground.hosts]
        ids = {vm.pk for vm in known}
        return planner.Problem(
            hosts=tuple(self._hosts(known)),
            vms=tuple(self._vm(vm) for vm in known),
            sources=frozenset(str(pk) for pk in asked.leaving if str(pk) in self.names),
            limits=planner.Limits(
                host_parallel=asked.host_parallel or settings.migration_host_limit,
                total=settings.migration_total_limit,
                rate_mib_per_second=self.ground.rate_mib_per_second,
                setup_seconds=SETUP_SECONDS,
            ),
            fixed={str(vm): str(host) for vm, host in self.fixed.items() if vm in ids and str(host) in self.names},
            tried={str(vm): frozenset(map(str, hosts)) for vm, hosts in asked.tried.items() if vm in ids},
            stays=frozenset(str(vm) for vm in asked.stays if vm in ids),
            moving=tuple(self._moving(known)),
            residents_may_move=self.residents_may_move,
            preferred=frozenset(key for key in self.names if UUID(key) not in asked.later)
            if asked.later
            else frozenset(),
        )

    def _moving(self, known: Sequence[VmGround]) -> Iterator[planner.Moving]:
        by_id = {vm.pk: vm for vm in known}
        for one in self.ground.running:
            vm = by_id.get(one.vm_id)
            if vm is not None and vm.host_id != one.target_id and str(one.target_id) in self.names:
                left = one.seconds_left
                guess = SETUP_SECONDS + vm.memory_mib / self.ground.rate_mib_per_second
                yield planner.Moving(str(vm.pk), str(one.target_id), guess if left is None else left)

    def _hosts(self, known: Sequence[VmGround]) -> Iterator[planner.Host]:
        fleet, structure = self.fleet, self.fleet.structure
        vcpus, memory = fleet.vcpu_claimed.astype(np.int64), fleet.memory_claimed_mib.astype(np.int64)
        consoles = fleet.consoles.astype(np.int64)
        for host, held_vcpus, held_memory in self._listed(known):
            vcpus[host] -= held_vcpus
            memory[host] -= held_memory
        for vm in known:
            consoles[self.names[str(vm.host_id)]] -= self.ground.consoles.get(vm.pk, 0)
        for place, key in enumerate(structure.ids):
            why = self._why_not(place, key)
            yield planner.Host(
                id=key,
                name=structure.names[place],
                cluster=structure.cluster_of(place).name,
                memory_mib=int(fleet.memory_capacity_mib[place]),
                vcpus=int(fleet.vcpu_capacity[place]),
                console_limit=int(fleet.console_limit[place]),
                used_memory_mib=max(0, int(memory[place])),
                used_vcpus=max(0, int(vcpus[place])),
                used_consoles=max(0, int(consoles[place])),
                can_receive=not why,
                why_not=why,
            )

    def _listed(self, known: Sequence[VmGround]) -> Iterator[tuple[int, int, int]]:
        """What the listed VMs have claimed, by host: the planner counts that itself, on both ends while they move."""
        moving = {one.vm_id: one.target_id for one in self.ground.running}
        for vm in known:
            if (held := self.ground.held.get(vm.pk)) is not None and str(held[0]) in self.names:
                yield self.names[str(held[0])], held[1], held[2]
            target = moving.get(vm.pk)
            if target is not None and target != vm.host_id and str(target) in self.names:
                yield self.names[str(target)], vm.vcpus, vm.memory_mib

    def _why_not(self, place: int, key: str) -> str:
        fleet, pk = self.fleet, UUID(key)
        if pk in self.asked.leaving:
            return "it is being emptied"
        if pk in self.asked.closed:
            return self.asked.closed[pk]
        if fleet.connection[place] != UP:
            return "it cannot be reached"
        if fleet.hold[place]:
            return words.HOLDS[int(fleet.hold[place])]
        if not fleet.schedulable[place]:
            return "it is cordoned"
        if pk in self.asked.later and not self.use_later:
            return self.asked.later[pk]
        return ""

    def _vm(self, vm: VmGround) -> planner.Vm:
        groups = self.ground.groups.get(vm.pk, NO_GROUPS) if vm.alive else NO_GROUPS
        host, vcpus, memory = self.ground.held.get(vm.pk, (vm.host_id, vm.vcpus, vm.memory_mib))
        here = host == vm.host_id
        choice = self.asked.choices.get(vm.pk, AS_PLANNED)
        why = self._why_not_movable(vm, choice)
        return planner.Vm(
            id=str(vm.pk),
            name=vm.name,
            host=str(vm.host_id),
            memory_mib=memory if here else vm.memory_mib,
            vcpus=vcpus if here else vm.vcpus,
            rules=self._rules_of(vm, choice),
            apart=groups.apart,
            together=groups.together,
            soft_apart=groups.soft_apart,
            soft_together=groups.soft_together,
            consoles=self.ground.consoles.get(vm.pk, 0),
            movable=not why,
            pinned=vm.pinned and Choice.MOVE_PINNED not in choice.relaxed,
            why_not=why,
            copy_mib=self._copy_mib(vm, choice),
        )

    def _why_not_movable(self, vm: VmGround, choice: VmChoice) -> str:
        """Of VMs that must leave, whoever asks has judged already; residents are moved only when nothing is at work."""
        wanted = vm.host_id in self.asked.leaving or vm.pk in self.asked.homes
        if wanted:
            return ""
        if vm.pk in self.ground.busy:
            return f"“{self.ground.busy[vm.pk]}” is at work on it"
        if not self._usable(self.names[str(vm.host_id)]):
            return "its host cannot be asked"
        return ""

    def _copy_mib(self, vm: VmGround, choice: VmChoice) -> int:
        if not vm.alive:
            return 0
        disks = sum(int(one.get("size_mib") or 0) for one in vm.disks if one.get("kind") == "local")
        return vm.memory_mib + (disks if Choice.COPY_STORAGE in choice.relaxed else 0)

    def _rules_of(self, vm: VmGround, choice: VmChoice) -> tuple[planner.Rule, ...]:
        """VMs that ask for the same share one tuple, which the planner relies on to be quick."""
        host = self.ground.hosts[vm.host_id]
        soft = self._soft_tags(vm, choice)
        reach = self._reach(host)
        key = (host.cluster_id, host.endpoint.kind, host.cpu_model, *vm.wishes, soft, reach, choice.relaxed)
        key = (*key, vm.pk in self.asked.homes)
        if key not in self.rules:
            self.rules[key] = tuple(self._rules(vm, choice, soft, reach))
        return self.rules[key]

    def _rules(self, vm: VmGround, choice: VmChoice, soft: Sequence[str], reach: int | None) -> Iterator[planner.Rule]:
        spec = spec_of(vm, self.ground, self.asked, choice)
        for name, rule_name, narrowed in _single(spec, self.fleet):
            column = BY_NAME[name].passes(narrowed, self.fleet)
            if column is not None and not column.all():
                liftable = name in {"cluster-scope", "local-disks"}
                yield planner.Rule(KINDS[name], rule_name, planner.mask_of(column), liftable)
        for name in soft:
            column = self.fleet.structure.tags[name]
            yield planner.Rule(planner.Kind.SOFT_TAG, name, planner.mask_of(column), liftable=True)
        if reach is not None:
            yield planner.Rule(NO_URI, "a migration URI", reach)

    def _soft_tags(self, vm: VmGround, choice: VmChoice) -> tuple[str, ...]:
        """A preferred tag that the VM has where it is, is not taken from it unless somebody says so."""
        if Choice.DROP_SOFT_TAGS in choice.relaxed:
            return ()
        tags, here = self.fleet.structure.tags, self.names[str(vm.host_id)]
        wanted = (
            *self._soft_of(self.ground.offerings, vm.offering_id),
            *self._soft_of(self.ground.templates, vm.template_id),
        )
        return tuple(name for name in dict.fromkeys(wanted) if name in tags and tags[name][here])

    def _soft_of(self, sources: Mapping[UUID, Offering] | Mapping[UUID, Template], key: UUID | None) -> tuple[str, ...]:
        if key is None or (source := sources.get(key)) is None:
            return ()
        if key not in self.soft:
            self.soft[key] = tuple(sorted(tag.name for tag in source.soft_host_tags.all()))
        return self.soft[key]

    def _reach(self, source: Host) -> int | None:
        """Within an endpoint any host is reached; elsewhere a host needs an address that works from outside. None: all
        are reached."""
        if source.endpoint_id not in self.reached:
            found = [self.ground.hosts.get(UUID(key)) for key in self.names]
            column = [
                host is not None and (host.endpoint_id == source.endpoint_id or self._is_open(host)) for host in found
            ]
            self.reached[source.endpoint_id] = None if all(column) else planner.mask_of(column)
        return self.reached[source.endpoint_id]

    def _is_open(self, host: Host) -> bool:
        if host.pk not in self.open:
            self.open[host.pk] = bool(endpoints.migration_uri(host))
        return self.open[host.pk]


def _single(spec: Spec, fleet: Fleet) -> Iterator[tuple[str, str, Spec]]:
    """Filter, the rule's name, and a specification that asks for just this: one rule per tag, network and datastore."""
    yield "kind", spec.kind, spec
    yield "cpu-model", spec.cpu_model, spec
    home = next((one.name for one in fleet.structure.clusters if one.id == spec.home_cluster), "")
    yield "cluster-scope", home, spec
    for tag, who in spec.tags.items():
        yield "tags", tag, replace(spec, tags={tag: who})
    for network in spec.networks:
        yield "networks", network, replace(spec, networks=(network,))
    for datastore in spec.datastores:
        yield "datastores", datastore, replace(spec, datastores=(datastore,))
    if spec.local_disks:
        yield "local-disks", ", ".join(spec.local_disks), spec
