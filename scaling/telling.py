"""A plan as it is told: to people who run the fleet with everything, to others without hosts and others' numbers.

Pages and the API read the same told plan, so that neither shows more than the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloudops.inventory.models import Vm
from scaling import fingerprint, planning, words
from scaling.values import Plan, Reach, Reason, Resource, ResourcePlan, Size, Wanted

NEXT_START: Final = "next-start"
LABELS: Final = {
    Resource.GATES: "Allowed",
    Resource.VCPUS: "vCPUs",
    Resource.MEMORY: "Memory",
    Resource.CPU_SPEED: "CPU speed",
    Resource.ROOM: "Room",
}
REACHES: Final = {
    Reach.SAME: ("its present size", "neutral"),
    Reach.NOW: ("now, it is off", "ok"),
    Reach.LIVE: ("live", "ok"),
    Reach.MOVE: ("live, after a move", "ok"),
    Reach.RESTART: ("with a restart", "notice"),
    Reach.IMPOSSIBLE: ("not possible", "off"),
}
GROUPS: Final = {
    Reach.SAME: "Its present size",
    Reach.NOW: "Now, as it is off",
    Reach.LIVE: "Live",
    Reach.MOVE: "Live, after a move",
    Reach.RESTART: "With a restart",
    Reach.IMPOSSIBLE: "Not possible",
}


@dataclass(frozen=True, slots=True)
class ReasonTold:
    """Why, in words, and the ways out."""

    code: str
    words: str
    remedies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResourceTold:
    """One resource's verdict, in MiB, vCPUs or MHz per vCPU; None does not apply, or is not for this reader."""

    resource: Resource
    label: str
    unit: str
    reach: Reach
    current: int
    wanted: int
    given: int
    ceiling: int | None
    step: int | None
    free_slots: int | None
    free_here: int | None
    guest: str
    reasons: tuple[ReasonTold, ...]

    @property
    def changes(self) -> bool:
        return self.given != self.current


@dataclass(frozen=True, slots=True)
class PlanTold:
    """A plan for one reader. ``ways``: how it can be carried out at once, ``next_start``: whether at the next start;
    ``token`` goes along when it is, so that a plan that is not true any more is refused."""

    reach: Reach
    headline: str
    resources: tuple[ResourceTold, ...]
    reasons: tuple[ReasonTold, ...]
    given: Size
    moves: bool
    ways: tuple[Reach, ...]
    next_start: bool
    token: str

    @property
    def kind(self) -> str:
        """How the reach's dot looks."""
        return REACHES[self.reach][1]

    @property
    def word(self) -> str:
        """The reach in a few words."""
        return REACHES[self.reach][0]

    @property
    def remedies(self) -> tuple[str, ...]:
        """Every way out that the reasons name, each once."""
        return tuple(dict.fromkeys(words for reason in self.reasons for words in reason.remedies))

    @property
    def measured(self) -> tuple[ResourceTold, ...]:
        """The resources that have numbers."""
        return tuple(one for one in self.resources if one.resource in _UNITS)


_UNITS: Final = {Resource.VCPUS: "vCPU", Resource.MEMORY: "MiB", Resource.CPU_SPEED: "MHz"}


def amount(value: int, unit: str) -> str:
    """Exactly, as a plan is about single MiB: "1025 MiB", "2 GiB", "3 vCPUs"."""
    if unit == "MiB":
        return f"{value // 1024:,} GiB" if value and value % 1024 == 0 else f"{value:,} MiB"
    if unit == "vCPU":
        return "1 vCPU" if value == 1 else f"{value} vCPUs"
    if unit == "MHz" and not value:
        return "not set"
    return f"{value:,} {unit}".strip()


def size_words(size: Size) -> str:
    """ "2 vCPUs, 1025 MiB, 500 MHz each" """
    parts = [amount(size.vcpus, "vCPU"), amount(size.memory_mib, "MiB")]
    if size.cpu_mhz:
        parts.append(f"{'at most ' if size.cpu_cap else ''}{size.cpu_mhz:,} MHz{' each' if size.vcpus > 1 else ''}")
    return ", ".join(parts)


def tell(plan: Plan, *, sees_fleet: bool, with_token: bool = True, ways: tuple[Reach, ...] | None = None) -> PlanTold:
    """``plan`` as somebody may read it who does, or does not, see the fleet. ``ways``: see :func:`ways_to`."""
    shown = plan if sees_fleet else words.for_tenant(plan)
    return PlanTold(
        reach=shown.reach,
        headline=words.headline(shown),
        resources=tuple(_resource(one, sees_fleet=sees_fleet) for one in shown.resources),
        reasons=_reasons(shown.reasons, sees_fleet=sees_fleet),
        given=shown.given,
        moves=shown.moves,
        ways=planning.WAYS[shown.reach] if ways is None else ways,
        next_start=shown.reach in (Reach.LIVE, Reach.MOVE, Reach.RESTART),
        token=fingerprint.token(plan) if with_token else "",
    )


def ways_to(vm: Vm, wanted: Wanted, plan: Plan) -> tuple[Reach, ...]:
    """By which ways the plan can be carried out at once. A VM that has the size already may still take the offering."""
    has = (str(vm.offering_id or ""), vm.offering_version)
    if plan.reach is Reach.SAME and has != (wanted.offering, wanted.offering_version):
        return (Reach.LIVE if vm.is_running else Reach.NOW,)
    return planning.WAYS[plan.reach]


def _reasons(reasons: Iterable[Reason], *, sees_fleet: bool) -> tuple[ReasonTold, ...]:
    """Each once, in this order."""
    told = (
        ReasonTold(
            one.code,
            words.sentence(one),
            tuple(words.remedy(code, tenant=not sees_fleet) for code in one.remedies),
        )
        for one in reasons
    )
    return tuple(dict.fromkeys(told))


def _resource(plan: ResourcePlan, *, sees_fleet: bool) -> ResourceTold:
    numbers = ("resource", "reach", "current", "wanted", "given", "ceiling", "step", "free_slots", "free_here")
    return ResourceTold(
        **{name: getattr(plan, name) for name in numbers},
        label=LABELS[plan.resource],
        unit=_UNITS.get(plan.resource, ""),
        guest=str(plan.guest),
        reasons=_reasons(plan.reasons, sees_fleet=sees_fleet),
    )
