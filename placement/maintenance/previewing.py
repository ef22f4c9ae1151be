"""A dry run of a whole job with virtual consumption: what would move where, when, and what is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from cloudops.core import runtime
from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Connection, Host, Vm
from placement import planner
from placement.maintenance import ground, platform, problem, words
from placement.maintenance.errors import NoHosts, UnknownHost
from placement.maintenance.ground import ALIVE, Asked
from placement.maintenance.judging import Row, Verdict, judge
from placement.maintenance.looking import busy_of, held_by_others, seen
from placement.maintenance.options import Choice, Mode, Options
from placement.maintenance.outlook import Amount, Blocker, HostOutlook, Preview, Stay, VmMovePlan
from placement.maintenance.solving import Solution, explain, solve
from placement.maintenance.starting import across, demand_known_choices
from placement.models import MoveStatus
from placement.planner import model

TURN_SECONDS: Final = 0.5
EXACT_SECONDS: Final = 2.0


def preview(
    *,
    host_ids: Iterable[UUID],
    options: Options | None = None,
    now: datetime,
    exact_seconds: float = EXACT_SECONDS,
) -> Preview:
    """What :func:`placement.maintenance.start` would do now. Changes nothing.

    ``exact_seconds``: how long the exact solver may look for a proof when VMs find no place. Raises ``NoHosts`` and
    ``UnknownHost``.
    """
    ids = list(dict.fromkeys(host_ids))
    options = options or Options()
    if not ids:
        raise NoHosts
    hosts = {host.pk: host for host in Host.objects.filter(pk__in=ids).select_related("cluster", "endpoint")}
    if missing := [pk for pk in ids if pk not in hosts]:
        raise UnknownHost(f"{words.count(len(missing), 'host')} of {len(ids)} not found.", hosts=len(missing))
    demand_known_choices(options)
    settings = runtime.current()
    sorted_out = _Sorted.of(Vm.objects.filter(host_id__in=ids).select_related("host"), options)
    at_once = min(options.hosts_at_once or len(ids), len(ids))
    batches = [ids[start : start + at_once] for start in range(0, len(ids), at_once)]
    asked = sorted_out.asked(ids, batches, options, settings)
    if len(batches) == 1:
        turns = [_Turn.of_solution(1, solve(asked, settings=settings, now=now, exact_seconds=exact_seconds))]
    else:
        turns = _in_turns(asked, batches, settings, now)
    return _told(options, hosts, sorted_out, turns)


@dataclass
class _Sorted:
    """The hosts' VMs by what is to be done with them."""

    vms: dict[UUID, Vm] = field(default_factory=dict)
    go: dict[UUID, Verdict] = field(default_factory=dict)
    stay: dict[UUID, Verdict] = field(default_factory=dict)
    stop: dict[UUID, Verdict] = field(default_factory=dict)
    blocked: dict[UUID, Verdict] = field(default_factory=dict)

    @classmethod
    def of(cls, vms: Iterable[Vm], options: Options) -> _Sorted:
        found = cls({vm.pk: vm for vm in vms})
        busy = busy_of(found.vms)
        leaving = {vm.host_id for vm in found.vms.values()}
        for pk, vm in found.vms.items():
            chosen = options.choice(pk)
            row = Row(status=MoveStatus.WAITING, choice=chosen.main, relaxed=chosen.relaxed)
            operation = busy.get(pk)
            verdict = judge(
                row,
                seen(vm, operation.title if operation is not None else ""),
                leaving=leaving,
                move_powered_off=options.move_powered_off,
            )
            found._place(pk, verdict, chosen.main)
        return found

    def _place(self, pk: UUID, verdict: Verdict, main: str) -> None:
        if verdict.status == MoveStatus.BLOCKED:
            self.blocked[pk] = verdict
        elif verdict.status == MoveStatus.WAITING:
            (self.stop if main == Choice.STOP else self.go)[pk] = verdict
        elif verdict.status in {MoveStatus.SKIPPED, MoveStatus.STOPPED, MoveStatus.GONE}:
            self.stay[pk] = verdict

    def asked(
        self, ids: Sequence[UUID], batches: Sequence[Sequence[UUID]], options: Options, settings: RuntimeSettings
    ) -> Asked:
        """The first turn; when there are more, hosts of later ones are known to be emptied, too."""
        closed = {pk: why for pk, why in held_by_others(None).items() if pk not in ids}
        return Asked(
            leaving=frozenset(ids),
            closed=closed,
            choices=options.choices,
            stays=frozenset(pk for pk in self.vms if pk not in self.go),
            off=frozenset(pk for pk in self.go if self.vms[pk].power_state not in ALIVE),
            across_clusters=across(options, settings),
            host_parallel=options.host_parallel,
        )


