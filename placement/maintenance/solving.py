"""Asks the planner, cheaply first: only the VMs that must go; then with others making room; then with hosts that wait
for their own turn. What the plan cannot move is told with reasons and remedies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cloudops.core.models import RuntimeSettings
from placement import planner
from placement.maintenance import ground, problem, words
from placement.maintenance.ground import Asked, Ground
from placement.maintenance.options import Choice
from placement.maintenance.outlook import Remedy
from placement.planner import model

SEARCH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Solution:
    """The best plan found, and what it was made from."""

    plan: model.Plan
    problem: model.Problem
    ground: Ground
    uses_later: bool = False


@dataclass(frozen=True, slots=True)
class Cannot:
    """Why a VM cannot be moved as things are, and what would help."""

    words: str
    remedy: str
    remedies: tuple[Remedy, ...]
    proven: bool


def solve(asked: Asked, *, settings: RuntimeSettings, now: datetime, exact_seconds: float = 0.0) -> Solution:
    """``exact_seconds`` for the exact solver, and only when everything else strands VMs."""
    seen = ground.read(asked, residents=False, settings=settings, now=now)
    posed = problem.build(asked, seen, residents_may_move=False, use_later=False)
    best = Solution(planner.plan(posed, budget_seconds=SEARCH_SECONDS, exact_seconds=0.0, explain=False), posed, seen)
    if not best.plan.stranded:
        return best
    seen = ground.read(asked, residents=True, settings=settings, now=now)
    stages = (False, True) if asked.later else (False,)
    for use_later in stages:
        posed = problem.build(asked, seen, residents_may_move=True, use_later=use_later)
        seconds = exact_seconds if use_later is stages[-1] else 0.0
        found = planner.plan(posed, budget_seconds=SEARCH_SECONDS, exact_seconds=seconds)
        if len(found.stranded) <= len(best.plan.stranded):
            best = Solution(found, posed, seen, use_later)
        if not found.stranded:
            break
    if best.plan.stranded and not best.plan.stranded[0].blockers:  # the first stage is not explained
        explained = planner.plan(best.problem, budget_seconds=SEARCH_SECONDS, exact_seconds=0.0)
        best = Solution(explained, best.problem, best.ground, best.uses_later)
    return best


def explain(stranded: model.Stranded, solution: Solution, *, runs: bool) -> Cannot:
    """In words for people, with the buttons that help first."""
    names = {host.id: host.name for host in solution.problem.hosts}
    buttons = list(dict.fromkeys((*_buttons(stranded, names), *words.last_resorts(runs=runs))))
    said = [one.words for one in stranded.relaxations[:3]]
    return Cannot(
        words="No host can take it now. " + _reasons(stranded, len(solution.problem.hosts)),
        remedy=("What would help: " + "; or ".join(said) + ".") if said else "",
        remedies=tuple(buttons),
        proven=stranded.proof == model.Proof.PROVEN,
    )


def _buttons(stranded: model.Stranded, names: dict[str, str]) -> Iterator[Remedy]:
    lifted = {
        model.Kind.CLUSTER: Choice.ACROSS,
        model.Kind.SOFT_TAG: Choice.DROP_SOFT_TAGS,
        model.Kind.LOCAL_DISK: Choice.COPY_STORAGE,
    }
    for one in stranded.relaxations:
        if one.remedy == model.Remedy.LIFT_RULE and (choice := lifted.get(model.Kind(one.kind))):
            yield words.remedy(choice)
        elif one.remedy == model.Remedy.UNPIN:
            yield words.remedy(Choice.MOVE_PINNED)
        elif one.remedy in {model.Remedy.RETRY, model.Remedy.UNFIX}:
            yield words.remedy(Choice.HOST, one.host, names.get(one.host, ""))
            yield words.remedy(Choice.NONE)


_COUNTED: Final = {
    model.Kind.TAG: "lack the tag {name}",
    model.Kind.SOFT_TAG: "lack its soft tag {name}",
    model.Kind.CLUSTER: "are not in its cluster {name}",
    model.Kind.NETWORK: "lack the network {name}",
    model.Kind.DATASTORE: "do not reach the storage {name}",
    model.Kind.LOCAL_DISK: "do not reach its local disk {name}",
    model.Kind.CPU_MODEL: "have another CPU than {name}",
    model.Kind.HYPERVISOR: "run another hypervisor than {name}",
    model.Kind.EXCLUDED: "are left out",
    model.Kind.NOT_RECEIVING: "take no VMs now",
    model.Kind.TRIED: "were tried without success",
    model.Kind.FIXED: "are not the one that was chosen",
    model.Kind.APART: "run a VM that it is kept apart from ({name})",
    model.Kind.TOGETHER: "do not run the VMs that it is kept together with ({name})",
    model.Kind.CONSOLES: "have too few free console slots ({needed} needed, at most {available} free)",
    model.Kind.MEMORY: "have too little memory ({needed} MiB needed, at most {available} MiB free)",
    model.Kind.VCPUS: "have too few vCPUs ({needed} needed, at most {available} free)",
    problem.NO_URI: "have no migration URI, or are behind another vCenter",
}


def _reasons(stranded: model.Stranded, hosts: int) -> str:
    told = []
    for one in stranded.blockers:
        if one.kind in _COUNTED and one.hosts:
            text = _COUNTED[one.kind].format(name=one.name, needed=one.needed, available=one.available)
            told.append(f"{one.hosts} of {words.count(hosts, 'host')} {text}")
        elif one.detail:
            told.append(one.detail)
    return "; ".join(told) + "." if told else "There is no other host."


def closed_words(solution: Solution) -> dict[UUID, str]:
    """Hosts that take nothing now, with why: told to people whose VM finds no place."""
    return {UUID(host.id): host.why_not for host in solution.problem.hosts if host.why_not}
