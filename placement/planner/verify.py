"""Replays a plan and says what is wrong with it. Shares no code with what makes plans.

:func:`verify` replays it at the times it states; :func:`execute` as an executor would, with durations of its own, to
show that the plan's dependencies alone keep it safe.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from placement.planner.model import Host, Move, Plan, Problem, Vm

TOLERANCE_SECONDS = 1e-6


@dataclass(frozen=True)
class Run:
    """How an execution went: what was wrong, and how long it took."""

    wrong: tuple[str, ...]
    seconds: float


class _World:
    """Where every VM is at one instant: on one host, or on two while it moves."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.plan = plan
        self.hosts: dict[str, Host] = {host.id: host for host in problem.hosts}
        self.bit = {host.id: 1 << i for i, host in enumerate(problem.hosts)}
        self.vms: dict[str, Vm] = {vm.id: vm for vm in problem.vms}
        self.places: dict[str, list[str]] = {vm.id: [vm.host] for vm in problem.vms}
        self.residents: dict[str, set[str]] = defaultdict(set)
        self.members: dict[str, list[str]] = defaultdict(list)
        for vm in problem.vms:
            self.residents[vm.host].add(vm.id)
            for group in vm.apart:
                self.members[group].append(vm.id)
        self.busy: Counter[str] = Counter()
        self.running = 0
        self.ended: set[int] = set()
        self.wrong: list[str] = []

    def begin(self, index: int) -> None:
        move = self.plan.moves[index]
        vm = self.vms[move.vm]
        self.wrong += [f"move {index} of {vm.id}: {text}" for text in self._objections(move, vm)]
        self.places[vm.id] = [move.source, move.target]
        self.residents[move.target].add(vm.id)
        for host in (move.source, move.target):
            self.busy[host] += 1
        self.running += 1
        if not move.running:
            self.wrong += [f"move {index} of {vm.id}: {text}" for text in self._limits(move)]

    def end(self, index: int) -> None:
        move = self.plan.moves[index]
        self.places[move.vm] = [move.target]
        self.residents[move.source].discard(move.vm)
        for host in (move.source, move.target):
            self.busy[host] -= 1
        self.running -= 1
        self.ended.add(index)

    def _objections(self, move: Move, vm: Vm) -> Iterator[str]:
        if self.places[vm.id] != [move.source]:
            yield f"it is on {self.places[vm.id]}, not on {move.source}"
        if move.source == move.target:
            yield "goes nowhere"
        if move.running:
            return
        if missing := [j for j in move.after if j not in self.ended]:
            yield f"starts before {missing} ended"
        yield from self._illegal(move, vm)
        yield from self._overfull(move.target, vm)
        for group in vm.apart:
            for mate in self.members[group]:
                if mate != vm.id and move.target in self.places[mate]:
                    yield f"meets {mate}, from which group {group} keeps it apart"

    def _illegal(self, move: Move, vm: Vm) -> Iterator[str]:
        problem = self.problem
        if not vm.movable or vm.pinned or vm.id in problem.stays:
            yield "may not move"
        if not self.hosts[move.target].can_receive or move.target in problem.sources:
            yield f"{move.target} does not receive"
        if move.target in problem.tried.get(vm.id, ()):
            yield f"{move.target} failed before"
        for rule in vm.rules:
            if not rule.hosts & self.bit[move.target]:
                yield f"{move.target} breaks {rule.kind} {rule.name}"
        wanted = vm.host in problem.sources or vm.id in problem.fixed
        if not wanted and not problem.residents_may_move:
            yield "is no mover, and residents stay"
        if move.resident == wanted:
            yield "is called a resident wrongly"

    def load(self, host: str) -> tuple[int, int, int]:
        """Memory, vCPUs and consoles held there now."""
        one, here = self.hosts[host], [self.vms[vm] for vm in self.residents[host]]
        return (
            one.used_memory_mib + sum(vm.memory_mib for vm in here),
            one.used_vcpus + sum(vm.vcpus for vm in here),
            one.used_consoles + sum(vm.consoles for vm in here),
        )

    def _overfull(self, host: str, vm: Vm) -> Iterator[str]:
        one, (memory, vcpus, consoles) = self.hosts[host], self.load(host)
        if memory + vm.memory_mib > one.memory_mib:
            yield f"{host} has {one.memory_mib - memory} MiB, {vm.memory_mib} are needed"
        if vcpus + vm.vcpus > one.vcpus:
            yield f"{host} has {one.vcpus - vcpus} vCPUs, {vm.vcpus} are needed"
        if vm.consoles and one.console_limit is not None and consoles + vm.consoles > one.console_limit:
            yield f"{host} has {one.console_limit - consoles} console slots, {vm.consoles} are needed"

    def _limits(self, move: Move) -> Iterator[str]:
        limits = self.problem.limits
        for host in (move.source, move.target):
            if limits.host_parallel and self.busy[host] > limits.host_parallel:
                yield f"{self.busy[host]} moves touch {host}"
        if limits.total and self.running > limits.total:
            yield f"{self.running} moves run"

    def may_begin(self, index: int) -> bool:
        """What an executor looks at: dependencies and limits, nothing else."""
        move, limits = self.plan.moves[index], self.problem.limits
        return (
            all(j in self.ended for j in move.after)
            and (not limits.total or self.running < limits.total)
            and all(
                not limits.host_parallel or self.busy[host] < limits.host_parallel
                for host in (move.source, move.target)
            )
        )

    def at_the_end(self) -> Iterator[str]:
        """Everything is where it was to go, or said to be stranded."""
        problem = self.problem
        stranded = {one.vm for one in self.plan.stranded}
        under_way = {move.vm for move in problem.moving}
        for vm in problem.vms:
            host = self.places[vm.id][0]
            wanted = problem.fixed.get(vm.id)
            missing = host != wanted if wanted is not None else host in problem.sources
            if vm.id in problem.stays or vm.id in under_way:
                continue
            if missing and vm.id not in stranded:
                yield f"{vm.id} is left on {host}, and nobody says so"
            if not missing and vm.id in stranded:
                yield f"{vm.id} is called stranded but arrives on {host}"
        yield from self._together()

    def _together(self) -> Iterator[str]:
        groups: dict[str, list[Vm]] = defaultdict(list)
        for vm in self.problem.vms:
            for group in vm.together:
                groups[group].append(vm)
        under_way = {move.vm: move.target for move in self.problem.moving}
        for group, vms in groups.items():
            before = {under_way.get(vm.id, vm.host) for vm in vms}
            after = {self.places[vm.id][0] for vm in vms}
            if len(after) > len(before):
                yield f"group {group} was on {len(before)} hosts and ends on {len(after)}"