@dataclass(frozen=True)
class _Turn:
    """One turn's plan and the problem that it answers."""

    number: int
    solution: Solution

    @classmethod
    def of_solution(cls, number: int, solution: Solution) -> _Turn:
        return cls(number, solution)


def _in_turns(asked: Asked, batches: Sequence[Sequence[UUID]], settings: RuntimeSettings, now: datetime) -> list[_Turn]:
    """Turn after turn: hosts that had theirs take VMs again, those that have not are used only if nothing else is."""
    read = ground.read(asked, residents=True, settings=settings, now=now)
    base = problem.build(asked, read, residents_may_move=True, use_later=True)
    usable = problem.build(replace(asked, leaving=frozenset()), read, residents_may_move=True, use_later=True).hosts
    vms = {vm.id: vm for vm in base.vms}
    turns: list[_Turn] = []
    for index, batch in enumerate(batches):
        sources = frozenset(str(pk) for pk in batch)
        later = {str(pk) for other in batches[index + 1 :] for pk in other}
        posed = replace(
            base,
            hosts=tuple(_closed(host) if host.id in sources else host for host in usable),
            vms=tuple(vms.values()),
            sources=sources,
            preferred=frozenset(host.id for host in usable if host.id not in later),
            moving=base.moving if index == 0 else (),
        )
        plan = planner.plan(posed, budget_seconds=TURN_SECONDS, exact_seconds=0.0)
        turns.append(_Turn(index + 1, Solution(plan, posed, read)))
        for move in plan.moves:
            vms[move.vm] = replace(vms[move.vm], host=move.target)
    return turns


def _closed(host: model.Host) -> model.Host:
    return replace(host, can_receive=False, why_not="it is being emptied")


def _told(options: Options, hosts: Mapping[UUID, Host], sorted_out: _Sorted, turns: Sequence[_Turn]) -> Preview:
    blockers = [_blocker(sorted_out.vms[pk], verdict) for pk, verdict in sorted_out.blocked.items()]
    blockers += [one for turn in turns for one in _stranded(turn, sorted_out)]
    unproven = any(turn.solution.plan.stranded and turn.solution.plan.proof != model.Proof.PROVEN for turn in turns)
    proof = ("not-found" if unproven else "proven") if blockers else ""
    return Preview(
        options=options,
        moves=tuple(one for turn in turns for one in _moves(turn, sorted_out)),
        hosts=tuple(_outlooks(turns, hosts)),
        blockers=tuple(blockers),
        stays=tuple(_stay(sorted_out.vms[pk], verdict) for pk, verdict in sorted_out.stay.items()),
        stops=tuple(_stay(sorted_out.vms[pk], verdict) for pk, verdict in sorted_out.stop.items()),
        warnings=tuple(_warnings(hosts, turns)),
        platform=tuple(_platform(hosts, options, sorted_out)),
        seconds=sum(turn.solution.plan.seconds for turn in turns),
        lower_bound_seconds=sum(turn.solution.plan.lower_bound_seconds for turn in turns),
        turns=len(turns),
        proof=proof,
        proof_words=_proof_words(proof, turns),
        planning_seconds=sum(turn.solution.plan.planning_seconds for turn in turns),
    )


def _proof_words(proof: str, turns: Sequence[_Turn]) -> str:
    if not proof:
        return ""
    if proof == "proven":
        return "It is proven that no other plan moves more of these VMs as things are."
    said = next((turn.solution.plan.solver for turn in turns if turn.solution.plan.solver), "")
    return f"No better plan was found; that is no proof that there is none. {said}".strip()


def _blocker(vm: Vm, verdict: Verdict) -> Blocker:
    first = (words.remedy(Choice.MOVE_PINNED),) if verdict.said.code == words.PINNED else ()
    return Blocker(
        vm_id=vm.pk,
        vm_name=vm.name,
        host_id=vm.host_id,
        host_name=vm.host.name,
        code=verdict.said.code,
        words=f"{verdict.said.words} {verdict.said.remedy}".strip(),
        remedies=(*first, *words.last_resorts(runs=vm.power_state in ALIVE)),
        proven=True,
    )


def _stranded(turn: _Turn, sorted_out: _Sorted) -> Iterable[Blocker]:
    names = {host.id: host.name for host in turn.solution.problem.hosts}
    by_id = {vm.id: vm for vm in turn.solution.problem.vms}
    for one in turn.solution.plan.stranded:
        vm = sorted_out.vms.get(UUID(one.vm))
        cannot = explain(one, turn.solution, runs=vm is None or vm.power_state in ALIVE)
        yield Blocker(
            vm_id=UUID(one.vm),
            vm_name=by_id[one.vm].name,
            host_id=UUID(one.host),
            host_name=names[one.host],
            code=words.NO_HOST,
            words=f"{cannot.words} {cannot.remedy}".strip(),
            remedies=cannot.remedies,
            proven=cannot.proven,
        )


