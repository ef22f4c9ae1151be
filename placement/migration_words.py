"""A migration's progress: what is stored of a hypervisor's status, and the words that people read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cloudops.hypervisors.port import HypervisorError, Kind, MigrationStatus, Objection
from cloudops.inventory.sync import CredentialUnreadable
from placement.models import VmMigration

MIB = "MiB"
MOST_NAMES = 3
REACHING_SECONDS = 5.0
"""A destination that answers has taken the first memory by then."""


def progress_of(status: MigrationStatus) -> dict[str, Any]:
    """A status as it is stored: sizes in MiB, rate in MiB/s, ``percent`` of the memory that is over there."""
    total, remaining = status.memory_total_mib, status.memory_remaining_mib
    percent = max(0, min(100, round(100 * (total - remaining) / total))) if total else 0
    return {
        "memory_total_mib": total,
        "memory_remaining_mib": remaining,
        "memory_sent_mib": status.memory_sent_mib,
        "rate_mib_per_second": round(status.rate_mib_per_second, 1),
        "downtime_milliseconds": status.downtime_milliseconds,
        "elapsed_seconds": round(status.elapsed_seconds, 1),
        "post_copy": status.post_copy,
        "percent": percent,
    }


def copying(progress: dict[str, Any]) -> str:
    """ "812 of 2,048 MiB left, 118.2 MiB/s"."""
    total = progress.get("memory_total_mib", 0)
    if not total:
        return "Under way."
    words = f"{progress['memory_remaining_mib']:,} of {total:,} {MIB} left, {progress['rate_mib_per_second']:,} {MIB}/s"
    return f"{words}; it runs at the destination already (post-copy)" if progress.get("post_copy") else words


def under_way(row: VmMigration, now: datetime) -> str:
    """How far it is, or what is waited for while nothing flows."""
    waited_seconds = (now - row.copying_since).total_seconds() if row.copying_since else 0.0
    tells_when = row.target.endpoint.kind == Kind.VSPHERE or waited_seconds < REACHING_SECONDS
    if row.progress.get("memory_total_mib") or tells_when:
        return copying(row.progress)
    return reaching(row.source.name, row.target.name)


def reaching(source: str, target: str) -> str:
    """While nothing has come of it yet, between libvirt daemons: vCenter says at once what it cannot do."""
    return (
        f"{source} tries to reach {target}. If it cannot, it gives up after about two minutes and cannot be stopped "
        f"from that; check {target}'s migration URI meanwhile."
    )


def copied(progress: dict[str, Any]) -> str:
    """What was sent in all, how long it took and how long the VM stood still, as far as the platform tells."""
    sent, pause = progress.get("memory_sent_mib", 0), progress.get("downtime_milliseconds")
    words = f"{sent:,} {MIB} sent" if sent else "Done"
    if progress.get("elapsed_seconds"):
        words += f" in {progress['elapsed_seconds']:g} s"
    return f"{words}; the VM stood still for {pause:.0f} ms" if pause is not None else words


def stored_error(error: HypervisorError) -> dict[str, str]:
    """A hypervisor's error as it is kept in the row, so that another runner can tell it."""
    return {"code": error.code[:64], "detail": error.detail or error.title, "remedy": error.remedy}


def stored_objections(objections: Sequence[Objection]) -> dict[str, str]:
    """What speaks against it, the first with its code and remedy, the others in words."""
    first = objections[0]
    return {"code": first.code[:64], "detail": " ".join(one.detail for one in objections), "remedy": first.remedy}


def waiting(host_name: str, moving: int, limit: int, *, names: Sequence[str] = (), dead: Sequence[str] = ()) -> str:
    """Why it does not begin yet: ``names`` of the VMs that are in the way, and hosts of theirs that do not answer."""
    where = f"on {host_name}" if host_name else "in all"
    words = f"Waits for its turn: {moving} of at most {limit} migrations are under way {where}"
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        words += f" ({', '.join(names[:MOST_NAMES])}{more})"
    return f"{words}.{' '.join(['', *(fence(one) for one in dead)])}"


def fence(host_name: str) -> str:
    """The way out when a host may be dead."""
    return f"{host_name} does not answer: fence {host_name} if it is dead."


def silent(sides: Sequence[tuple[str, HypervisorError | None]]) -> str:
    """What can be done about each host that could not be asked; empty when all could be."""
    words = []
    for name, error in sides:
        if isinstance(error, CredentialUnreadable):
            words.append(f"{name}: {error.title} {error.remedy}")
        elif error is not None:
            words.append(f"If {name} is dead, fence {name}.")
    return " ".join(["", *words])
