"""Where a VM is during and after its migration: asks both hosts, and judges what they say. Never guesses.

A host that does not answer is a fact too: what it may hold is unknown, and only the rest is judged.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import (
    Hypervisor,
    HypervisorError,
    MigrationState,
    MigrationStatus,
    PowerState,
    VmFacts,
    VmNotFound,
)
from cloudops.inventory import endpoints
from cloudops.inventory.models import Host
from cloudops.inventory.sync import CredentialUnreadable

ALIVE: Final = frozenset({PowerState.RUNNING, PowerState.PAUSED})
NO_JOB: Final = MigrationStatus(MigrationState.NONE)


@dataclass(frozen=True, slots=True)
class Side:
    """What one host says of the VM. ``state`` None: it has none of this name. ``silent``: why it could not be asked."""

    state: PowerState | None = None
    silent: HypervisorError | None = None

    @property
    def known(self) -> bool:
        return self.silent is None

    @property
    def alive(self) -> bool:
        return self.known and self.state in ALIVE

    @property
    def runs(self) -> bool:
        return self.known and self.state == PowerState.RUNNING

    @property
    def absent(self) -> bool:
        return self.known and self.state is None


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a migration. ``job`` None: the source could not be asked for it."""

    job: MigrationStatus | None
    source: Side
    target: Side

    @property
    def job_state(self) -> MigrationState | None:
        return self.job.state if self.job is not None else None


class Place(enum.StrEnum):
    """What a look means."""

    MOVING = "moving"
    ARRIVED = "arrived"
    AT_SOURCE = "at-source"
    GONE = "gone"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``settle_seconds``: act on it only when it was the same for so long, as hosts tidy up after a migration.
    ``leftover``: what the side without the VM still holds. ``words``: for people, when nothing can be done yet."""

    place: Place
    settle_seconds: float = 0.0
    leftover: bool = False
    words: str = ""


SETTLE_SECONDS: Final = 2.0
TIDY_SECONDS: Final = 5.0
GONE_SECONDS: Final = 10.0
UNVERIFIED_SECONDS: Final = 60.0
"""A VM that runs at its destination while the source is silent: QEMU there goes on only after the source let go, so
this is no doubt about where it runs, only about what the source still holds."""


@contextmanager
def typed() -> Iterator[None]:
    """Around calls to a host. One whose secret cannot be decrypted cannot be asked, as one that does not answer:
    raises :class:`CredentialUnreadable` for it."""
    try:
        yield
    except Unavailable as error:
        raise CredentialUnreadable(error.detail) from error


def look(ref: str, source: Host, target: Host, *, label: str, before: Callable[[Host], None]) -> Sight:
    """Asks the source for the job and, unless it runs, both hosts for the VM. Each call ends at its endpoint's
    deadline, and ``before`` is told of it; raises nothing for a host's sake. How a job ended counts only when it is
    the one of this ``label``: what is remembered may be of an earlier one."""
    job: MigrationStatus | None = None
    silent: HypervisorError | None = None
    before(source)
    try:
        with typed():
            job = endpoints.call(source.endpoint, "migration", lambda hypervisor: hypervisor.migration(ref))
    except HypervisorError as error:
        silent = error
    if job is not None and job.state == MigrationState.RUNNING:
        return Sight(job, Side(PowerState.RUNNING), Side())
    if job is not None and job.label != label:
        job = NO_JOB
    before(source)
    here = Side(silent=silent) if silent is not None else side(ref, source)
    before(target)
    return Sight(job, here, side(ref, target))


def side(ref: str, host: Host) -> Side:
    """What ``host`` holds of the VM. Another host of the same endpoint does not count."""

    def ask(hypervisor: Hypervisor) -> VmFacts | None:
        try:
            return hypervisor.vm(ref)
        except VmNotFound:
            return None

    try:
        with typed():
            facts = endpoints.call(host.endpoint, "vm", ask)
    except HypervisorError as error:
        return Side(silent=error)
    return Side(facts.power_state if facts is not None and facts.host_ref == host.ref else None)


def judge(sight: Sight, *, live: bool, was_paused: bool) -> Verdict:
    """What a look means for a migration that was begun. Pure."""
    if sight.job_state == MigrationState.RUNNING:
        return Verdict(Place.MOVING)
    if sight.source.known and sight.target.known:
        return _both(sight)
    if sight.target.known:
        return _target_only(sight)
    if sight.source.known:
        return _source_only(sight, live, was_paused)
    return Verdict(Place.UNCLEAR, words="Neither host answers, so it is not known where the VM is. Nothing is done.")


def _both(sight: Sight) -> Verdict:
    source, target = sight.source, sight.target
    if source.absent and target.absent:
        return Verdict(Place.GONE, GONE_SECONDS)
    if source.absent:
        return Verdict(Place.ARRIVED, 0.0 if target.runs or not target.alive else SETTLE_SECONDS)
    if target.absent:
        return Verdict(Place.AT_SOURCE, 0.0 if sight.job_state == MigrationState.FAILED else SETTLE_SECONDS)
    return _held_twice(sight)


def _held_twice(sight: Sight) -> Verdict:
    """Both hosts have it in some form: one half is what the migration leaves for a moment, or for ever."""
    source, target = sight.source, sight.target
    done = sight.job_state == MigrationState.COMPLETED
    if source.runs and target.runs:
        return Verdict(
            Place.UNCLEAR, words="Both hosts report the VM as running. Power it off on one of them, by hand."
        )
    if target.runs:
        return Verdict(Place.ARRIVED, 0.0 if done or not source.alive else TIDY_SECONDS, leftover=True)
    if source.runs:
        return Verdict(Place.AT_SOURCE, TIDY_SECONDS if target.alive else SETTLE_SECONDS, leftover=True)
    if done:
        return Verdict(Place.ARRIVED, leftover=True)
    # Of two definitions that are off the source's is the VM: the other was put there by a job of which nobody knows
    # that it came to its end, or by somebody else, and moving a definition once more costs nothing.
    if not target.alive:
        return Verdict(Place.AT_SOURCE, SETTLE_SECONDS, leftover=True)
    words = (
        "Both hosts hold the VM and it runs on neither. Resume the one that is right, and remove the other, by hand."
    )
    return Verdict(Place.UNCLEAR, words=words)


def _target_only(sight: Sight) -> Verdict:
    if sight.target.runs:
        return Verdict(Place.ARRIVED, UNVERIFIED_SECONDS, words="It runs at the destination; the source is silent.")
    held = "holds it, not running" if sight.target.state is not None else "does not have it"
    words = f"The source does not answer, and the destination {held}. Room is kept on both until the source is back."
    return Verdict(Place.UNCLEAR, words=words)


def _source_only(sight: Sight, live: bool, was_paused: bool) -> Verdict:
    source = sight.source
    over = sight.job_state in {MigrationState.NONE, MigrationState.FAILED}
    failed = sight.job_state == MigrationState.FAILED
    stays = source.runs or (source.alive and was_paused) or (source.state is not None and failed)
    if stays and over:
        return Verdict(Place.AT_SOURCE, 0.0 if failed else SETTLE_SECONDS)
    held = "holds it, not running" if source.state is not None else "let it go"
    words = (
        f"The destination does not answer, and the source {held}. Room is kept on both until the destination is back."
    )
    return Verdict(Place.UNCLEAR, words=words)
