"""The problem as columns and indices: what the search, the order and the explanations compute with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from placement.planner.model import Host, Problem, Rule, Vm, column_of

Column = np.ndarray[tuple[int], np.dtype[np.bool_]]
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]

NO_LIMIT = 1 << 40
LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """VMs that have to be placed on one host together; mostly just one. ``legal`` leaves capacity and groups aside."""

    vms: tuple[int, ...]
    memory: int
    vcpus: int
    consoles: int
    legal: Column


class Board:
    """A compiled problem; nothing here changes. Hosts and VMs are indices into the problem's.

    Raises :class:`ValueError` when the problem names a host or VM that it does not have.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.hosts: tuple[Host, ...] = problem.hosts
        self.vms: tuple[Vm, ...] = problem.vms
        self.host_index = {host.id: i for i, host in enumerate(problem.hosts)}
        self.vm_index = {vm.id: i for i, vm in enumerate(problem.vms)}
        self._check_names()
        self.memory = [vm.memory_mib for vm in problem.vms]
        self.vcpus = [vm.vcpus for vm in problem.vms]
        self.consoles = [vm.consoles for vm in problem.vms]
        self.host_memory = np.array([host.memory_mib for host in problem.hosts], np.int64)
        self.host_vcpus = np.array([host.vcpus for host in problem.hosts], np.int64)
        self._clusters = np.array([host.cluster for host in problem.hosts])
        self.at = [self.host_index[vm.host] for vm in problem.vms]
        self.moving = {
            self.vm_index[m.vm]: (self.host_index[m.target], max(m.seconds_left, LEAST_SECONDS)) for m in problem.moving
        }
        self.fixed = {self.vm_index[vm]: self.host_index[host] for vm, host in problem.fixed.items()}
        self.stays = frozenset(self.vm_index[vm] for vm in problem.stays if vm in self.vm_index)
        self.sources = frozenset(self.host_index[host] for host in problem.sources)
        self.receives = np.fromiter(
            (host.can_receive and host.id not in problem.sources for host in problem.hosts), bool, len(problem.hosts)
        )
        self.preferred = self.column(self.host_index[host] for host in problem.preferred if host in self.host_index)
        self.apart = self._members("apart")
        self.together = self._members("together")
        self.soft_apart = self._members("soft_apart")
        self.soft_together = self._members("soft_together")
        self._columns: dict[tuple[int, int, int], Column] = {}
        self._masks: dict[int, int] = {}
        self._all = (1 << len(self.hosts)) - 1
        self.movers = tuple(self._movers())

    def _check_names(self) -> None:
        problem = self.problem
        hosts = {vm.host for vm in problem.vms} | problem.sources | set(problem.fixed.values())
        hosts |= {move.target for move in problem.moving}
        vms = set(problem.fixed) | {move.vm for move in problem.moving}
        if missing := (hosts - self.host_index.keys()) | (vms - self.vm_index.keys()):
            raise ValueError(f"the problem names what it does not have: {', '.join(sorted(missing)[:3])}")

    def _members(self, attribute: str) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = {}
        for i, vm in enumerate(self.vms):
            for name in getattr(vm, attribute):
                groups.setdefault(name, []).append(i)
        return {name: vms for name, vms in groups.items() if len(vms) > 1}

    def _movers(self) -> Iterator[int]:
        for v, host in enumerate(self.at):
            wanted = self.fixed.get(v)
            if v in self.moving or v in self.stays:
                continue
            if (wanted is not None and wanted != host) or (wanted is None and host in self.sources):
                yield v

    def rules_mask(self, rules: tuple[Rule, ...]) -> int:
        """Hosts that every rule admits."""
        found = self._masks.get(id(rules))
        if found is None:
            found = self._all
            for rule in rules:
                found &= rule.hosts
            self._masks[id(rules)] = found
        return found

    def legal(self, v: int, *, on_the_way: bool = False) -> Column:
        """Hosts this VM may be sent to, capacity and groups aside. Shared: do not write to it. ``on_the_way``: not just
        those where it may end."""
        fixed = -1 if on_the_way else self.fixed.get(v, -1)
        tried = 0
        for host in self.problem.tried.get(self.vms[v].id, ()):
            if host in self.host_index:
                tried |= 1 << self.host_index[host]
        key = (id(self.vms[v].rules), fixed, tried)
        column = self._columns.get(key)
        if column is None:
            mask = self.rules_mask(self.vms[v].rules) & ~tried
            if fixed >= 0:
                mask &= 1 << fixed
            column = self._columns[key] = column_of(mask, len(self.hosts)) & self.receives
        return column

    def can_move(self, v: int) -> bool:
        """Whether the VM itself allows it."""
        vm = self.vms[v]
        return vm.movable and not vm.pinned and v not in self.moving and v not in self.stays

    def resident_may_move(self, v: int) -> bool:
        """Whether a VM that nobody wants away may be moved to make room."""
        return self.problem.residents_may_move and self.can_move(v) and v not in self.fixed

    def same_cluster(self, v: int) -> Column:
        """The hosts of the cluster where the VM is."""
        column: Column = self._clusters == self._clusters[self.at[v]]
        return column

    def mates_apart(self, v: int) -> list[int]:
        """The other members of its groups whose members must be on different hosts."""
        return [w for name in self.vms[v].apart for w in self.apart.get(name, ()) if w != v]

    def mates_together(self, v: int) -> list[int]:
        """The VM and everything that has to be on the same host, directly or through others; sorted."""
        if not self.vms[v].together:
            return [v]
        found, queue = {v}, [v]
        for one in queue:
            for name in self.vms[one].together:
                new = [w for w in self.together.get(name, ()) if w not in found]
                found.update(new)
                queue += new
        return sorted(found)

    def unit(self, vms: Iterable[int], only: Column | None = None) -> Unit:
        """These VMs as one thing to place."""
        members = tuple(vms)
        legal = self.legal(members[0])
        for v in members[1:]:
            legal = legal & self.legal(v)
        if only is not None:
            legal = legal & only
        return Unit(
            members,
            sum(self.memory[v] for v in members),
            sum(self.vcpus[v] for v in members),
            sum(self.consoles[v] for v in members),
            legal,
        )

    def column(self, hosts: Iterable[int]) -> Column:
        """The boolean column of these hosts."""
        column = np.zeros(len(self.hosts), bool)
        for host in hosts:
            column[host] = True
        return column