def verify(problem: Problem, plan: Plan) -> tuple[str, ...]:
    """What is wrong with the plan at the times it states, in words; empty when it holds at every instant."""
    world = _World(problem, plan)
    events: list[tuple[float, int, int]] = []
    for i, move in enumerate(plan.moves):
        events.append((move.start_seconds, 1, i))
        events.append((move.start_seconds + move.seconds, 0, i))
    peaks = {host: world.load(host) for host in world.hosts}
    for _, begins, index in _in_time(events):
        if begins:
            world.begin(index)
            target = plan.moves[index].target
            now = world.load(target)
            peaks[target] = (
                max(peaks[target][0], now[0]),
                max(peaks[target][1], now[1]),
                max(peaks[target][2], now[2]),
            )
        else:
            world.end(index)
    return (*world.wrong, *world.at_the_end(), *_numbers(problem, plan, world, peaks))


def _in_time(events: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """By time, ends before starts, as a host's slot is free the moment a move has ended."""
    return sorted(events, key=lambda event: (round(event[0] / TOLERANCE_SECONDS), event[1], event[2]))


def _numbers(problem: Problem, plan: Plan, world: _World, peaks: dict[str, tuple[int, int, int]]) -> Iterator[str]:
    """The plan's own figures."""
    seconds = max((move.start_seconds + move.seconds for move in plan.moves), default=0.0)
    if abs(seconds - plan.seconds) > TOLERANCE_SECONDS:
        yield f"takes {seconds} seconds, says {plan.seconds}"
    if plan.lower_bound_seconds > seconds + TOLERANCE_SECONDS:
        yield f"is faster than its own lower bound {plan.lower_bound_seconds}"
    before = _World(problem, plan)
    for load in plan.loads:
        said = tuple(zip(load.memory_mib, load.vcpus, load.consoles, strict=True))
        true = (before.load(load.host), world.load(load.host), peaks[load.host])
        if said != true:
            yield f"load of {load.host} is {true}, not {said}"


def execute(problem: Problem, plan: Plan, duration: Callable[[int, Move], float]) -> Run:
    """Runs the plan as an executor does: the first move in the plan's order that may start, does; durations are the
    caller's. Reports what was wrong, also when it comes to a standstill."""
    world = _World(problem, plan)
    waiting = list(range(len(plan.moves)))
    running: list[tuple[float, int]] = []
    now = 0.0
    while waiting or running:
        for index in list(waiting):
            if plan.moves[index].running or world.may_begin(index):
                waiting.remove(index)
                world.begin(index)
                heapq.heappush(running, (now + duration(index, plan.moves[index]), index))
        if not running:
            return Run((*world.wrong, f"{len(waiting)} moves can never start"), now)
        now, index = heapq.heappop(running)
        world.end(index)
    return Run((*world.wrong, *world.at_the_end()), now)
