"""What a simulated guest makes of the memory and CPUs it is given: it takes them at once, late, in part, or never."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from cloudops.hypervisors.port import GuestView, MemoryModel, ScalingFacts, VmFacts
from cloudops.hypervisors.simulated.store import now

USED_SHARE = 3
"""Unless said otherwise a guest uses a third of what it was started with."""


@dataclass(frozen=True, slots=True)
class SimulatedGuest:
    """How one VM's guest behaves. ``tells`` off: it has no agent and its balloon no statistics. ``used_mib`` None: a
    third of its boot memory. It takes what it is given ``after_seconds``, and of that only ``share``; ``follows`` off:
    nothing, ever."""

    tells: bool = True
    used_mib: int | None = None
    follows: bool = True
    after_seconds: float = 0.0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Pending:
    """What was asked of a guest and when: by ``balloon``, ``vcpus`` or a device's alias, what it had and is to have."""

    guest: SimulatedGuest = SimulatedGuest()
    asked_at: float = 0.0
    changes: Mapping[str, tuple[int, int]] | None = None

    def text(self) -> str:
        """Read again by :func:`pending_of`."""
        return json.dumps([asdict(self.guest), self.asked_at, dict(self.changes or {})])

    def value(self, name: str, otherwise: int, step: int = 1) -> int:
        """What the guest has of this by now."""
        before, target = (self.changes or {}).get(name, (otherwise, otherwise))
        if not self.guest.follows or now() < self.asked_at + self.guest.after_seconds:
            return before
        taken = int((target - before) * self.guest.share)
        return before + (taken // step * step if taken >= 0 else -(-taken // step * step))

    def asked(self, name: str, before: int, target: int) -> Pending:
        """The same with one more wish; earlier ones are as they stand now."""
        changes = {one: (self.value(one, had), wanted) for one, (had, wanted) in (self.changes or {}).items()}
        return replace(self, asked_at=now(), changes={**changes, name: (before, target)})


def pending_of(text: str) -> Pending:
    guest, asked_at, changes = json.loads(text)
    return Pending(SimulatedGuest(**guest), asked_at, {name: (had, wanted) for name, (had, wanted) in changes.items()})


def seen(vm: VmFacts, pending: Pending | None) -> VmFacts:
    """The VM as its platform sees it now: with what its guest has really taken."""
    facts = vm.scaling
    if pending is None or not pending.changes or facts is None or facts.memory_step_mib:
        return vm
    devices = tuple(
        replace(one, current_mib=pending.value(one.alias, one.current_mib, one.block_mib))
        if one.model is MemoryModel.VIRTIO_MEM
        else one
        for one in facts.memory_devices
    )
    balloon = pending.value("balloon", facts.balloon_mib)
    facts = replace(facts, memory_devices=devices, balloon_mib=balloon)
    return replace(vm, scaling=facts, memory_mib=real_mib(facts))


def real_mib(facts: ScalingFacts) -> int:
    """What a VM really has."""
    return facts.balloon_mib + sum(one.current_mib for one in facts.memory_devices)


def view(vm: VmFacts, pending: Pending | None) -> GuestView:
    """What the guest of a VM that runs says of itself."""
    pending = pending or Pending()
    if not pending.guest.tells or vm.scaling is None:
        return GuestView()
    return GuestView(vm.memory_mib, used_mib(vm.scaling, pending), pending.value("vcpus", vm.vcpus))


def used_mib(facts: ScalingFacts, pending: Pending | None) -> int:
    """What the guest cannot do without, whether it tells or not."""
    said = pending.guest.used_mib if pending is not None else None
    return facts.boot_memory_mib // USED_SHARE if said is None else said
