"""The words of maintenance: why a VM waits, is blocked or stays. For people who manage the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloudops.hypervisors.port import Kind
from cloudops.inventory.models import Host
from placement.maintenance.options import Choice
from placement.maintenance.outlook import Remedy

OPERATION_RUNNING: Final = "operation-running"
POWERED_OFF: Final = "powered-off"
BY_CHOICE: Final = "by-choice"
UNREACHABLE: Final = "host-unreachable"
STATE_UNKNOWN: Final = "state-unknown"
MISSING: Final = "missing"
PINNED: Final = "vm-pinned"
MOVED_BY_OTHERS: Final = "moved-by-others"
NO_HOST: Final = "no-host-fits"
ABORTED: Final = "migration-cancelled"
STOP_FAILED: Final = "stop-failed"
ARRIVED: Final = "appeared"
ROOM_TAKEN: Final = "room-taken"
QUEUED: Final = "waits-for-others"


HOLDS: Final = (
    "",
    "it is being emptied",
    "it is in maintenance",
    "it is fenced",
    "it is in its platform's own maintenance mode",
)
"""Why a held host takes nothing, in the order of ``fleet.HOLDS``."""


@dataclass(frozen=True, slots=True)
class Said:
    """A reason: code, words and what to do about it."""

    code: str = ""
    words: str = ""
    remedy: str = ""


NOTHING: Final = Said()
WITHOUT_PLATFORM: Final = (
    "Then try again; or complete the maintenance as it is: CloudOps keeps the host empty by itself."
)


def remedy(choice: str, host_id: str = "", host_name: str = "", label: str = "") -> Remedy:
    """The button for one choice; ``label``: what it means here, if that is more than usual."""
    labels = {
        Choice.ACROSS: "Allow it to go to another cluster",
        Choice.DROP_SOFT_TAGS: "Do without its soft tags",
        Choice.COPY_STORAGE: "Move its local disks, too (slower)",
        Choice.MOVE_PINNED: "Move it although it is pinned",
        Choice.SKIP: "Leave it there",
        Choice.STOP: "Stop this VM",
        Choice.HOST: f"Move it to {host_name}",
        Choice.NONE: "Try again",
    }
    return Remedy(choice, label or labels[Choice(choice)], host_id, host_name, admin_only=choice == Choice.STOP)


def last_resorts(*, runs: bool) -> tuple[Remedy, ...]:
    """What is always possible: leave the VM there, or (only if it runs) stop it."""
    return (remedy(Choice.SKIP), remedy(Choice.STOP)) if runs else (remedy(Choice.SKIP),)


def after_failed_stop(*, runs: bool) -> tuple[Remedy, ...]:
    """It was asked to shut down and did not: what a button does now is another thing than before."""
    move, leave = remedy(Choice.NONE, label="Move it instead"), remedy(Choice.SKIP)
    return (move, leave, remedy(Choice.STOP, label="Power it off")) if runs else (move, leave)


def operation_running(title: str) -> Said:
    return Said(OPERATION_RUNNING, f"“{title}” is at work on it; it moves when that has ended.")


def powered_off(state: str, *, held: bool) -> Said:
    words = f"It is {state.lower()} and stays where it is."
    if held:
        words += " It cannot be started while its host is in maintenance."
    return Said(POWERED_OFF, words, "Choose a host for it if it shall move, too.")


def stays_by_choice(*, runs: bool) -> Said:
    if runs:
        return Said(BY_CHOICE, "It stays by choice and goes on running on a host in maintenance.")
    return Said(BY_CHOICE, "It stays by choice.")


def stopped_by_choice() -> Said:
    return Said(BY_CHOICE, "It was stopped by choice.")


def unreachable(host: str, detail: str) -> Said:
    return Said(
        UNREACHABLE,
        f"{host} cannot be reached, so nothing can be moved off it. {detail}".strip(),
        f"It goes on by itself when {host} is back. If it is dead, fence it: its VMs are then known to be lost.",
    )


def state_unknown() -> Said:
    return Said(STATE_UNKNOWN, "Its power state is not known yet.", "It goes on by itself once the host reports it.")


def missing(host: str) -> Said:
    return Said(MISSING, f"{host} does not report it any more: it was deleted, or moved out of CloudOps' sight.")


def pinned(host: str) -> Said:
    return Said(PINNED, f"It is pinned to {host}.", "Move it all the same if you know why it was pinned, or leave it.")


def moved_by_others(host: str) -> Said:
    return Said(MOVED_BY_OTHERS, f"Somebody else moved it to {host}.")


def appeared() -> Said:
    return Said(ARRIVED, "It came to this host after the maintenance had begun.")


def aborted(host: str, detail: str) -> Said:
    words = f"Its migration to {host} was aborted. {detail}".strip()
    return Said(ABORTED, words, "It moves again only when you say so.")


def stop_failed(detail: str) -> Said:
    remedy = "Look at its console. Ask it again to shut down; or stop this VM once more, which powers it off."
    return Said(STOP_FAILED, f"It could not be stopped: {detail}", remedy)


def failed_on(host: str, detail: str) -> Said:
    words = f"The migration to {host} failed: {detail} The next best host is tried."
    return Said("migration-failed", words)


def host_blocked(host: str, reasons: Sequence[tuple[str, str]]) -> str:
    """``reasons``: names of VMs with what blocks them."""
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons[:3])
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"{count(len(reasons), 'VM')} cannot leave {host}. {told}{more}"


def platform_of(host: Host) -> str:
    """What its platform is called. Needs ``select_related("endpoint")``."""
    return "vSphere" if host.endpoint.kind == Kind.VSPHERE else "its platform"


def foreseen(host: Host) -> str:
    return f"Once {host.name} is empty, {platform_of(host)} is asked to put it into its own maintenance mode, too."


def entering(host: Host, since: datetime) -> str:
    return f"It is empty; {platform_of(host)} puts it into its own maintenance mode (asked at {since:%H:%M:%S} UTC)."


def entered(host: Host) -> str:
    return f"It is in the maintenance mode of {platform_of(host)}."


def found(host: Host) -> str:
    platform = platform_of(host)
    return f"It was in the maintenance mode of {platform} already; whoever asked for that ends it, not CloudOps."


def not_asked(host: Host, names: Sequence[str]) -> str:
    told = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"{told} run{'s' if len(names) == 1 else ''} on there by choice, so {platform_of(host)} is not asked for its "
        "own maintenance mode: it would wait for them, or move them itself."
    )


def no_mode(host: Host) -> str:
    return f"{platform_of(host)} has no maintenance mode of its own here.".capitalize()


def leaving(host: Host) -> str:
    return f"{platform_of(host)} takes it out of its own maintenance mode."


def leaves_first(host: Host) -> str:
    return f"An earlier maintenance still takes it out of the maintenance mode of {platform_of(host)}; then it enters."


def ended_outside(host: Host) -> str:
    return (
        f"Somebody took it out of the maintenance mode of {platform_of(host)}. CloudOps still places nothing on it "
        "until this maintenance ends."
    )


def refused(host: Host, detail: str) -> str:
    return f"{host.name} is empty, but {platform_of(host)} does not put it into its own maintenance mode: {detail}"


def platform_silent(host: Host, detail: str, *, leaving: bool) -> str:
    what = "take it out of its own maintenance mode" if leaving else "put it into its own maintenance mode"
    return f"{platform_of(host)} was asked to {what} and did not answer: {detail} It is asked again."


def count(number: int, noun: str) -> str:
    """Number and noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
