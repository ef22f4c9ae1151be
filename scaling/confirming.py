"""What a VM has after a resize, and what its guest makes of it: pure, from what the hypervisor says at this moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from cloudops.hypervisors.port import MemoryModel, ResizeKind, ScalingState
from scaling import memory
from scaling.values import GuestSupport, Size

TAKEN_SHARE: Final = 0.9
"""Of a DIMM a guest counts a little less than there is: its kernel keeps a part for itself."""


@dataclass(frozen=True, slots=True)
class Seen:
    """``size``: what the VM is meant to have by its hypervisor; ``taken_mib`` what the guest has really taken of it.
    ``reached``: that is what was to be given. ``guest``: whether the guest follows, for everything that changed."""

    size: Size
    taken_mib: int
    reached: bool
    guest: GuestSupport
    guest_vcpus: int | None
    guest_mib: int | None
    words: str

    def to_json(self) -> dict[str, Any]:
        """As it is stored with the resize."""
        return asdict(self) | {"guest": str(self.guest)}


def look(
    state: ScalingState,
    *,
    was: Size,
    given: Size,
    kinds: frozenset[ResizeKind],
    started: bool,
    guest_was_mib: int | None,
) -> Seen:
    """Compares. ``kinds``: by which means it was changed live; ``started``: it was started with its size, so that there
    is nothing for the guest to follow. ``guest_was_mib``: what the guest said before."""
    meant = memory.current_mib(state.facts, state.memory_mib)
    size = Size(state.vcpus, meant, given.cpu_mhz, given.cpu_cap)
    reached = (state.vcpus, meant) == (given.vcpus, given.memory_mib)
    told, words = [], []
    if given.vcpus != was.vcpus or started:
        support = _vcpus(state, was, given, started)
        told.append(support)
        words.append(_vcpu_words(state, given, support))
    if given.memory_mib != was.memory_mib or started:
        support = _memory(state, was, given, kinds, started, guest_was_mib)
        told.append(support)
        words.append(_memory_words(state, given, support))
    if (given.cpu_mhz, given.cpu_cap) != (was.cpu_mhz, was.cpu_cap) and given.cpu_mhz:
        words.append(_speed_words(state, given))
    return Seen(
        size=size,
        taken_mib=state.memory_mib,
        reached=reached,
        guest=_worst(told),
        guest_vcpus=state.guest.vcpus,
        guest_mib=state.guest.memory_mib,
        words=" ".join(words) or f"It has {size.vcpus} vCPUs and {meant:,} MiB.",
    )


def _worst(told: list[GuestSupport]) -> GuestSupport:
    for one in (GuestSupport.NO, GuestSupport.UNKNOWN):
        if one in told:
            return one
    return GuestSupport.YES


def _vcpus(state: ScalingState, was: Size, given: Size, started: bool) -> GuestSupport:
    if state.guest.vcpus is not None and not started:
        return GuestSupport.YES if state.guest.vcpus == given.vcpus else GuestSupport.NO
    if started or given.vcpus < was.vcpus:  # a vCPU leaves only when the guest lets it go
        return GuestSupport.YES if state.vcpus == given.vcpus else GuestSupport.NO
    return GuestSupport.UNKNOWN


def _memory(
    state: ScalingState,
    was: Size,
    given: Size,
    kinds: frozenset[ResizeKind],
    started: bool,
    guest_was_mib: int | None,
) -> GuestSupport:
    behind = any(
        one.requested_mib != one.current_mib
        for one in state.facts.memory_devices
        if one.model is MemoryModel.VIRTIO_MEM
    )
    if started:
        return GuestSupport.YES
    if behind or state.memory_mib != given.memory_mib:
        return GuestSupport.NO
    if kinds & {ResizeKind.DIMM, ResizeKind.MEMORY}:
        if state.guest.memory_mib is None or guest_was_mib is None:
            return GuestSupport.UNKNOWN
        grown, wanted = state.guest.memory_mib - guest_was_mib, given.memory_mib - was.memory_mib
        return GuestSupport.YES if grown >= TAKEN_SHARE * wanted else GuestSupport.NO
    return GuestSupport.YES


def _vcpu_words(state: ScalingState, given: Size, support: GuestSupport) -> str:
    vcpus = f"{given.vcpus} vCPU{'' if given.vcpus == 1 else 's'}"
    if support is GuestSupport.UNKNOWN:
        return f"It has {vcpus}; the guest does not tell whether it uses them."
    used = state.vcpus if state.guest.vcpus is None else state.guest.vcpus
    if support is GuestSupport.YES:
        used = given.vcpus
    return f"Applied in guest: {used} of {vcpus}."


def _memory_words(state: ScalingState, given: Size, support: GuestSupport) -> str:
    if support is GuestSupport.UNKNOWN:
        return f"It has {given.memory_mib:,} MiB; the guest does not tell whether it uses them."
    return f"Applied in guest: {state.memory_mib:,} of {given.memory_mib:,} MiB."


def _speed_words(state: ScalingState, given: Size) -> str:
    words = f"CPU speed {given.cpu_mhz:,} MHz each"
    return f"{words}." if state.cpu_control else f"{words}, noted: this host does not enforce it."