class Layout:
    """Where every VM is in one try, and what is free. Every change can be undone back to a mark.

    A VM under way counts where it goes to; :mod:`placement.planner.order` looks at both ends. The host ``nowhere`` is
    for VMs that are sure to leave, so that nobody reckons with them where they are.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        hosts = board.hosts
        self.at = list(board.at)
        for v, (target, _) in board.moving.items():
            self.at[v] = target
        self.nowhere = len(hosts)
        self._held_memory = self._free([h.memory_mib - h.used_memory_mib for h in hosts], board.memory)
        self._held_vcpus = self._free([h.vcpus - h.used_vcpus for h in hosts], board.vcpus)
        consoles = [NO_LIMIT if h.console_limit is None else h.console_limit - h.used_consoles for h in hosts]
        self._held_consoles = self._free(consoles, board.consoles)
        self.free_memory: Numbers = self._held_memory[:-1]
        self.free_vcpus: Numbers = self._held_vcpus[:-1]
        self.free_consoles: Numbers = self._held_consoles[:-1]
        self.on: list[set[int]] = [set() for _ in range(len(hosts) + 1)]
        for v, host in enumerate(self.at):
            self.on[host].add(v)
        self._trail: list[tuple[int, int]] = []

    def _free(self, capacity: list[int], needs: list[int]) -> Numbers:
        """What is free per host, and without end where VMs that are in nobody's way are kept."""
        free = np.array([*capacity, NO_LIMIT], np.int64)
        if needs:
            held = np.bincount(np.array(self.at, np.int64), weights=needs, minlength=len(free))
            free -= held.astype(np.int64)
        return free

    def mark(self) -> int:
        """A moment to come back to."""
        return len(self._trail)

    def undo(self, mark: int) -> None:
        """Takes back every move since the mark."""
        while len(self._trail) > mark:
            v, host = self._trail.pop()
            self._shift(v, host)

    def move(self, v: int, host: int) -> None:
        self._trail.append((v, self.at[v]))
        self._shift(v, host)

    def put(self, unit: Unit, host: int) -> None:
        for v in unit.vms:
            self.move(v, host)

    def _shift(self, v: int, host: int) -> None:
        board, old = self.board, self.at[v]
        for free, needs in (
            (self._held_memory, board.memory),
            (self._held_vcpus, board.vcpus),
            (self._held_consoles, board.consoles),
        ):
            if needs[v]:
                free[old] += needs[v]
                free[host] -= needs[v]
        self.on[old].discard(v)
        self.on[host].add(v)
        self.at[v] = host

    def blocked_apart(self, unit: Unit) -> list[int]:
        """Hosts where a VM runs that must be apart from this unit. A unit whose own VMs must be apart: every host."""
        if all(not self.board.vms[v].apart for v in unit.vms):
            return []
        mates = {w for v in unit.vms for w in self.board.mates_apart(v)}
        if len(unit.vms) > 1 and mates.intersection(unit.vms):
            return list(range(len(self.board.hosts)))
        return [self.at[w] for w in mates if self.at[w] != self.nowhere]

    def likings(self, unit: Unit) -> Numbers | None:
        """What soft groups say of every host: VMs of the unit's groups that should be with it, less those that should
        not. None when it is in no such group."""
        board = self.board
        if not any(board.vms[v].soft_apart or board.vms[v].soft_together for v in unit.vms):
            return None
        found = np.zeros(len(board.hosts) + 1, np.int64)
        for v in unit.vms:
            for groups, names, sign in (
                (board.soft_together, board.vms[v].soft_together, 1),
                (board.soft_apart, board.vms[v].soft_apart, -1),
            ):
                for name in names:
                    for w in groups.get(name, ()):
                        if w not in unit.vms:
                            found[self.at[w]] += sign
        likings: Numbers = found[:-1]
        return likings

    def fits(self, unit: Unit) -> Column:
        """Hosts that may take the unit as things are; not where it is."""
        ok = unit.legal & (self.free_memory >= unit.memory) & (self.free_vcpus >= unit.vcpus)
        if unit.consoles:
            ok &= self.free_consoles >= unit.consoles
        for host in self.blocked_apart(unit):
            ok[host] = False
        for v in unit.vms:
            if self.at[v] != self.nowhere:
                ok[self.at[v]] = False
        return ok
