"""Every VM against every offering: how each could be reached, in one pass over the fleet as it is now.

What depends on one VM and one number alone (so many vCPUs, so much memory) is judged once by preflight's own parts; the
rest is put together as arrays, by the same rules. A cell's plan, with all its reasons, is preflight's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from cloudops.core.models import RuntimeSettings
from cloudops.hypervisors.port import Kind, PowerState, ScalingState
from cloudops.inventory.models import Offering, Vm
from cloudops.inventory.offering_rules import bounds
from placement.structure import Bools, Ints
from scaling import cpu, gates, memory, memory_hot_add, vcpus
from scaling.preflight import preflight
from scaling.rooms import Rooms
from scaling.subjects import subjects, wanted, with_state
from scaling.values import ORDER, Plan, Reach, Size, Subject, Wanted

REACHES: Final = tuple(Reach)
SAME, NOW, MOVE, RESTART, IMPOSSIBLE = (
    ORDER[one] for one in (Reach.SAME, Reach.NOW, Reach.MOVE, Reach.RESTART, Reach.IMPOSSIBLE)
)
NO_QUOTA: Final = np.iinfo(np.int64).max
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Matrix:
    """How every VM could get every offering. ``codes``: the reach's number, a row for each VM and a column for each
    offering, in the order in which they were given."""

    subjects: Mapping[UUID, Subject]
    offerings: tuple[Offering, ...]
    rooms: Rooms
    codes: Codes
    _rows: Mapping[UUID, int]
    _columns: Mapping[UUID, int]

    def reach(self, vm: Vm, offering: Offering) -> Reach:
        """How this VM could get this offering, at the size nearest to its own."""
        return REACHES[int(self.codes[self._rows[vm.pk], self._columns[offering.pk]])]

    def wanted(self, vm: Vm, offering: Offering) -> Wanted:
        """The offering's size nearest to what the VM has."""
        return wanted(offering, like=self.subjects[vm.pk].size)

    def plan(self, vm: Vm, offering: Offering) -> Plan:
        """The same with all numbers and reasons; no query if the offerings' ``host_tags`` are prefetched."""
        asked = self.wanted(vm, offering)
        return preflight(self.subjects[vm.pk], asked, self.rooms.room(vm, asked))

    def counts(self) -> dict[UUID, dict[Reach, int]]:
        """For each offering how many VMs reach it in which way."""
        found = {}
        for offering in self.offerings:
            column = self.codes[:, self._columns[offering.pk]]
            numbers = np.bincount(column, minlength=len(REACHES)).tolist()
            found[offering.pk] = dict(zip(REACHES, numbers, strict=True))
        return found


def matrix(
    vms: Sequence[Vm],
    offerings: Sequence[Offering],
    *,
    settings: RuntimeSettings,
    now: datetime,
    states: Mapping[UUID, ScalingState] = MappingProxyType({}),
) -> Matrix:
    """``vms`` with host, endpoint, offering and template joined, ``offerings`` with ``host_tags`` prefetched.
    ``states``: what hypervisors tell this moment of those that were asked. The number of queries is the same for any
    number of them."""
    known = subjects(vms, settings=settings, now=now)
    known = {pk: with_state(one, states[pk]) if pk in states else one for pk, one in known.items()}
    rooms = Rooms.read(vms, now=now, settings=settings)
    table = _Table(list(known.values()), [vm.pk for vm in vms], list(offerings), rooms)
    return Matrix(
        subjects=known,
        offerings=tuple(offerings),
        rooms=rooms,
        codes=table.codes(),
        _rows={vm.pk: row for row, vm in enumerate(vms)},
        _columns={offering.pk: column for column, offering in enumerate(offerings)},
    )


