"""Where there is room for which size, of many VMs at once: on their hosts, elsewhere, and in their projects' quotas.

"Elsewhere" is placement's own answer: the same copy of the fleet, the same specifications and the same filters as a
migration's decision, asked so that the number of queries and most of the work do not grow with the number of sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import numpy as np

from cloudops.core import runtime
from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Host, Vm
from placement import mirror
from placement.filters import FILTERS
from placement.fleet import UP, Fleet
from placement.spec import Spec
from placement.structure import Bools, Ints
from placement.vm_migrations import Options, specs_of_moves
from scaling import quotas
from scaling.quotas import Left
from scaling.values import Room, Wanted

BY_SIZE: Final = frozenset({"tags", "vcpus", "memory"})
"""Filters whose answer depends on what is wanted; of all others one answer does for every size."""


@dataclass
class Rooms:
    """The fleet at one moment, and what these VMs ask of it. Make it with :meth:`read`."""

    fleet: Fleet
    threads: Ints
    memory_mib: Ints
    specs: Mapping[UUID, Spec]
    place_of: Mapping[UUID, int | None]
    left: Mapping[UUID, Left]
    pinned: frozenset[UUID]
    _open_to: dict[UUID, Bools] = field(default_factory=dict)
    _tagged: dict[tuple[str, ...], Bools] = field(default_factory=dict)

    @classmethod
    def read(cls, vms: Sequence[Vm], *, now: datetime, settings: RuntimeSettings | None = None) -> Rooms:
        """``vms`` with ``host__endpoint``, ``offering`` and ``template`` joined. The number of queries is the same for
        one VM and for all."""
        with mirror.current().up_to_date(now=now, consoles=True) as current:
            fleet = current.copy()
        settings = settings or runtime.current()
        threads, memory_mib = _whole(fleet)
        index = fleet.structure.index
        return cls(
            fleet=fleet,
            threads=threads,
            memory_mib=memory_mib,
            specs=specs_of_moves(vms, Options.of(settings), offering_tags=False, now=now),
            pinned=frozenset(vm.pk for vm in vms if vm.pinned),
            place_of={vm.pk: index.get(str(vm.host_id)) for vm in vms},
            left=quotas.left_beside(vms),
        )

    def room(self, vm: Vm, wanted: Wanted) -> Room:
        """Room for one of these VMs at one size."""
        size, place, left = wanted.size, self.place_of[vm.pk], self.left[vm.pk]
        hosts = self.open_to(vm.pk, wanted.tags) & self.holding(size.vcpus, size.memory_mib)
        free_vcpus, free_memory_mib, here_open = self.here(place)
        return Room(
            free_vcpus=free_vcpus,
            free_memory_mib=free_memory_mib,
            here_open=here_open,
            elsewhere=int(np.count_nonzero(hosts)),
            quota_vcpus=left.vcpus,
            quota_memory_mib=left.memory_mib,
        )

    def here(self, place: int | None) -> tuple[int, int, bool]:
        """What is free on one host, vCPUs and MiB, and whether it takes anything."""
        if place is None:
            return 0, 0, False
        fleet = self.fleet
        opened = bool(fleet.schedulable[place] and fleet.connection[place] == UP and fleet.hold[place] == 0)
        vcpus = int(fleet.vcpu_capacity[place]) - int(fleet.vcpu_claimed[place])
        return vcpus, int(fleet.memory_capacity_mib[place]) - int(fleet.memory_claimed_mib[place]), opened

    def open_to(self, vm_id: UUID, tags: tuple[str, ...]) -> Bools:
        """The other hosts that would take the VM, whatever its size, if its offering asked for these tags."""
        return self.others(vm_id) & self.tagged(tags)

    def others(self, vm_id: UUID) -> Bools:
        """The other hosts that pass every filter that depends neither on size nor on offering."""
        found = self._open_to.get(vm_id)
        if found is None:
            spec = self.specs[vm_id]
            found = np.full(len(self.fleet), vm_id not in self.pinned)
            for one in _FIXED:
                column = one(spec, self.fleet)
                if column is not None:
                    found &= column
            found &= self.tagged(tuple(sorted(spec.tags)))
            self._open_to[vm_id] = found
        return found

    def tagged(self, tags: tuple[str, ...]) -> Bools:
        """The hosts that carry all of these tags."""
        found = self._tagged.get(tags)
        if found is None:
            found = np.ones(len(self.fleet), dtype=bool)
            for tag in tags:
                column = self.fleet.structure.tags.get(tag)
                found = np.zeros(len(self.fleet), dtype=bool) if column is None else found & column
            self._tagged[tags] = found
        return found

    def holding(self, vcpus: int, memory_mib: int) -> Bools:
        """The hosts that have so much free now, and are no smaller than that as a whole."""
        fleet = self.fleet
        free: Bools = (fleet.vcpu_capacity - fleet.vcpu_claimed >= vcpus) & (self.threads >= vcpus)
        free &= (fleet.memory_capacity_mib - fleet.memory_claimed_mib >= memory_mib) & (self.memory_mib >= memory_mib)
        return free


_FIXED: Final[tuple[Callable[[Spec, Fleet], Bools | None], ...]] = tuple(
    one.passes for one in FILTERS if one.name not in BY_SIZE
)


def _whole(fleet: Fleet) -> tuple[Ints, Ints]:
    """Every host's CPU threads and memory, in the fleet's order; what a host does not tell is not held against it."""
    threads = np.full(len(fleet), np.iinfo(np.int32).max, dtype=np.int32)
    memory_mib = threads.copy()
    for host in Host.objects.order_by().only(
        "cpu_threads", "cpu_threads_override", "memory_mib", "memory_mib_override"
    ):
        place = fleet.structure.index.get(str(host.pk))
        if place is not None:
            threads[place] = host.total_cpu_threads or threads[place]
            memory_mib[place] = host.total_memory_mib or memory_mib[place]
    return threads, memory_mib
