"""Executes a migration in a worker. Everything it needs to go on is in the rows: a runner may die at any point.

The row is taken by compare-and-set for a short lease, renewed with every look. A new runner asks both hosts where the
VM is before it does anything; what is not known is waited for, with room kept on both hosts, and said.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from cloudops.core import events, live, operations, runtime
from cloudops.core.actors import Actor, system
from cloudops.core.errors import NotFound, Refusal, TransitionConflict, Unavailable
from cloudops.core.models import Event, Operation, RuntimeSettings
from cloudops.hypervisors.port import (
    Hypervisor,
    HypervisorError,
    InvalidState,
    MigrationState,
    PowerState,
    VmNotFound,
)
from cloudops.inventory import endpoints, sync
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.notices import after_commit
from placement import claims, migration_words, signals, whereabouts
from placement.migration_errors import (
    Cancelled,
    Ending,
    HostFenced,
    Interrupted,
    LeftPaused,
    StoppedMeanwhile,
    TimedOutMigration,
    Vanished,
)
from placement.models import Hold, HostCapacity, VmMigration
from placement.vm_migrations import CHECK, CLEAN, COPY, VERIFY, Options
from placement.whereabouts import ALIVE, Place, Sight, Verdict

log = structlog.get_logger(__name__)
RUNNER: Final[Actor] = system("migration")
LEASE_SECONDS: Final = 8.0
"""How long a runner may be silent between two calls; a hypervisor call adds that endpoint's own deadline."""
POLL_SECONDS: Final = 0.5
PATIENT_SECONDS: Final = 2.0
"""Between two looks while nothing can be done."""
TURN_SECONDS: Final = 2
ABORT_EVERY_SECONDS: Final = 2.0
MOST_BEGINNINGS: Final = 2
Phase = VmMigration.Phase
stopping: Final = threading.Event()
"""Set when this process is to end: runners let go, others go on."""


class _Lost(Exception):
    """Another runner has the row now, or it has ended."""


def run(
    operation: Operation, *, clock: Callable[[], datetime], pause: Callable[[float], object] = stopping.wait
) -> None:
    """Works on the migration until it ends, waits for its turn, or this process is to stop (``pause`` says true).

    Raises :class:`TransitionConflict` when another runner has it or it has ended.
    """
    runner = _Runner(_take(operation, clock()), clock)
    try:
        while runner.advance():
            if pause(runner.wait_seconds):
                runner.let_go(clock())
                return
    except _Lost:
        log.info("migration_taken_over", operation=str(operation.pk))


def _take(operation: Operation, now: datetime) -> VmMigration:
    me = f"{settings.SERVER_NAME[:24]}/{os.getpid()}/{uuid.uuid4().hex[:12]}"
    free = Q(runner="") | Q(runner_until__lt=now) | Q(runner_until__isnull=True)
    rows = VmMigration.objects.filter(free, pk=operation.pk, ended_at__isnull=True)
    if not rows.update(runner=me, runner_until=now + timedelta(seconds=LEASE_SECONDS)):
        raise TransitionConflict("Another worker has this migration in hand, or it has ended.")
    return _load(operation.pk, me)


def _load(pk: uuid.UUID, me: str) -> VmMigration:
    rows = VmMigration.objects.select_related("operation", "vm", "maintenance", "source__endpoint", "target__endpoint")
    row = rows.filter(pk=pk, runner=me, ended_at__isnull=True).first()
    if row is None:
        raise _Lost
    return row


