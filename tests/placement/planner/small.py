"""Small fleets, written down in a few words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from placement.planner.model import Host, Kind, Limits, Plan, Problem, Relaxation, Remedy, Rule, Stranded, Vm

GIB = 1024


def host(name: str, memory_gib: int = 100, vcpus: int = 64, **more: Any) -> Host:
    """A host whose id is its name."""
    more.setdefault("cluster", "c")
    return Host(id=name, name=name, memory_mib=memory_gib * GIB, vcpus=vcpus, **more)


def vm(name: str, on: str, memory_gib: int = 10, vcpus: int = 1, **more: Any) -> Vm:
    """A VM whose id is its name."""
    return Vm(id=name, name=name, host=on, memory_mib=memory_gib * GIB, vcpus=vcpus, **more)


def rule(kind: Kind, name: str, admits: Iterable[int], *, liftable: bool = False) -> Rule:
    """A rule that the hosts at these positions meet."""
    return Rule(kind, name, sum(1 << i for i in admits), liftable)


def problem(hosts: Iterable[Host], vms: Iterable[Vm], *sources: str, **more: Any) -> Problem:
    """Ten seconds for 10 GiB, two moves per host, unless told otherwise."""
    more.setdefault("limits", Limits(host_parallel=2, rate_mib_per_second=GIB, setup_seconds=0.0))
    return Problem(tuple(hosts), tuple(vms), frozenset(sources), **more)


def targets(plan: Plan) -> dict[str, str]:
    """Where each moved VM ends."""
    return {move.vm: move.target for move in plan.moves}


def kinds(stranded: Stranded) -> set[str]:
    return {blocker.kind for blocker in stranded.blockers}


def relaxed(asked: Problem, stranded: Stranded, change: Relaxation) -> Problem:
    """The problem with one relaxation applied, as an administrator would."""
    hosts = {one.id: one for one in asked.hosts}
    vms = {one.id: one for one in asked.vms}
    this = vms[stranded.vm]
    if change.remedy is Remedy.MOVE_RESIDENTS:
        return replace(asked, residents_may_move=True)
    if change.remedy is Remedy.RETRY:
        return replace(asked, tried={**asked.tried, this.id: asked.tried[this.id] - {change.host}})
    if change.remedy is Remedy.UNFIX:
        return replace(asked, fixed={name: to for name, to in asked.fixed.items() if name != this.id})
    if change.remedy is Remedy.SHUT_DOWN:
        del vms[change.name]
    elif change.remedy in (Remedy.UNPIN, Remedy.WAIT):
        vms[this.id] = replace(this, pinned=False, movable=True)
    elif change.remedy is Remedy.LIFT_RULE:
        vms[this.id] = replace(
            this, rules=tuple(r for r in this.rules if (r.kind, r.name) != (change.kind, change.name))
        )
    elif change.remedy is Remedy.LIFT_GROUP:
        apart = tuple(name for name in this.apart if name != change.name)
        vms[this.id] = replace(this, apart=apart, together=() if change.kind == Kind.TOGETHER else this.together)
    elif change.remedy is Remedy.MEET_RULE:
        bit = 1 << list(hosts).index(change.host)
        met = tuple(
            replace(r, hosts=r.hosts | bit) if (r.kind, r.name) == (change.kind, change.name) else r for r in this.rules
        )
        vms[this.id] = replace(this, rules=met)
    else:
        hosts[change.host] = _bigger(hosts[change.host], change)
    return replace(asked, hosts=tuple(hosts.values()), vms=tuple(vms.values()))


def _bigger(one: Host, change: Relaxation) -> Host:
    if change.remedy is Remedy.RECEIVE:
        return replace(one, can_receive=True)
    if change.remedy is Remedy.FREE_CONSOLES:
        assert one.console_limit is not None
        return replace(one, console_limit=one.console_limit + change.consoles)
    assert change.remedy is Remedy.ADD_CAPACITY
    return replace(one, memory_mib=one.memory_mib + change.memory_mib, vcpus=one.vcpus + change.vcpus)
