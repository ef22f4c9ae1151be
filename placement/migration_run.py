"""Executes a migration in a worker. Everything it needs to go on is in the rows: a runner may die at any point.

The row is taken by compare-and-set for a short lease, renewed with every look. A new runner asks both hosts where the
VM is before it does anything; what is not known is waited for, with room kept on both hosts, and said.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.db import transaction

from cloudops.core import events, live, operations
from cloudops.core.errors import NotFound
from cloudops.core.held import Lost
from cloudops.core.models import Operation
from cloudops.hypervisors.port import (
    HypervisorError,
    InvalidState,
    MigrationState,
    NameTaken,
    PowerState,
    VmNotFound,
)
from cloudops.inventory import endpoints, sync
from cloudops.inventory.models import Vm
from placement import migration_end, migration_hold, migration_words, whereabouts
from placement.migration_errors import (
    Interrupted,
    LeftPaused,
    StoppedMeanwhile,
    TimedOutMigration,
    Vanished,
    WentElsewhere,
)
from placement.migration_hold import RUNNER, Hold
from placement.migration_turns import UNCLEAR, Turns
from placement.models import VmMigration
from placement.vm_migrations import CHECK, CLEAN, COPY, VERIFY
from placement.whereabouts import ALIVE, Place, Sight, Verdict

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 0.5
PATIENT_SECONDS: Final = 2.0
"""Between two looks while nothing can be done."""
ABORT_EVERY_SECONDS: Final = 2.0
ELSEWHERE_SECONDS: Final = 10.0
"""How long a VM that is on a third host is looked for at its destination."""
MOST_BEGINNINGS: Final = 2
STUMBLE_SECONDS: Final = 10.0
MOST_STUMBLE_SECONDS: Final = 60.0
Phase = VmMigration.Phase
stopping: Final = threading.Event()
"""Set when this process is to end: runners let go, others go on."""


def run(
    operation: Operation, *, clock: Callable[[], datetime], pause: Callable[[float], object] = stopping.wait
) -> None:
    """Works on the migration until it ends, has to wait for its turn, or this process is to stop (``pause`` says true).

    Raises :class:`TransitionConflict` when another runner has it or it has ended.
    """
    runner = _Runner(migration_hold.take(operation, clock))
    try:
        while runner.advance():
            if runner.wait_seconds and pause(runner.wait_seconds):
                runner.hold.let_go(until=clock())
                return
    except Lost:
        log.info("migration_taken_over", operation=str(operation.pk))
    except Exception as error:
        _stumble(runner.hold, error)
        raise


def _stumble(hold: Hold, error: Exception) -> None:
    """What nobody foresaw is said and tried again after a growing pause: neither silence nor a loop."""
    row, now = hold.row, hold.clock()
    log.exception("migration_stumbled", operation=str(row.pk))
    count = row.progress.get("stumbles", 0)
    seconds = min(MOST_STUMBLE_SECONDS, STUMBLE_SECONDS * 2**count)
    words = f"Something unexpected happened: {type(error).__name__}: {error}"[:500]
    with contextlib.suppress(Exception):  # the database may be what failed: then the lease lapses
        hold.write(now, progress={**row.progress, "stumbles": count + 1})
        index = next((number for number, item in enumerate(row.operation.steps) if item["status"] != "done"), COPY)
        hold.say(index, "running", f"{words}; it is tried again in {seconds:.0f} s.")
        hold.let_go(until=now + timedelta(seconds=seconds))


class _Runner:
    """One worker at one migration. :meth:`advance` does one step; nothing in memory is needed to go on."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.wait_seconds = 0.0
        self._seen: tuple[Place, bool] | None = None
        self._seen_since = hold.clock()
        self._asked_abort_at: datetime | None = None
        self._elsewhere_since: datetime | None = None

    @property
    def row(self) -> VmMigration:
        return self.hold.row

    def advance(self) -> bool:
        """One look and one act; whether to come back after :attr:`wait_seconds`."""
        self.hold.load()
        self.wait_seconds = POLL_SECONDS
        if self.row.phase == Phase.VERIFYING:
            return self._verify()
        if self.row.copying_since is not None:
            return self._copy()
        if self.row.abort_requested_at is not None:
            migration_end.aborted(self.hold, self.hold.clock())
            return False
        return self._prepare() if self.row.phase == Phase.PREPARING else self._check_and_begin()

    # Preparing: its turn, what both hosts say to it, the start.

    def _prepare(self) -> bool:
        now = self.hold.clock()
        if self.row.operation.status == Operation.Status.PENDING:
            operations.begin(self.row.operation, by=RUNNER, now=now)
        words = self._take_turn(now)
        if words:
            self.hold.say(CHECK, "pending", words)
            self.hold.let_go(until=now)
            return False
        self.wait_seconds = 0.0
        return True

    def _take_turn(self, now: datetime) -> str:
        """Within the limits the phase becomes COPYING; else why not yet. One runner decides at a time."""
        with transaction.atomic():
            words = Turns.read(lock=True).why_not_yet(self.row)
            if not words:
                self.hold.write(now, phase=Phase.COPYING)
        return words

    def _check_and_begin(self) -> bool:
        """Nothing was begun yet, so whatever speaks against it ends it with the VM untouched."""
        row, hold = self.row, self.hold
        hold.say(CHECK, "running", f"Asks {row.source.name} and {row.target.name}.")
        options = hold.options.for_driver(live=hold.live, label=hold.label)
        try:
            with whereabouts.typed():
                target = endpoints.migration_target(row.target)
            objections = hold.call(
                row.source,
                "check_migration",
                lambda hypervisor: hypervisor.check_migration(row.vm.ref, target, options),
            )
        except HypervisorError as error:
            migration_end.by_error(hold, migration_words.stored_error(error), hold.clock())
            return False
        if objections:
            migration_end.by_error(hold, migration_words.stored_objections(objections), hold.clock())
            return False
        if (obstacle := self._clear_target()) is not None:
            migration_end.by_error(hold, migration_words.stored_error(obstacle), hold.clock())
            return False
        hold.say(CHECK, "done", f"{row.target.name} can take it.")
        return self._begin()

    def _clear_target(self) -> HypervisorError | None:
        """A definition that something earlier left at the destination would look as if the VM had arrived: it goes
        before anything begins, and only while the source is seen to hold the VM. Why it could not."""
        row, hold = self.row, self.hold
        hold.hold_during(row.source)
        here = whereabouts.side(row.vm.ref, row.source)
        hold.hold_during(row.target)
        there = whereabouts.side(row.vm.ref, row.target)
        if here.silent is not None or there.silent is not None:
            return here.silent or there.silent
        if here.state is None:
            return VmNotFound(f"{row.source.name} does not have {row.vm.name} any more.")
        if there.state is None or (not there.alive and hold.discard(row.target)):
            return None
        return NameTaken(f"{row.target.name} holds {row.vm.name} already ({there.state}).")

    def _begin(self) -> bool:
        """Writes that it is begun, then begins: a runner that dies in between leaves a row whose successor looks."""
        row, hold, now = self.row, self.hold, self.hold.clock()
        try:
            with whereabouts.typed():
                target = endpoints.migration_target(row.target)
        except HypervisorError as error:
            migration_end.by_error(hold, migration_words.stored_error(error), now)
            return False
        progress = {**row.progress, "begun": row.progress.get("begun", 0) + 1}
        for over in ("error", UNCLEAR):
            progress.pop(over, None)
        hold.write(now, copying_since=row.copying_since or now, progress=progress)
        hold.say(COPY, "running", "Begins.", percent=5)
        options = hold.options.for_driver(live=hold.live, label=hold.label)
        try:
            hold.call(row.source, "migrate", lambda hypervisor: hypervisor.migrate(row.vm.ref, target, options))
        except HypervisorError as error:  # perhaps it was begun all the same: the next look tells
            log.warning("migration_begin_failed", operation=str(row.pk), code=error.code, detail=error.detail)
            hold.write(hold.clock(), progress={**progress, "error": migration_words.stored_error(error)})
        self._seen = None
        return True

    # Copying: look, judge, act.

    def _copy(self) -> bool:
        row, hold = self.row, self.hold
        if hold.overdue and not row.progress.get("overdue"):
            hold.write(hold.clock(), progress={**row.progress, "overdue": True})
        if row.progress.get("overdue") or row.abort_requested_at is not None:
            self._ask_to_abort()
        sight = whereabouts.look(row.vm.ref, row.source, row.target, label=hold.label, before=hold.hold_during)
        verdict = whereabouts.judge(sight, live=hold.live, was_paused=hold.was_paused)
        now = hold.clock()
        if self._seen != (verdict.place, verdict.leftover):
            self._seen, self._seen_since = (verdict.place, verdict.leftover), now
        if verdict.place == Place.MOVING:
            return self._note_progress(sight, now)
        if verdict.place == Place.UNCLEAR:
            return self._wait_to_know(sight, verdict, now)
        if (now - self._seen_since).total_seconds() < verdict.settle_seconds and not self._is_settled(sight):
            if verdict.words:
                hold.say(COPY, "running", verdict.words)
            hold.write(now)
            return True
        return self._act(sight, verdict, now)

    def _is_settled(self, sight: Sight) -> bool:
        """Nothing more is to be expected of a source that an administrator declared dead."""
        return not sight.source.known and self.hold.is_fenced(self.row.source)

    def _act(self, sight: Sight, verdict: Verdict, now: datetime) -> bool:
        row = self.row
        if verdict.place == Place.ARRIVED:
            return self._arrived(sight, now)
        if verdict.place == Place.AT_SOURCE:
            return self._at_source(sight, verdict, now)
        words = f"Neither {row.source.name} nor {row.target.name} knows {row.vm.name}."
        migration_end.by(self.hold, Vanished(words), now)
        return False

    def _note_progress(self, sight: Sight, now: datetime) -> bool:
        assert sight.job is not None  # noqa: S101 - MOVING is judged from the job
        progress = {**self.row.progress, **migration_words.progress_of(sight.job)}
        for over in ("error", UNCLEAR, "stumbles"):  # whatever was said or not known before: it moves
            progress.pop(over, None)
        self.hold.write(now, progress=progress)
        words = migration_words.under_way(self.row, now)
        if self.row.abort_requested_at is not None:
            words = f"{words}. Asked to abort."
        self.hold.say(COPY, "running", words, percent=10 + round(0.8 * progress["percent"]))
        live.publish("migrations", f"vm:{self.row.vm_id}")
        return True

    def _ask_to_abort(self) -> None:
        """Every few seconds until it has ended; one that is too late changes nothing, as the next look tells."""
        now, ref = self.hold.clock(), self.row.vm.ref
        if self._asked_abort_at is not None and (now - self._asked_abort_at).total_seconds() < ABORT_EVERY_SECONDS:
            return
        self._asked_abort_at = now
        try:
            self.hold.call(self.row.source, "abort_migration", lambda hypervisor: hypervisor.abort_migration(ref))
        except (InvalidState, VmNotFound):
            pass  # nothing moves any more, or it cannot be stopped: where the VM is decides
        except HypervisorError as error:
            log.warning("migration_abort_failed", operation=str(self.row.pk), code=error.code, detail=error.detail)

    def _wait_to_know(self, sight: Sight, verdict: Verdict, now: datetime) -> bool:
        """Neither guessed nor hidden: the operation says what is not known, and room is kept on both hosts."""
        row, hold = self.row, self.hold
        for side, host in ((sight.source, row.source), (sight.target, row.target)):
            if not side.known and hold.is_fenced(host):
                migration_end.fenced(hold, host, went=host == row.target and sight.source.absent, now=now)
                return False
        sides = [(row.source.name, sight.source.silent), (row.target.name, sight.target.silent)]
        words = f"{verdict.words}{migration_words.silent(sides)}"
        if row.progress.get(UNCLEAR) != words:
            hold.write(now, progress={**row.progress, UNCLEAR: words})
            reason = verdict.words  # the VM's tenants read its events
            events.record("vm.migration_unclear", by=RUNNER, now=now, subject=row.vm, reason=reason, severity="warning")
            hold.say(COPY, "running", words)
        hold.write(now)
        self.wait_seconds = PATIENT_SECONDS
        return True

    def _at_source(self, sight: Sight, verdict: Verdict, now: datetime) -> bool:
        """It did not move. Why decides how it ends; one that was merely interrupted is begun once more."""
        row, hold, state = self.row, self.hold, sight.source.state
        if verdict.leftover:
            hold.discard(row.target)
        failure = sight.job.error if sight.job is not None and sight.job.state == MigrationState.FAILED else None
        error = migration_words.stored_error(failure) if failure is not None else row.progress.get("error")
        if hold.live and state not in ALIVE:
            migration_end.by(hold, StoppedMeanwhile(f"{row.vm.name} is {state} on {row.source.name}."), now)
        elif hold.live and state == PowerState.PAUSED and not hold.was_paused:
            migration_end.by(hold, LeftPaused(f"{row.vm.name} is paused on {row.source.name}."), now)
        elif row.abort_requested_at is not None:
            migration_end.aborted(hold, now)
        elif row.progress.get("overdue"):
            seconds = hold.options.timeout_seconds
            migration_end.by(hold, TimedOutMigration(f"It took longer than {seconds} s.", seconds=seconds), now)
        elif error:
            migration_end.by_error(hold, error, now)
        elif row.progress.get("begun", 0) < MOST_BEGINNINGS:
            return self._begin()
        else:
            words = f"{row.vm.name} is {state} on {row.source.name}, and nothing moves it any more."
            migration_end.by(hold, Interrupted(words), now)
        return False

    # Arrived: the inventory follows, the source is tidied up, claims move.

    def _arrived(self, sight: Sight, now: datetime) -> bool:
        progress = {name: value for name, value in self.row.progress.items() if name != UNCLEAR}
        if sight.job_state == MigrationState.COMPLETED or (self.hold.live and sight.target.runs):
            progress = {**progress, "completed": True}
        if sight.job is not None and sight.job.state == MigrationState.COMPLETED:
            final = migration_words.progress_of(sight.job)
            progress = {**progress, **{name: value for name, value in final.items() if value}}
        self.hold.write(now, phase=Phase.VERIFYING, progress={**progress, "percent": 100})
        self.hold.say(COPY, "done", migration_words.copied(progress))
        self.wait_seconds = 0.0
        return True

    def _verify(self) -> bool:
        """Consoles wait for the inventory, so that is first; then the source, then the claims."""
        row, hold = self.row, self.hold
        hold.hold_during(row.target)
        try:
            with whereabouts.typed():
                there = sync.hand_over(row.target.endpoint, row.vm.ref, now=hold.clock())
        except HypervisorError as error:
            return self._verify_silent(error)
        except NotFound as refusal:
            migration_end.by(hold, refusal, hold.clock())
            return False
        vm = Vm.objects.select_related("host").get(pk=row.vm_id)
        if not there:  # gone again: find out where to
            hold.write(hold.clock(), phase=Phase.COPYING)
            return True
        if vm.host_id != row.target_id:
            return self._verify_elsewhere(vm)
        hold.say(VERIFY, "done", f"{vm.get_power_state_display()} on {row.target.name}.")
        left = self._clean_source()
        if left is None:  # it runs at the source too: that is for people to decide
            hold.write(hold.clock(), phase=Phase.COPYING)
            return True
        migration_end.well(hold, vm, left, hold.clock())
        return False

    def _verify_silent(self, error: HypervisorError) -> bool:
        """It arrived, and then its host fell silent."""
        row, hold, now = self.row, self.hold, self.hold.clock()
        if hold.is_fenced(row.target):
            migration_end.fenced(hold, row.target, went=True, now=now)
            return False
        words = f"It arrived on {row.target.name}, which does not answer now: {error.detail or error.title}"
        words += migration_words.silent([(row.target.name, error)])
        hold.say(VERIFY, "running", words)
        hold.write(now, progress={**row.progress, UNCLEAR: words})
        self.wait_seconds = PATIENT_SECONDS
        return True

    def _verify_elsewhere(self, vm: Vm) -> bool:
        """The target's endpoint has it on another of its hosts: its platform, or somebody, moved it on. It may come
        back for a moment only, so that is waited for; then it ends, as the truth is known."""
        row, hold, now = self.row, self.hold, self.hold.clock()
        self._elsewhere_since = self._elsewhere_since or now
        words = f"{vm.name} is on {vm.host.name}, not on {row.target.name}."
        if (now - self._elsewhere_since).total_seconds() >= ELSEWHERE_SECONDS:
            migration_end.elsewhere(hold, WentElsewhere(words, host=str(vm.host_id)), now)
            return False
        hold.say(VERIFY, "running", words)
        hold.write(now)
        self.wait_seconds = PATIENT_SECONDS
        return True

    def _clean_source(self) -> str | None:
        """Words about what could not be tidied up at the source, empty when nothing is left; None: it runs there!"""
        hold, source = self.hold, self.row.source
        hold.say(CLEAN, "running", f"Looks at {source.name}.")
        hold.hold_during(source)
        seen = whereabouts.side(self.row.vm.ref, source)
        if seen.runs:
            return None
        if not seen.known:
            return f"{source.name} does not answer, so a definition of the VM may be left there."
        if seen.state is None or (self.row.progress.get("completed") and hold.discard(source)):
            return ""
        why = "that could not be removed" if self.row.progress.get("completed") else "of which nobody knows whose it is"
        return f"{source.name} keeps a definition of the VM {why}."
