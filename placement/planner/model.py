"""What is asked of the planner and what it answers: plain values, nothing of a database.

Units: MiB, vCPUs, console slots, seconds from the start of the plan. Hosts and VMs are named by their ids. Which hosts
a VM may run on is told by rules, one bitmask of hosts each (bit ``i`` stands for ``problem.hosts[i]``), so that the
rules themselves live in the scheduler's filters only. Make masks with :func:`mask_of`; VMs that ask for the same share
one tuple of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np


class Kind(StrEnum):
    """What can be in the way of a VM. The first part are kinds of rules, the second what the planner finds itself."""

    TAG = "tag"
    SOFT_TAG = "soft-tag"
    CLUSTER = "cluster"
    NETWORK = "network"
    DATASTORE = "datastore"
    LOCAL_DISK = "local-disk"
    CPU_MODEL = "cpu-model"
    HYPERVISOR = "hypervisor"
    EXCLUDED = "excluded"

    NOT_RECEIVING = "not-receiving"
    TRIED = "tried"
    FIXED = "fixed"
    APART = "apart"
    TOGETHER = "together"
    CONSOLES = "consoles"
    MEMORY = "memory"
    VCPUS = "vcpus"
    PINNED = "pinned"
    NOT_MOVABLE = "not-movable"
    ORDER = "order"


class Proof(StrEnum):
    """Whether something else could have been found."""

    PROVEN = "proven"
    NOT_FOUND = "not-found"


@dataclass(frozen=True, slots=True)
class Rule:
    """One demand of a VM and the hosts that meet it. ``kind`` is a :class:`Kind` or a filter's own name.

    A ``liftable`` rule is one that an administrator may give up for this VM (a soft tag, staying in the cluster);
    others are only named as blockers.
    """

    kind: str
    name: str
    hosts: int
    liftable: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """Capacity that may be promised (ratio and reserve applied). ``used_*``: held by what is not among the VMs.

    ``console_limit`` None: no limit. ``why_not`` tells in words why a host cannot receive.
    """

    id: str
    name: str
    cluster: str
    memory_mib: int
    vcpus: int
    console_limit: int | None = None
    used_memory_mib: int = 0
    used_vcpus: int = 0
    used_consoles: int = 0
    can_receive: bool = True
    why_not: str = ""
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM that holds capacity on ``host``. ``copy_mib``: what a move has to copy, its memory unless told otherwise.

    ``apart`` and ``together`` name strict groups, ``soft_apart`` and ``soft_together`` those that are wishes: of hosts
    that are as good, the one they like better is taken, and nothing is stranded or pushed away for them. ``why_not``
    tells in words why it is not movable.
    """

    id: str
    name: str
    host: str
    memory_mib: int
    vcpus: int
    rules: tuple[Rule, ...] = ()
    apart: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    soft_apart: tuple[str, ...] = ()
    soft_together: tuple[str, ...] = ()
    consoles: int = 0
    movable: bool = True
    pinned: bool = False
    why_not: str = ""
    copy_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Moving:
    """A migration that runs already: it holds room and a slot on both hosts for so long."""

    vm: str
    target: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Limits:
    """``host_parallel`` counts moves into and out of a host; ``total`` the whole plan's. 0: no limit."""

    host_parallel: int = 2
    total: int = 0
    rate_mib_per_second: float = 560.0
    setup_seconds: float = 2.0

    def seconds(self, vm: Vm) -> float:
        """How long a move of this VM is expected to take."""
        copied = vm.memory_mib if vm.copy_mib is None else vm.copy_mib
        return self.setup_seconds + copied / self.rate_mib_per_second


@dataclass(frozen=True, slots=True)
class Problem:
    """``sources`` are to be emptied: nothing is sent there. A VM that is ``fixed`` to a host goes there wherever it is
    now (this is also how VMs are brought home); ``tried`` hosts failed for that VM before; VMs that ``stay`` do so by
    choice and are not reported. ``vms`` are all that hold capacity on ``hosts``, not just those to be moved. Of hosts
    with room, ``preferred`` ones are taken first.
    """

    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    sources: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    fixed: Mapping[str, str] = field(default_factory=dict)
    tried: Mapping[str, frozenset[str]] = field(default_factory=dict)
    stays: frozenset[str] = frozenset()
    moving: tuple[Moving, ...] = ()
    residents_may_move: bool = True
    preferred: frozenset[str] = frozenset()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """One migration. It may start once every move of ``after`` (indices into the plan's moves) has ended and the limits
    allow it; then no order of events and no duration can overfill a host or bring two VMs together that must be apart.

    ``resident``: moves to make room for others. ``parked``: goes on from there with a later move. ``running``: it was
    under way when the plan was made.
    """

    vm: str
    source: str
    target: str
    after: tuple[int, ...]
    start_seconds: float
    seconds: float
    resident: bool = False
    parked: bool = False
    running: bool = False


@dataclass(frozen=True, slots=True)
class Blocker:
    """``hosts``: how many hosts it rules out. ``available`` is the most any host has that nothing else rules out."""

    kind: str
    name: str = ""
    hosts: int = 0
    needed: int = 0
    available: int = 0
    detail: str = ""


class Remedy(StrEnum):
    """What would let a stranded VM move; the smallest change first."""

    MOVE_RESIDENTS = "move-residents"
    LIFT_RULE = "lift-rule"
    RETRY = "retry"
    FREE_CONSOLES = "free-consoles"
    WAIT = "wait"
    UNFIX = "unfix"
    UNPIN = "unpin"
    LIFT_GROUP = "lift-group"
    RECEIVE = "receive"
    ADD_CAPACITY = "add-capacity"
    SHUT_DOWN = "shut-down"
    MEET_RULE = "meet-rule"
    SEVERAL = "several"


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One change that would let the VM go to ``host``. ``name`` is the rule's or group's name or the id of the VM to
    shut down; the numbers are what is missing."""

    remedy: Remedy
    host: str
    words: str
    kind: str = ""
    name: str = ""
    memory_mib: int = 0
    vcpus: int = 0
    consoles: int = 0


@dataclass(frozen=True, slots=True)
class Stranded:
    """A VM the plan cannot move. ``relaxations``: the smallest change first; each one alone is enough."""

    vm: str
    host: str
    blockers: tuple[Blocker, ...]
    relaxations: tuple[Relaxation, ...]
    proof: Proof
    nearest: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a host holds before, after, and at most meanwhile."""

    host: str
    memory_mib: tuple[int, int, int]
    vcpus: tuple[int, int, int]
    consoles: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """``moves`` in order of their start. ``lower_bound_seconds``: no order of these moves can be faster.

    ``proof`` PROVEN: no plan strands fewer VMs. ``solver`` tells in words what the exact solver did, if anything.
    """

    moves: tuple[Move, ...]
    stranded: tuple[Stranded, ...]
    loads: tuple[Load, ...]
    seconds: float
    lower_bound_seconds: float
    proof: Proof
    solver: str
    planning_seconds: float


def mask_of(column: Iterable[bool]) -> int:
    """The bitmask of a boolean column over the hosts."""
    bits = np.packbits(np.fromiter(column, dtype=bool), bitorder="little")
    return int.from_bytes(bits.tobytes(), "little")


def column_of(mask: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The boolean column of a bitmask, ``count`` hosts long."""
    size = (count + 7) // 8
    bits = np.frombuffer((mask & ((1 << count) - 1)).to_bytes(size, "little"), dtype=np.uint8)
    return np.unpackbits(bits, count=count, bitorder="little").astype(bool)
