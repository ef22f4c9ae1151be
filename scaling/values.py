"""What preflight speaks of: sizes, what a VM is now, what is wanted, where there is room, and the plan. No Django.

Sizes are MiB and MHz per vCPU. Everything is frozen and plain, so that a plan can be compared, stored and made again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudops.hypervisors.port import Kind, PowerState, ResizeStep, ScalingFacts, Shape


class Reach(enum.StrEnum):
    """How a size is reached, from the easiest on. ``NOW``: the VM is off, so its definition is changed at once."""

    SAME = "same"
    NOW = "now"
    LIVE = "live"
    MOVE = "move"
    RESTART = "restart"
    IMPOSSIBLE = "impossible"


ORDER = {reach: number for number, reach in enumerate(Reach)}


class Resource(enum.StrEnum):
    """What a plan judges: three things a VM has, and whether it may be resized at all."""

    GATES = "gates"
    VCPUS = "vcpus"
    MEMORY = "memory"
    CPU_SPEED = "cpu_speed"
    ROOM = "room"


class GuestSupport(enum.StrEnum):
    """Whether the guest follows a change of this resource: seen to, not known, or seen not to."""

    YES = "yes"
    UNKNOWN = "unknown"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Size:
    """What a VM has, or is to have. ``cpu_mhz`` 0: no share is set; ``cpu_cap``: never more than that."""

    vcpus: int
    memory_mib: int
    cpu_mhz: int = 0
    cpu_cap: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A size that somebody wants, and the offering behind it, as far as preflight cares."""

    size: Size
    offering: str
    offering_name: str
    offering_version: int
    dynamic: bool
    enabled: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A VM as preflight sees it. ``facts`` None: the hypervisor tells nothing of its ceiling. ``allowed``: the
    installation and the VM allow live scaling. ``used_mib`` what the guest cannot do without, None when not known;
    ``busy`` the title of the operation at work on it. ``host_*``: the whole host, beyond which no ceiling goes."""

    vm: str
    name: str
    kind: Kind
    power_state: PowerState
    reported: bool
    size: Size
    facts: ScalingFacts | None
    installation_allows: bool
    vm_allows: bool
    host: str
    host_name: str
    host_up: bool
    host_threads: int
    host_memory_mib: int
    host_mhz: int
    host_tags: frozenset[str]
    guest_os: str = ""
    used_mib: int | None = None
    cpu_control: bool = True
    virtio_mem_seen: bool = False
    busy: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """Room for this VM: what is free on its own host (``here_open``: at all), how many other hosts could take it at
    the wanted size, and what is left of its project's quota (None: no quota), this VM's present size not counted."""

    free_vcpus: int
    free_memory_mib: int
    here_open: bool
    elsewhere: int
    quota_vcpus: int | None = None
    quota_memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, by code; ``words`` makes sentences of it. ``remedy``: codes of ways out, see ``words``."""

    code: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """One resource's verdict with its numbers. ``given`` is ``wanted`` rounded up to what can be had; None stands for a
    number that does not apply or is not known."""

    resource: Resource
    reach: Reach
    current: int
    wanted: int
    given: int
    ceiling: int | None = None
    step: int | None = None
    free_slots: int | None = None
    free_here: int | None = None
    guest: GuestSupport = GuestSupport.UNKNOWN
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How a VM gets to a size. ``reach`` is the worst of the resources'. ``steps`` are the live changes in their order
    (also after a move); ``moves``: it has to go to another host first, whether live or with a restart. ``shape`` is
    what the VM would be started as with this size. ``basis``: what the verdicts rest on, by name, for the fingerprint.
    """

    reach: Reach
    resources: tuple[ResourcePlan, ...]
    given: Size
    moves: bool
    steps: tuple[ResizeStep, ...]
    shape: Shape
    basis: Mapping[str, Any]

    def of(self, resource: Resource) -> ResourcePlan:
        """One resource's part. Raises KeyError for one that the plan does not judge."""
        for one in self.resources:
            if one.resource is resource:
                return one
        raise KeyError(resource)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All reasons, the worst resource's first."""
        ordered = sorted(self.resources, key=lambda one: -ORDER[one.reach])
        return tuple(reason for one in ordered for reason in one.reasons)