class _Runner:
    """One worker's hold on one migration. :meth:`advance` does one step; nothing in memory is needed to go on."""

    def __init__(self, row: VmMigration, clock: Callable[[], datetime]) -> None:
        self.row = row
        self.me = row.runner
        self.clock = clock
        self.wait_seconds = 0.0
        self._seen: tuple[Place, bool] | None = None
        self._seen_since = clock()
        self._asked_abort_at: datetime | None = None

    def advance(self) -> bool:
        """One look and one act; whether to come back after :attr:`wait_seconds`."""
        self.row = _load(self.row.pk, self.me)
        self.wait_seconds = POLL_SECONDS
        if self.row.phase == Phase.PREPARING:
            return self._prepare()
        if self.row.phase == Phase.COPYING:
            return self._check_and_begin() if self.row.copying_since is None else self._copy()
        return self._verify()

    def let_go(self, now: datetime) -> None:
        """Another runner may take it up at once."""
        self._write(now, runner="", runner_until=now)

    # Preparing: its turn, what both hosts say to it, the start.

    def _prepare(self) -> bool:
        now = self.clock()
        if self.row.abort_requested_at is not None:
            return self._end(self._aborted(), now)
        if self.row.operation.status == Operation.Status.PENDING:
            operations.begin(self.row.operation, by=RUNNER, now=now)
        words = self._take_turn(now)
        if words:
            self._say(CHECK, "pending", words)
            self._write(now, runner="", runner_until=now + timedelta(seconds=TURN_SECONDS))
            return False
        self.wait_seconds = 0.0
        return True

    def _take_turn(self, now: datetime) -> str:
        """Within the limits the phase becomes COPYING; else why not yet. One decides at a time."""
        with transaction.atomic():
            RuntimeSettings.objects.select_for_update(no_key=True).filter(pk=1).first()
            limits = runtime.current()
            busy = list(
                VmMigration.objects.filter(ended_at__isnull=True, phase__in=[Phase.COPYING, Phase.VERIFYING])
                .order_by()
                .values_list("source_id", "target_id")
            )
            if len(busy) >= limits.migration_total_limit:
                return migration_words.waiting("", len(busy), limits.migration_total_limit)
            job = self.row.maintenance
            most = (job.host_parallel if job is not None else None) or limits.migration_host_limit
            for host in (self.row.source, self.row.target):
                moving = sum(1 for pair in busy if host.pk in pair)
                if moving >= most:
                    return migration_words.waiting(host.name, moving, most)
            self._write(now, phase=Phase.COPYING)
        return ""

    def _check_and_begin(self) -> bool:
        """Nothing was begun yet, so whatever speaks against it ends it with the VM untouched."""
        row = self.row
        if row.abort_requested_at is not None:
            return self._end(self._aborted(), self.clock())
        self._say(CHECK, "running", f"Asks {row.source.name} and {row.target.name}.")
        target = endpoints.migration_target(row.target)
        options = self._options().for_driver(live=self._live)
        try:
            objections = self._call(
                row.source, "check_migration", lambda h: h.check_migration(row.vm.ref, target, options)
            )
        except HypervisorError as error:
            return self._end_by_error(migration_words.stored_error(error))
        except Unavailable as refusal:
            return self._end(refusal, self.clock())
        if objections:
            first = objections[0]
            return self._end_by_error({"code": first.code, "detail": first.detail, "remedy": first.remedy})
        self._say(CHECK, "done", f"{row.target.name} can take it.")
        return self._begin()

    def _begin(self) -> bool:
        """Writes that it is begun, then begins: a runner that dies in between leaves a row whose successor looks."""
        row, now = self.row, self.clock()
        progress = {**row.progress, "begun": row.progress.get("begun", 0) + 1}
        progress.pop("error", None)
        self._write(now, copying_since=row.copying_since or now, progress=progress)
        self._say(COPY, "running", "Begins.", percent=5)
        target, options = endpoints.migration_target(row.target), self._options().for_driver(live=self._live)
        try:
            self._call(row.source, "migrate", lambda hypervisor: hypervisor.migrate(row.vm.ref, target, options))
        except HypervisorError as error:  # perhaps it was begun all the same: the next look tells
            log.warning("migration_begin_failed", operation=str(row.pk), code=error.code, detail=error.detail)
            self._write(self.clock(), progress={**progress, "error": migration_words.stored_error(error)})
        self._seen = None
        return True

    # Copying: look, judge, act.

    def _copy(self) -> bool:
        row = self.row
        overdue = self._overdue()
        if overdue and not row.progress.get("overdue"):
            self._write(self.clock(), progress={**row.progress, "overdue": True})
        if overdue or row.abort_requested_at is not None:
            self._ask_to_abort()
        sight = whereabouts.look(row.vm.ref, row.source, row.target, before=self._renew_for)
        verdict = whereabouts.judge(sight, live=self._live, was_paused=self._was_paused)
        now = self.clock()
        if self._seen != (verdict.place, verdict.leftover):
            self._seen, self._seen_since = (verdict.place, verdict.leftover), now
        if verdict.place == Place.MOVING:
            return self._note_progress(sight, now)
        if verdict.place == Place.UNCLEAR:
            return self._wait_to_know(sight, verdict, now)
        fenced = not sight.source.known and self._is_fenced(row.source)
        if (now - self._seen_since).total_seconds() < verdict.settle_seconds and not fenced:
            if not sight.source.known and verdict.settle_seconds > whereabouts.GONE_SECONDS:
                self._say(COPY, "running", f"Runs on {row.target.name}; {row.source.name} does not answer.")
            self._write(now)
            return True
        if verdict.place == Place.ARRIVED:
            return self._arrived(sight, now)
        if verdict.place == Place.GONE:
            return self._end(Vanished(f"Neither {row.source.name} nor {row.target.name} knows {row.vm.name}."), now)
        return self._at_source(sight, verdict, now)

    def _note_progress(self, sight: Sight, now: datetime) -> bool:
        assert sight.job is not None  # noqa: S101 - MOVING is judged from the job
        progress = {**self.row.progress, **migration_words.progress_of(sight.job)}
        progress.pop("error", None)  # whatever was said when it began: it moves
        self._write(now, progress=progress)
        words = migration_words.copying(progress)
        if self.row.abort_requested_at is not None:
            words = f"{words}. Asked to abort."
        self._say(COPY, "running", words, percent=10 + round(0.8 * progress["percent"]))
        live.publish("migrations", f"vm:{self.row.vm_id}")
        return True

    def _ask_to_abort(self) -> None:
        """Every few seconds until it has ended; one that is too late changes nothing, as the next look tells."""
        now, ref = self.clock(), self.row.vm.ref
        if self._asked_abort_at is not None and (now - self._asked_abort_at).total_seconds() < ABORT_EVERY_SECONDS:
            return
        self._asked_abort_at = now
        try:
            self._call(self.row.source, "abort_migration", lambda hypervisor: hypervisor.abort_migration(ref))
        except (InvalidState, VmNotFound):
            pass  # nothing moves any more, or it cannot be stopped: where the VM is decides
        except HypervisorError as error:
            log.warning("migration_abort_failed", operation=str(self.row.pk), code=error.code, detail=error.detail)

    def _wait_to_know(self, sight: Sight, verdict: Verdict, now: datetime) -> bool:
        """Neither guessed nor hidden: the operation says what is not known, and room is kept on both hosts."""
        row = self.row
        for silent, host in ((not sight.source.known, row.source), (not sight.target.known, row.target)):
            if silent and self._is_fenced(host):
                return self._end_fenced(sight, host, now)
        if row.progress.get("unclear") != verdict.words:
            self._write(now, progress={**row.progress, "unclear": verdict.words})
            severity = Event.Severity.WARNING
            events.record(
                "vm.migration_unclear", by=RUNNER, now=now, subject=row.vm, reason=verdict.words, severity=severity
            )
            self._say(COPY, "running", verdict.words)
        self._write(now)
        self.wait_seconds = PATIENT_SECONDS
        return True

    def _at_source(self, sight: Sight, verdict: Verdict, now: datetime) -> bool:
        """It did not move. Why decides how it ends; one that was merely interrupted is begun once more."""
        row = self.row
        if verdict.leftover and sight.target.known:
            self._discard(row.target)
        state = sight.source.state
        if self._live and state not in ALIVE:
            return self._end(StoppedMeanwhile(f"{row.vm.name} is {state} on {row.source.name}."), now)
        if self._live and state == PowerState.PAUSED and not self._was_paused:
            return self._end(LeftPaused(f"{row.vm.name} is paused on {row.source.name}."), now)
        if row.abort_requested_at is not None:
            return self._end(self._aborted(), now)
        if row.progress.get("overdue"):
            seconds = self._options().timeout_seconds
            return self._end(TimedOutMigration(f"It took longer than {seconds} s.", seconds=seconds), now)
        if sight.job is not None and sight.job.state == MigrationState.FAILED and sight.job.error is not None:
            return self._end_by_error(migration_words.stored_error(sight.job.error))
        if error := row.progress.get("error"):
            return self._end_by_error(error)
        if row.progress.get("begun", 0) < MOST_BEGINNINGS:
            return self._begin()
        return self._end(Interrupted(f"{row.vm.name} is {state} on {row.source.name}, and nothing moves it."), now)

    # Arrived: the inventory follows, the source is tidied up, claims move.

    def _arrived(self, sight: Sight, now: datetime) -> bool:
        row = self.row
        progress = row.progress
        if sight.job is not None and sight.job.state == MigrationState.COMPLETED:
            final = migration_words.progress_of(sight.job)
            progress = {**progress, **{name: value for name, value in final.items() if value}}
        self._write(now, phase=Phase.VERIFYING, progress={**progress, "percent": 100})
        self._say(COPY, "done", migration_words.copied(progress))
        self.wait_seconds = 0.0
        return True

    def _verify(self) -> bool:
        """Consoles wait for the inventory, so that is first; then the source, then the claims."""
        row = self.row
        self._renew_for(row.target)
        try:
            there = sync.hand_over(row.target.endpoint, row.vm.ref, now=self.clock())
        except HypervisorError as error:
            return self._verify_silent(error)
        except NotFound as refusal:
            return self._end(refusal, self.clock())
        vm = Vm.objects.filter(pk=row.vm_id).first()
        if vm is None or not there or vm.host_id != row.target_id:
            if not there:  # gone again: find out where to
                self._write(self.clock(), phase=Phase.COPYING)
            return True
        self._say(VERIFY, "done", f"{vm.get_power_state_display()} on {row.target.name}.")
        self._say(CLEAN, "running", f"Looks at {row.source.name}.")
        left = self._clean_source()
        if left is None:
            self._write(self.clock(), phase=Phase.COPYING)
            return True
        return self._end_well(vm, left, self.clock())

    def _verify_silent(self, error: HypervisorError) -> bool:
        """It arrived, and then its host fell silent."""
        row, now = self.row, self.clock()
        if self._is_fenced(row.target):
            sync.assume_moved(row.vm, row.target, now=now)
            vm = Vm.objects.get(pk=row.vm_id)
            return self._end_well(vm, "", now)
        self._say(VERIFY, "running", f"It arrived on {row.target.name}, which does not answer now: {error.detail}")
        self._write(now)
        self.wait_seconds = PATIENT_SECONDS
        return True

    def _clean_source(self) -> str | None:
        """Words about what could not be tidied up at the source, empty when nothing is left; None: it runs there!"""
        source, ref = self.row.source, self.row.vm.ref
        self._renew_for(source)
        seen = whereabouts.side(ref, source)
        if seen.runs:
            return None
        if not seen.known:
            return f"{source.name} does not answer, so a definition of the VM may be left there."
        if seen.state is None or self._discard(source):
            return ""
        return f"{source.name} keeps a definition of the VM that could not be removed."

    def _discard(self, host: Host) -> bool:
        ref = self.row.vm.ref
        try:
            self._call(host, "discard", lambda hypervisor: hypervisor.discard(ref))
        except VmNotFound:
            return True
        except HypervisorError as error:
            log.warning("leftover_not_removed", host=host.name, vm=ref, code=error.code, detail=error.detail)
            return False
        return True

    # Ends.

    def _end_well(self, vm: Vm, left: str, now: datetime) -> bool:
        row = self.row
        self._say(CLEAN, "done", left or f"Nothing is left on {row.source.name}.")
        result = {"host": str(row.target_id), "power_state": str(vm.power_state), "leftover": left}
        with transaction.atomic():
            self._finish_row(now)
            claims.arrive(vm=vm, operation=row.operation, running=vm.power_state not in _DOWN, now=now)
            operations.succeed(row.operation, by=RUNNER, now=now, result=result)
            if left:
                events.record("vm.migration_leftover", by=RUNNER, now=now, subject=vm, reason=left, severity="warning")
            self._tell(True, "", "", "", now)
        return False

    def _end_by_error(self, error: dict[str, str]) -> bool:
        return self._end_badly(error["code"], error["detail"], error["remedy"], False, self.clock())

    def _end(self, ending: Refusal, now: datetime) -> bool:
        cancelled = isinstance(ending, Ending) and ending.cancelled
        return self._end_badly(ending.code, ending.detail, ending.remedy_text, cancelled, now)

    def _end_badly(self, code: str, detail: str, remedy: str, cancelled: bool, now: datetime) -> bool:
        row = self.row
        self._read_source_again(now)
        index = next((number for number, item in enumerate(row.operation.steps) if item["status"] != "done"), COPY)
        self._say(index, "failed", detail)
        with transaction.atomic():
            self._finish_row(now)
            claims.release(operation=row.operation, now=now)
            end = operations.cancel if cancelled else operations.fail
            end(row.operation, by=RUNNER, now=now, code=code, detail=detail, remedy=remedy)
            self._tell(False, code, detail, remedy, now)
        return False

    def _end_fenced(self, sight: Sight, host: Host, now: datetime) -> bool:
        """An administrator declared a host dead that would have to be asked: the VM is where it was last known."""
        row = self.row
        if host == row.target and sight.source.absent:
            sync.assume_moved(row.vm, row.target, now=now)
            with transaction.atomic():
                claims.arrive(vm=row.vm, operation=row.operation, now=now)
        return self._end(HostFenced(f"{host.name} was fenced while {row.vm.name} moved."), now)

    def _finish_row(self, now: datetime) -> None:
        self._write(now, phase=Phase.ENDED, ended_at=now, runner="", runner_until=None)

    def _tell(self, ok: bool, code: str, detail: str, remedy: str, now: datetime) -> None:
        row = self.row
        live.publish("migrations", "capacity", f"vm:{row.vm_id}", f"host:{row.source_id}", f"host:{row.target_id}")
        after_commit(
            signals.migration_ended,
            operation=row.operation,
            vm_id=row.vm_id,
            ok=ok,
            code=code,
            detail=detail,
            remedy=remedy,
            maintenance_id=row.maintenance_id,
            now=now,
        )

    def _read_source_again(self, now: datetime) -> None:
        """A VM that was switched back and forth may have been seen paused: the inventory looks once more."""
        try:
            self._renew_for(self.row.source)
            sync.refresh_vm(self.row.source.endpoint, self.row.vm.ref, now=now)
        except (HypervisorError, NotFound, Unavailable) as error:
            log.info("source_not_read", operation=str(self.row.pk), error=str(error))

    # Small things.

    @property
    def _live(self) -> bool:
        return self.row.mode == VmMigration.Mode.LIVE

    @property
    def _was_paused(self) -> bool:
        return bool(self.row.options.get("power_state") == PowerState.PAUSED)

    def _options(self) -> Options:
        return Options.stored(self.row.options)

    def _overdue(self) -> bool:
        since = self.row.copying_since
        return since is not None and self.clock() >= since + timedelta(seconds=self._options().timeout_seconds)

    def _aborted(self) -> Cancelled:
        who = self.row.abort_requested_by or "somebody"
        return Cancelled(f"Aborted by {who}; {self.row.vm.name} stays on {self.row.source.name}.")

    def _is_fenced(self, host: Host) -> bool:
        return HostCapacity.objects.filter(pk=host.pk, hold=Hold.FENCED).exists()

    def _call(self, host: Host, name: str, function: Callable[[Hypervisor], Any]) -> Any:
        self._renew_for(host)
        return endpoints.call(host.endpoint, name, function)

    def _renew_for(self, host: Host) -> None:
        """Holds the row for as long as a call to ``host`` may take: whoever acts still has it."""
        now = self.clock()
        until = now + timedelta(seconds=LEASE_SECONDS + host.endpoint.timeout_seconds)
        self._write(now, runner_until=until)

    def _write(self, now: datetime, **fields: Any) -> None:
        """The only way the row changes: while it is ours. Also the heartbeat."""
        fields = {"runner_until": now + timedelta(seconds=LEASE_SECONDS), **fields}
        mine = VmMigration.objects.filter(pk=self.row.pk, runner=self.me, ended_at__isnull=True)
        if mine.update(**fields) != 1:
            raise _Lost
        for name, value in fields.items():
            setattr(self.row, name, value)

    def _say(self, index: int, status: str, words: str, *, percent: int | None = None) -> None:
        """Notes a step's state for people, when it differs from what was said last."""
        item = self.row.operation.steps[index]
        if (item["status"], item["detail"]) != (status, words):
            operations.step(self.row.operation, index, status, now=self.clock(), detail=words, percent=percent)


_DOWN: Final = frozenset({PowerState.OFF, PowerState.CRASHED})
