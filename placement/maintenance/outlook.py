"""What a preview tells: plain values for pages and API, nothing to be saved.

Units: MiB, vCPUs, seconds from the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from placement.maintenance.options import Options


@dataclass(frozen=True, slots=True)
class Remedy:
    """One click: ``choice`` (and ``host_id``) are what :func:`placement.maintenance.choose` and ``Options.choices``
    take. ``admin_only``: the VM is stopped by it, so it needs more than managing the fleet."""

    choice: str
    label: str
    host_id: str = ""
    host_name: str = ""
    admin_only: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class VmMovePlan:
    """One migration of the plan. ``turn``: 1 for the hosts that go first, 2 for the next. ``resident``: on no host
    that is emptied, it makes room for others. ``after``: ids of VMs whose moves must have ended before this one starts.
    """

    vm_id: UUID
    vm_name: str
    from_host_id: UUID
    from_host_name: str
    to_host_id: UUID
    to_host_name: str
    order: int
    start_seconds: float
    seconds: float
    consoles: int
    live: bool
    resident: bool
    across_clusters: bool
    turn: int
    note: str = ""
    after: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Amount:
    """CPU and memory promised on a host at one moment."""

    vcpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class HostOutlook:
    """A host before, after, and at most meanwhile. ``emptied``: it is one of those that the job empties."""

    host_id: UUID
    name: str
    cluster: str
    emptied: bool
    turn: int
    vcpu_capacity: int
    memory_capacity_mib: int
    before: Amount
    peak: Amount
    after: Amount
    arriving: int
    leaving: int


@dataclass(frozen=True, slots=True)
class Blocker:
    """A VM that cannot leave as things are. ``proven``: no other plan could move it, short of the remedies."""

    vm_id: UUID
    vm_name: str
    host_id: UUID
    host_name: str
    code: str
    words: str
    remedies: tuple[Remedy, ...] = ()
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """A VM that stays where it is, and why. ``remedies``: what would make it move after all."""

    vm_id: UUID
    vm_name: str
    host_id: UUID
    host_name: str
    code: str
    words: str
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """A dry run of the whole job. ``warnings``: words on the job itself (a host cannot be reached, others are being
    emptied). ``platform``: what is asked of the hosts' platform once they are empty. ``stops``: VMs that will be
    stopped because that was chosen for them. ``proof``: "proven" when no plan strands fewer VMs, "not-found" when a
    better one was merely not found, "" without blockers."""

    options: Options
    moves: tuple[VmMovePlan, ...] = ()
    hosts: tuple[HostOutlook, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    stays: tuple[Stay, ...] = ()
    stops: tuple[Stay, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    lower_bound_seconds: float = 0.0
    turns: int = 1
    proof: str = ""
    proof_words: str = ""
    platform: tuple[str, ...] = ()
    planning_seconds: float = field(default=0.0, compare=False)

    @property
    def consoles(self) -> int:
        """Open consoles that follow their VMs."""
        return sum(move.consoles for move in self.moves)

    @property
    def destinations(self) -> tuple[HostOutlook, ...]:
        """The hosts that VMs arrive at."""
        return tuple(host for host in self.hosts if host.arriving)

    @property
    def can_empty(self) -> bool:
        """Whether every VM that has to leave can."""
        return not self.blockers


def ordered(moves: Iterable[VmMovePlan]) -> tuple[VmMovePlan, ...]:
    """By turn, then by their start."""
    return tuple(sorted(moves, key=lambda move: (move.turn, move.order)))