class _Table:
    """The arrays behind a matrix: ``v`` numbers are of VMs (a column), ``o`` numbers of offerings (a row)."""

    def __init__(self, known: list[Subject], ids: list[UUID], offerings: list[Offering], rooms: Rooms) -> None:
        self.subjects, self.ids, self.offerings, self.rooms = known, ids, offerings, rooms
        limits = np.array([bounds(one) for one in offerings], dtype=np.int64).reshape(-1, 4).T
        self.vcpus = self._of_vms([one.size.vcpus for one in known])
        self.memory = self._of_vms([one.size.memory_mib for one in known])
        self.wanted_vcpus = np.clip(self.vcpus, limits[0], limits[1])
        self.wanted_memory = np.clip(self.memory, limits[2], limits[3])
        self.off = np.array([one.power_state is PowerState.OFF for one in known], dtype=bool).reshape(-1, 1)
        self.tags = [tuple(sorted(tag.name for tag in one.host_tags.all())) for one in offerings]

    @staticmethod
    def _of_vms(values: list[int]) -> npt.NDArray[np.int64]:
        return np.array(values, dtype=np.int64).reshape(-1, 1)

    def codes(self) -> Codes:
        """The worst of gates, resources and room of every cell."""
        if not self.subjects or not self.offerings:
            return np.zeros((len(self.subjects), len(self.offerings)), dtype=np.int8)
        gate = self._gates()
        parts, given = self._resources()
        stops = (np.maximum(parts, gate) == RESTART) & ~self.off
        given = np.where(self.off | stops, self._started_with(), given)
        beyond_quota, away = self._beyond_quota(given), self._away(given)
        moves = np.zeros_like(away)
        moves[away & ~beyond_quota & (gate != IMPOSSIBLE)] = True
        self._only_possible(moves)
        impossible = beyond_quota | (away & ~moves) | (gate == IMPOSSIBLE)
        running = np.maximum(parts, np.where(moves, MOVE, SAME))
        running = np.where(running != SAME, np.maximum(running, gate), running)
        still = np.where((parts != SAME) | moves | (self.wanted_memory != self.memory), NOW, SAME)
        return np.where(impossible, IMPOSSIBLE, np.where(self.off, still, running)).astype(np.int8)

    def _started_with(self) -> Ints:
        """The memory of VMs that are started anew: on vSphere a whole number of steps."""
        steps = [memory_hot_add.STEP_MIB if one.kind is Kind.VSPHERE else 1 for one in self.subjects]
        step = self._of_vms(steps)
        return -(-self.wanted_memory // step) * step

    def _gates(self) -> Ints:
        of_vms = [gates.of_subject(one)[0] for one in self.subjects]
        of_offerings = [ORDER[gates.of_wanted(_bare(one))[0]] for one in self.offerings]
        codes = np.maximum(self._of_vms([ORDER[one] for one in of_vms]), of_offerings)
        now = np.array([one is Reach.NOW for one in of_vms]).reshape(-1, 1)
        return np.where(now & (codes == RESTART), NOW, codes)

    def _resources(self) -> tuple[Ints, Ints]:
        """The worst of vCPUs, memory and speed, and the memory that is given while the VM runs."""
        parts = np.empty(self.wanted_vcpus.shape, dtype=np.int64)
        given = np.empty(self.wanted_vcpus.shape, dtype=np.int64)
        speeds = [(one.cpu_mhz or 0, one.cpu_cap) for one in self.offerings]
        for row, subject in enumerate(self.subjects):
            of_vcpus: dict[int, int] = {}
            of_memory: dict[int, tuple[int, int]] = {}
            of_speed: dict[tuple[int, int, bool], int] = {}
            parts_of_memory = memory.parts_of(subject)
            codes, gives = [], []
            asked = zip(self.wanted_vcpus[row].tolist(), self.wanted_memory[row].tolist(), speeds, strict=True)
            for count, mib, (mhz, cap) in asked:
                if count not in of_vcpus:
                    of_vcpus[count] = ORDER[vcpus.judge(subject, count)[0].reach]
                if mib not in of_memory:
                    reach, gets = memory.outcome(subject, parts_of_memory, mib)
                    of_memory[mib] = ORDER[reach], gets
                code, gets = of_memory[mib]
                code = max(of_vcpus[count], code)
                if code == SAME:  # only then it matters whether the speed, which never stands in the way, changes
                    key = count, mhz, cap
                    if key not in of_speed:
                        of_speed[key] = ORDER[cpu.judge(subject, Size(count, mib, mhz, cap and bool(mhz)))[0].reach]
                    code = of_speed[key]
                codes.append(code)
                gives.append(gets)
            parts[row], given[row] = codes, gives
        return parts, given

    def _beyond_quota(self, given: Ints) -> Bools:
        left = [self.rooms.left[pk] for pk in self.ids]
        most_vcpus = self._of_vms([NO_QUOTA if one.vcpus is None else one.vcpus for one in left])
        most_memory = self._of_vms([NO_QUOTA if one.memory_mib is None else one.memory_mib for one in left])
        beyond: Bools = self.wanted_vcpus > np.maximum(self.vcpus, most_vcpus)
        beyond |= given > np.maximum(self.memory, most_memory)
        return beyond

    def _away(self, given: Ints) -> Bools:
        """Where the VM cannot stay on its host."""
        away = self._lacks_tags()
        threads = self._of_vms([one.host_threads or NO_QUOTA for one in self.subjects])
        whole = self._of_vms([one.host_memory_mib or NO_QUOTA for one in self.subjects])
        away |= (self.wanted_vcpus > threads) & (self.wanted_vcpus > self.vcpus)
        away |= (given > whole) & (given > self.memory)
        here = [self.rooms.here(self.rooms.place_of[pk]) for pk in self.ids]
        free_vcpus, free_memory = (self._of_vms([max(0, one[part]) for one in here]) for part in (0, 1))
        shut = np.array([not one[2] for one in here], dtype=bool).reshape(-1, 1)
        more_vcpus, more_memory = self.wanted_vcpus - self.vcpus, given - self.memory
        full = (more_vcpus > free_vcpus) | (more_memory > free_memory)
        away |= ~self.off & ((more_vcpus > 0) | (more_memory > 0)) & (full | shut)
        return away

    def _lacks_tags(self) -> Bools:
        asked = {frozenset(one): number for number, one in enumerate(dict.fromkeys(self.tags))}
        kinds = {tags: [not one <= tags for one in asked] for tags in {one.host_tags for one in self.subjects}}
        lacks = np.array([kinds[one.host_tags] for one in self.subjects], dtype=bool)
        found: Bools = lacks[:, [asked[frozenset(one)] for one in self.tags]]
        return found

    def _only_possible(self, moves: Bools) -> None:
        """Takes away the moves for which there is no other host. Cells that ask for the same are answered together."""
        rows, columns = np.nonzero(moves)
        alike: dict[tuple[Any, ...], list[int]] = {}
        sizes = zip(
            self.wanted_vcpus[rows, columns].tolist(),
            self.wanted_memory[rows, columns].tolist(),
            columns.tolist(),
            strict=True,
        )
        for cell, (count, mib, column) in enumerate(sizes):
            alike.setdefault((self.tags[column], count, mib), []).append(cell)
        others = np.array([self.rooms.others(pk) for pk in self.ids]) if alike else np.empty((0, 0), dtype=bool)
        for (tags, count, mib), cells in alike.items():
            hosts = self.rooms.tagged(tags) & self.rooms.holding(count, mib)
            places = np.flatnonzero(hosts)
            found = others[rows[cells][:, None], places].any(axis=1)
            moves[rows[cells], columns[cells]] = found


def _bare(offering: Offering) -> Wanted:
    """An offering as far as gates care."""
    size = Size(offering.vcpus, offering.memory_mib)
    names = str(offering.pk), offering.name, offering.version
    return Wanted(size, *names, dynamic=offering.dynamic_scaling, enabled=offering.enabled)