def _stay(vm: Vm, verdict: Verdict) -> Stay:
    code = verdict.said.code or words.BY_CHOICE
    said = verdict.said.words or "It will be shut down, by choice."
    back = (words.remedy(Choice.NONE),) if code == words.BY_CHOICE else ()
    return Stay(vm.pk, vm.name, vm.host_id, vm.host.name, code, said, back)


def _moves(turn: _Turn, sorted_out: _Sorted) -> Iterable[VmMovePlan]:
    hosts = {host.id: host for host in turn.solution.problem.hosts}
    vms = {vm.id: vm for vm in turn.solution.problem.vms}
    alive = {vm.pk: vm.alive for vm in turn.solution.ground.vms}
    plan = turn.solution.plan
    for index, move in enumerate(plan.moves):
        if move.running:
            continue
        verdict = sorted_out.go.get(UUID(move.vm))
        yield VmMovePlan(
            vm_id=UUID(move.vm),
            vm_name=vms[move.vm].name,
            from_host_id=UUID(move.source),
            from_host_name=hosts[move.source].name,
            to_host_id=UUID(move.target),
            to_host_name=hosts[move.target].name,
            order=index,
            start_seconds=move.start_seconds,
            seconds=move.seconds,
            consoles=vms[move.vm].consoles,
            live=alive.get(UUID(move.vm), True),
            resident=move.resident,
            across_clusters=hosts[move.source].cluster != hosts[move.target].cluster,
            turn=turn.number,
            note=verdict.said.words if verdict is not None else "",
            after=tuple(UUID(plan.moves[one].vm) for one in move.after),
        )


def _outlooks(turns: Sequence[_Turn], emptied: Mapping[UUID, Host]) -> Iterable[HostOutlook]:
    """Emptied hosts first, then those that VMs arrive at or leave, in the fleet's order."""
    at_turn = {source: turn.number for turn in turns for source in turn.solution.problem.sources}
    rows = []
    for host in turns[0].solution.problem.hosts:
        loads = [load for turn in turns for load in turn.solution.plan.loads if load.host == host.id]
        moves = [move for turn in turns for move in turn.solution.plan.moves]
        arriving = sum(1 for move in moves if move.target == host.id)
        leaving = sum(1 for move in moves if move.source == host.id)
        own = UUID(host.id) in emptied
        if not loads or not (own or arriving or leaving):
            continue
        rows.append(
            HostOutlook(
                host_id=UUID(host.id),
                name=host.name,
                cluster=host.cluster,
                emptied=own,
                turn=at_turn.get(host.id, 0) if len(turns) > 1 else int(own),
                vcpu_capacity=host.vcpus,
                memory_capacity_mib=host.memory_mib,
                before=Amount(loads[0].vcpus[0], loads[0].memory_mib[0]),
                after=Amount(loads[-1].vcpus[1], loads[-1].memory_mib[1]),
                peak=Amount(max(one.vcpus[2] for one in loads), max(one.memory_mib[2] for one in loads)),
                arriving=arriving,
                leaving=leaving,
            )
        )
    return sorted(rows, key=lambda row: (not row.emptied, row.turn))


def _platform(hosts: Mapping[UUID, Host], options: Options, sorted_out: _Sorted) -> Iterable[str]:
    if options.mode != Mode.MAINTENANCE:
        return
    running = [sorted_out.vms[pk] for pk in sorted_out.stay if sorted_out.vms[pk].power_state in ALIVE]
    for host in hosts.values():
        if platform.has_mode(host):
            staying = [vm.name for vm in running if vm.host_id == host.pk]
            yield f"{host.name}: {words.not_asked(host, staying)}" if staying else words.foreseen(host)


def _warnings(hosts: Mapping[UUID, Host], turns: Sequence[_Turn]) -> Iterable[str]:
    busy = held_by_others(None)
    for pk, host in hosts.items():
        if host.connection != Connection.UP:
            yield f"{host.name} cannot be reached, so nothing can be moved off it now. {host.error_detail}".strip()
        if pk in busy:
            yield f"{host.name}: {busy[pk]}."
    twice = sum(1 for turn in turns for move in turn.solution.plan.moves if move.resident and not move.running)
    if twice:
        yield f"{words.count(twice, 'move')} more than VMs that must leave: others make room, or move again later."
