"""What is to be done with one VM of a maintenance job, given what is known of it now. Pure: no database, no clock.

``judge`` is asked again at every look, so that whatever changed meanwhile, and whoever changed it, is acted on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cloudops.hypervisors.port import PowerState
from placement.maintenance import words
from placement.maintenance.options import Choice
from placement.maintenance.words import NOTHING, Said
from placement.models import MoveStatus

ALIVE: Final = frozenset({PowerState.RUNNING, PowerState.PAUSED})
BY_ITSELF: Final = frozenset({words.PINNED, words.UNREACHABLE, words.STATE_UNKNOWN})
"""Blocks that end the moment their reason does; others end by a new plan, or when somebody says so."""
AT_REST: Final = frozenset({MoveStatus.SKIPPED, MoveStatus.STOPPED})
"""VMs of which nothing is wanted as long as they do not run."""
BY_HAND: Final = frozenset({words.ABORTED, words.STOP_FAILED})
"""Blocks that end only when somebody says so."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A VM as the inventory has it now. ``busy``: title of the operation at work on it, unless it is the job's own."""

    power_state: str
    state_words: str
    host_id: UUID
    host_name: str
    host_up: bool
    host_error: str = ""
    missing: bool = False
    pinned: bool = False
    busy: str = ""

    @property
    def alive(self) -> bool:
        return self.power_state in ALIVE


@dataclass(frozen=True, slots=True)
class Ended:
    """How the job's own operation on the VM ended. ``target_name``: where the migration was to go."""

    ok: bool
    code: str = ""
    detail: str = ""
    target_id: str = ""
    target_name: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What the job's row says. ``running``: its own operation is still at work; ``ended``: it is not any more.
    ``makes_room``: it moves for others' sake; ``returns``: it is brought home."""

    status: str
    reason_code: str = ""
    choice: str = Choice.NONE
    relaxed: frozenset[str] = frozenset()
    makes_room: bool = False
    returns: bool = False
    running: bool = False
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status the row shall have, and what is said with it. ``failed``: the migration failed on that host."""

    status: str
    said: Said = NOTHING
    failed: Ended | None = None


def judge(row: Row, seen: Seen, *, leaving: Collection[UUID], move_powered_off: bool) -> Verdict:
    """``leaving``: hosts on which the VM must not stay; for a VM that makes room or goes home, where it is now."""
    if row.status in {MoveStatus.MOVING, MoveStatus.STOPPING} and row.running:
        return Verdict(row.status)
    if seen.missing:
        return Verdict(MoveStatus.GONE, words.missing(seen.host_name))
    if seen.host_id not in leaving:
        return _elsewhere(row, seen)
    if row.status == MoveStatus.STOPPING:
        return _after_stop(row, seen)
    if row.status == MoveStatus.MOVING and row.ended is not None and not row.ended.ok:
        return _after_failure(row, seen, row.ended)
    return _there(row, seen, move_powered_off)


def _elsewhere(row: Row, seen: Seen) -> Verdict:
    ours = row.status == MoveStatus.MOVED or (row.status == MoveStatus.MOVING and row.ended is not None)
    return Verdict(MoveStatus.MOVED, NOTHING if ours else words.moved_by_others(seen.host_name))


def _after_stop(row: Row, seen: Seen) -> Verdict:
    if not seen.alive and seen.power_state != PowerState.UNKNOWN:
        return Verdict(MoveStatus.STOPPED, words.stopped_by_choice())
    detail = row.ended.detail if row.ended is not None else "nothing is known of how it ended."
    return Verdict(MoveStatus.BLOCKED, words.stop_failed(detail))


def _after_failure(row: Row, seen: Seen, ended: Ended) -> Verdict:
    if ended.code == words.ABORTED:
        return Verdict(MoveStatus.BLOCKED, words.aborted(ended.target_name, ended.detail))
    if not seen.host_up:
        return Verdict(MoveStatus.BLOCKED, words.unreachable(seen.host_name, seen.host_error))
    return Verdict(MoveStatus.WAITING, words.failed_on(ended.target_name, ended.detail), failed=ended)


def _there(row: Row, seen: Seen, move_powered_off: bool) -> Verdict:
    """The VM is on a host that it has to leave."""
    if row.choice == Choice.SKIP:
        return Verdict(MoveStatus.SKIPPED, words.stays_by_choice(runs=seen.alive))
    if seen.power_state != PowerState.UNKNOWN and not seen.alive and not row.makes_room:
        if row.choice == Choice.STOP:
            return Verdict(MoveStatus.STOPPED, words.stopped_by_choice())
        if not move_powered_off and row.choice != Choice.HOST and not seen.busy:
            return Verdict(MoveStatus.SKIPPED, words.powered_off(seen.state_words, held=not row.returns))
    if not seen.alive and row.status in AT_REST:
        return Verdict(row.status)  # a host in maintenance may well be switched off: what was off there still is
    if not seen.host_up:
        return Verdict(MoveStatus.BLOCKED, words.unreachable(seen.host_name, seen.host_error))
    if seen.power_state == PowerState.UNKNOWN:
        return Verdict(MoveStatus.BLOCKED, words.state_unknown())
    return _reachable(row, seen)


def _reachable(row: Row, seen: Seen) -> Verdict:
    """It has to leave, and its host can be asked to send it."""
    blocked = row.status == MoveStatus.BLOCKED
    if seen.busy:
        return Verdict(MoveStatus.WAITING, words.operation_running(seen.busy))
    if blocked and row.reason_code in BY_HAND:
        return Verdict(MoveStatus.BLOCKED)
    if row.choice == Choice.STOP:
        return Verdict(MoveStatus.WAITING)
    if seen.pinned and Choice.MOVE_PINNED not in row.relaxed:
        return Verdict(MoveStatus.BLOCKED, words.pinned(seen.host_name))
    if blocked and row.reason_code not in BY_ITSELF:
        return Verdict(MoveStatus.BLOCKED)
    return Verdict(MoveStatus.WAITING)
