"""Whether there is room for a size: on the VM's own host, on another, and in its project's quota. No Django."""

from __future__ import annotations

from scaling.values import Reach, Reason, Resource, ResourcePlan, Room, Size, Subject, Wanted


def judge(subject: Subject, wanted: Wanted, given: Size, room: Room, *, running: bool) -> tuple[ResourcePlan, bool]:
    """``SAME`` where nothing is in the way, ``MOVE`` where it has to be another host, ``IMPOSSIBLE``; and whether it
    has to move. A VM that is off takes no room yet: only its host's whole size, its tags and the quota count."""
    quota = _quota(subject, given, room)
    away = _away(subject, wanted, given, room, running=running)
    if quota:
        return _plan(subject, wanted, given, room, Reach.IMPOSSIBLE, (*quota, *away)), False
    if not away:
        return _plan(subject, wanted, given, room, Reach.SAME, ()), False
    if room.elsewhere <= 0:
        numbers = {"vcpus": given.vcpus, "memory_mib": given.memory_mib, "offering": wanted.offering_name}
        none = Reason("no-room-elsewhere", numbers, ("smaller-size", "make-room"))
        return _plan(subject, wanted, given, room, Reach.IMPOSSIBLE, (*away, none)), False
    return _plan(subject, wanted, given, room, Reach.MOVE, away), True


def _quota(subject: Subject, given: Size, room: Room) -> tuple[Reason, ...]:
    found = []
    ways = ("smaller-size", "ask-for-quota")
    if room.quota_vcpus is not None and given.vcpus > max(subject.size.vcpus, room.quota_vcpus):
        numbers = {"wanted": given.vcpus, "left": max(0, room.quota_vcpus), "current": subject.size.vcpus}
        found.append(Reason("quota-vcpus", numbers, ways))
    if room.quota_memory_mib is not None and given.memory_mib > max(subject.size.memory_mib, room.quota_memory_mib):
        numbers = {
            "wanted": given.memory_mib,
            "left": max(0, room.quota_memory_mib),
            "current": subject.size.memory_mib,
        }
        found.append(Reason("quota-memory", numbers, ways))
    return tuple(found)


def _away(subject: Subject, wanted: Wanted, given: Size, room: Room, *, running: bool) -> tuple[Reason, ...]:
    """Why it cannot stay where it is."""
    found = []
    missing = sorted(set(wanted.tags) - subject.host_tags)
    if missing:
        tags = {"missing": missing, "host": subject.host_name, "offering": wanted.offering_name}
        found.append(Reason("host-tags", tags, ("other-offering",)))
    if subject.host_threads and subject.size.vcpus < given.vcpus > subject.host_threads:
        numbers = {"wanted": given.vcpus, "whole": subject.host_threads, "host": subject.host_name}
        found.append(Reason("beyond-host-vcpus", numbers, ("smaller-size",)))
    if subject.host_memory_mib and subject.size.memory_mib < given.memory_mib > subject.host_memory_mib:
        numbers = {"wanted": given.memory_mib, "whole": subject.host_memory_mib, "host": subject.host_name}
        found.append(Reason("beyond-host-memory", numbers, ("smaller-size",)))
    if not found and running:
        return _no_room(subject, given, room)
    return tuple(found)


def _no_room(subject: Subject, given: Size, room: Room) -> tuple[Reason, ...]:
    vcpus, memory = given.vcpus - subject.size.vcpus, given.memory_mib - subject.size.memory_mib
    if vcpus <= 0 and memory <= 0:
        return ()
    if not room.here_open:
        return (Reason("host-closed", {"host": subject.host_name}, ("make-room",)),)
    found = []
    if vcpus > max(0, room.free_vcpus):
        numbers = {"needed": vcpus, "free": max(0, room.free_vcpus), "host": subject.host_name}
        found.append(Reason("no-room-vcpus", numbers, ("smaller-size", "make-room")))
    if memory > max(0, room.free_memory_mib):
        numbers = {"needed": memory, "free": max(0, room.free_memory_mib), "host": subject.host_name}
        found.append(Reason("no-room-memory", numbers, ("smaller-size", "make-room")))
    return tuple(found)


def _plan(
    subject: Subject, wanted: Wanted, given: Size, room: Room, reach: Reach, reasons: tuple[Reason, ...]
) -> ResourcePlan:
    return ResourcePlan(
        Resource.ROOM,
        reach,
        current=subject.size.memory_mib,
        wanted=wanted.size.memory_mib,
        given=given.memory_mib,
        free_here=max(0, room.free_memory_mib),
        reasons=reasons,
    )
