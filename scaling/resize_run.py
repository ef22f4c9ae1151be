"""Executes a resize in a worker. Everything it needs to go on is in the rows: a runner may die at any point.

Every change is absolute and may be made again. A new runner asks the hypervisor what the VM has before it does
anything; what a silent host makes of a change is not guessed but waited for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

import structlog

from cloudops.core import operations, runtime
from cloudops.core.errors import Refusal
from cloudops.core.held import Lost
from cloudops.core.models import Operation
from cloudops.hypervisors.port import (
    Busy,
    GuestDidNotFollow,
    HypervisorError,
    InvalidState,
    MemoryModel,
    PowerAction,
    PowerState,
    ResizeKind,
    ResizeStep,
    Shape,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)
from placement.fence import is_fenced
from scaling import resize_end, resize_hold, resizes, when_off
from scaling.confirming import Seen
from scaling.models import Resize
from scaling.resize_errors import (
    Cancelled,
    DidNotStart,
    GuestDidNotReact,
    HostFenced,
    StartedMeanwhile,
    StoppedMeanwhile,
    Vanished,
)
from scaling.resize_hold import LIVE, RUNNER, Hold, Silent
from scaling.resize_words import CHANGE, CONFIRM, DEFINE, START, STOP
from scaling.values import GuestSupport

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 0.5
PATIENT_SECONDS: Final = 2.0
"""Between two looks while the host is silent."""
IN_HAND_SECONDS: Final = 20.0
"""How long a runner waits for others in one go: then it lets go, and another looks again a moment later."""
AGAIN_SECONDS: Final = 15.0
"""Between two requests to a guest to shut down, or to a host to start the VM."""
BUSY_SECONDS: Final = 30.0
START_SECONDS: Final = 60.0
GONE_SECONDS: Final = 10.0
STUMBLE_SECONDS: Final = 10.0
MOST_STUMBLE_SECONDS: Final = 60.0
Mode, Phase, Outcome = Resize.Mode, Resize.Phase, Resize.Outcome
stopping: Final = threading.Event()
"""Set when this process is to end: runners let go, others go on."""


def run(
    operation: Operation, *, clock: Callable[[], datetime], pause: Callable[[float], object] = stopping.wait
) -> None:
    """Works on the resize until it ends, has to wait for long, or this process is to stop (``pause`` says true).

    Raises ``TransitionConflict`` when another runner has it or it has ended.
    """
    runner = _Runner(resize_hold.take(operation, clock))
    waited = 0.0
    try:
        while runner.advance():
            waited = waited + runner.wait_seconds if runner.wait_seconds else 0.0
            if runner.wait_seconds and (pause(runner.wait_seconds) or waited >= IN_HAND_SECONDS):
                runner.hold.let_go(until=clock())
                return
    except Lost:
        log.info("resize_taken_over", operation=str(operation.pk))
    except Exception as error:
        _stumble(runner.hold, error)
        raise


def _stumble(hold: Hold, error: Exception) -> None:
    """What nobody foresaw is said and tried again after a growing pause: neither silence nor a loop."""
    row, now = hold.row, hold.clock()
    log.exception("resize_stumbled", operation=str(row.pk))
    count = row.progress.get("stumbles", 0)
    seconds = min(MOST_STUMBLE_SECONDS, STUMBLE_SECONDS * 2**count)
    with contextlib.suppress(Exception):  # the database may be what failed: then the lease lapses
        hold.note(now, stumbles=count + 1)
        words = f"Something unexpected happened ({type(error).__name__}); it is tried again in {seconds:.0f} s."
        hold.say(hold.current_step(), "running", words)
        hold.let_go(until=now + timedelta(seconds=seconds))


class _Runner:
    """One worker at one resize. :meth:`advance` does one step; nothing in memory is needed to go on."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.wait_seconds = 0.0
        self._asked_at: datetime | None = None
        self._gone_since: datetime | None = None

    @property
    def row(self) -> Resize:
        return self.hold.row

    def advance(self) -> bool:
        """One look and one act; whether to come back after :attr:`wait_seconds`."""
        self.hold.load()
        self.wait_seconds = POLL_SECONDS
        if self.row.operation.status not in LIVE:
            resize_end.with_its_move(self.hold, self.hold.clock())
            return False
        try:
            return self._step()
        except Silent as silent:
            return self._wait_to_know(silent.error)
        except VmNotFound:
            return self._gone()
        except Unreachable as error:  # an act of which nobody knows whether it was done: the next look tells
            return self._wait_to_know(error)
        except Refusal as ending:
            resize_end.by(self.hold, ending, self.hold.clock())
            return False

    def _step(self) -> bool:
        phase = self.row.phase
        if self.row.cancel_requested_at is not None and phase == Phase.PREPARING:
            resize_end.cancelled(self.hold, self.hold.clock())
            return False
        steps: dict[str, Callable[[], bool]] = {
            Phase.PREPARING: self._prepare,
            Phase.MOVING: self._arrived,
            Phase.STOPPING: self._stop,
            Phase.DEFINING: self._define,
            Phase.STARTING: self._start,
            Phase.CHANGING: self._change,
            Phase.CONFIRMING: self._confirm,
        }
        return steps[phase]()

    def _go(self, phase: str) -> bool:
        now = self.hold.clock()
        self.hold.write(now, phase=phase, phase_since=now)
        self.wait_seconds, self._asked_at = 0.0, None
        return True

    def _wait_to_know(self, error: HypervisorError) -> bool:
        """Neither guessed nor hidden; an administrator who fences the host ends it."""
        hold = self.hold
        if is_fenced(hold.row.vm.host):
            resize_end.by(hold, HostFenced(f"The host of {hold.row.vm.name} was fenced."), hold.clock())
            return False
        log.info("resize_waits_for_host", operation=str(hold.row.pk), code=error.code, detail=error.detail)
        hold.say(hold.current_step(), "running", "Its host does not answer now; it goes on once it does.")
        hold.write(hold.clock())
        self.wait_seconds = PATIENT_SECONDS
        return True

    def _gone(self) -> bool:
        """Somebody may be moving it by hand: the inventory finds it where it is. Else that was it."""
        hold, now = self.hold, self.hold.clock()
        self._gone_since = self._gone_since or now
        if (now - self._gone_since).total_seconds() >= GONE_SECONDS:
            resize_end.by(hold, Vanished(f"{hold.row.vm.name} is not known there any more."), now)
            return False
        hold.write(now)
        self.wait_seconds = PATIENT_SECONDS
        return True

    # Before anything is changed

    def _arrived(self) -> bool:
        """The migration wakes us when it has ended; one that went wrong has ended the operation too."""
        if resizes.is_moving(self.row):
            self.hold.let_go(until=self.hold.clock())
            return False
        return self._go(Phase.PREPARING)

    def _prepare(self) -> bool:
        hold, row, now = self.hold, self.row, self.hold.clock()
        if row.operation.status == Operation.Status.PENDING:
            operations.begin(row.operation, by=RUNNER, now=now)
        state = hold.truth()
        wanted = PowerState.OFF if row.mode == Mode.NOW else PowerState.RUNNING
        if state.power_state is not wanted:
            words = f"{row.vm.name} is {state.power_state}."
            raise StartedMeanwhile(words) if row.mode == Mode.NOW else StoppedMeanwhile(words)
        hold.note(now, guest_mib=state.guest.memory_mib, old_shape=asdict(state.next_start))
        first = {Mode.RESTART: Phase.STOPPING, Mode.NOW: Phase.DEFINING}.get(Mode(row.mode), Phase.CHANGING)
        return self._go(first)

    # With a restart

    def _stop(self) -> bool:
        """By ACPI, with a deadline; never a power-off. A VM that is off by then is started again, whatever else."""
        hold, row = self.hold, self.row
        state, name = hold.refresh(), row.vm.name
        if state in (PowerState.OFF, PowerState.CRASHED):
            hold.say(STOP, "done", "It is off.")
            if row.cancel_requested_at is None:
                return self._go(Phase.DEFINING)
            words = f"Cancelled by {row.cancel_requested_by}; {name} was started again as it was."
            hold.note(hold.clock(), back=resize_end.stored(Cancelled(words)))
            return self._go(Phase.STARTING)
        if row.cancel_requested_at is not None:
            resize_end.cancelled(hold, hold.clock())
            return False
        seconds = runtime.current().scaling_shutdown_seconds
        if hold.seconds_in_phase >= seconds:
            raise GuestDidNotReact(f"{name} is still {state} after {seconds} s.", seconds=seconds)
        if self._is_time_to_ask():
            self._power(PowerAction.SHUTDOWN)
        left = seconds - hold.seconds_in_phase
        hold.say(STOP, "running", f"Asked; it has {seconds} s." if left > seconds / 2 else f"It has {left:.0f} s left.")
        hold.write(hold.clock())
        return True

    def _define(self) -> bool:
        hold, row = self.hold, self.row
        shape, state = Shape(**row.shape), hold.truth()
        if row.mode == Mode.NOW and state.power_state is not PowerState.OFF:
            raise StartedMeanwhile(f"{row.vm.name} is {state.power_state}.")
        try:
            if state.next_start != shape:
                hold.call("define", lambda hypervisor: hypervisor.define(row.vm.ref, shape))
        except (Unreachable, VmNotFound):
            raise
        except HypervisorError as error:
            if row.mode == Mode.NOW:
                raise resize_end.as_ending(error) from error
            hold.say(DEFINE, "failed", error.detail or error.title)
            hold.note(hold.clock(), back=resize_end.stored(resize_end.as_ending(error)))
            return self._go(Phase.STARTING)
        hold.say(DEFINE, "done")
        return self._go(Phase.CONFIRMING if row.mode == Mode.NOW else Phase.STARTING)

    def _start(self) -> bool:
        """With the new size; where that does not work as it was before. ``back``: why it keeps its old size."""
        hold, row = self.hold, self.row
        back = row.progress.get("back")
        if hold.refresh() is PowerState.RUNNING:
            hold.say(START, "done", "It runs.")
            if back is None:
                return self._go(Phase.CONFIRMING)
            raise resize_end.read(back)
        if row.progress.get("undefine"):
            shape = Shape(**row.progress["old_shape"])
            hold.call("define", lambda hypervisor: hypervisor.define(row.vm.ref, shape))
            hold.note(hold.clock(), undefine=False)
        failure: HypervisorError | None = None
        if self._is_time_to_ask():
            failure = self._power(PowerAction.START)
        if failure is None and hold.seconds_in_phase < START_SECONDS:
            hold.say(START, "running", "Its host starts it.")
            hold.write(hold.clock())
            return True
        words = (failure.detail or failure.title) if failure is not None else f"It is off after {START_SECONDS:g} s."
        if back is not None:
            raise DidNotStart(words)
        ending = resize_end.as_ending(failure) if failure is not None else DidNotStart(words)
        hold.note(hold.clock(), back=resize_end.stored(ending), undefine=True)
        return self._go(Phase.STARTING)

    def _is_time_to_ask(self) -> bool:
        now = self.hold.clock()
        if self._asked_at is not None and (now - self._asked_at).total_seconds() < AGAIN_SECONDS:
            return False
        self._asked_at = now
        return True

    def _power(self, action: PowerAction) -> HypervisorError | None:
        """Asks; what is in that state already, or busy, the next look tells. Other refusals are returned."""
        ref = self.row.vm.ref
        try:
            self.hold.call("power", lambda hypervisor: hypervisor.power(ref, action))
        except (Unreachable, VmNotFound):
            raise
        except (InvalidState, VmNotRunning, Busy) as error:
            log.info("power_refused", operation=str(self.row.pk), action=action, code=error.code)
        except HypervisorError as error:
            return error
        return None

    # Live

    def _change(self) -> bool:
        hold, row = self.hold, self.row
        state = hold.truth()
        if state.power_state is not PowerState.RUNNING:
            raise StoppedMeanwhile(f"{row.vm.name} is {state.power_state}.")
        index = next((number for number, one in enumerate(row.steps) if not one["done"]), None)
        if index is None:
            return self._go(Phase.CONFIRMING)
        step = _step_of(row.steps[index])
        hold.say(f"{CHANGE}-{index}", "running")
        try:
            hold.call("resize", lambda hypervisor: hypervisor.resize(row.vm.ref, step))
        except (Unreachable, VmNotFound):
            raise
        except Busy as error:
            if hold.seconds_in_phase >= BUSY_SECONDS:
                raise resize_end.as_ending(error) from error
            hold.say(f"{CHANGE}-{index}", "running", "The hypervisor is busy with the VM; it is tried again.")
            hold.write(hold.clock())
            self.wait_seconds = PATIENT_SECONDS
            return True
        except VmNotRunning as error:
            raise StoppedMeanwhile(error.detail) from error
        except HypervisorError as error:
            raise resize_end.as_ending(error) from error
        now, seen = hold.clock(), hold.truth()
        done = [one | {"done": True} if number == index else one for number, one in enumerate(row.steps)]
        hold.write(now, steps=done, phase_since=now)
        hold.say(f"{CHANGE}-{index}", "done", f"It has {seen.vcpus} vCPUs and {seen.memory_mib:,} MiB.")
        self.wait_seconds = 0.0
        return True

    # What came of it

    def _confirm(self) -> bool:
        hold, row = self.hold, self.row
        power = hold.refresh()
        if power is not PowerState.RUNNING and row.mode != Mode.NOW:
            raise StoppedMeanwhile(f"{row.vm.name} is {power}.")
        seen = resize_end.look(hold, hold.truth())
        if self._ends_well(seen):
            return False
        seconds = runtime.current().scaling_guest_wait_seconds
        if hold.seconds_in_phase < seconds:
            hold.say(CONFIRM, "running", seen.words)
            hold.write(hold.clock())
            return True
        self._ask_for_no_more()
        seen = resize_end.look(hold, hold.truth())
        if not self._ends_well(seen):
            raise resize_end.as_ending(GuestDidNotFollow(f"After {seconds} s: {seen.words}"))
        return False

    def _ends_well(self, seen: Seen) -> bool:
        if not seen.reached or seen.guest is GuestSupport.NO:
            return False
        self._put_definition_right()
        outcome = Outcome.APPLIED if seen.guest is GuestSupport.YES else Outcome.UNCONFIRMED
        resize_end.well(self.hold, seen, outcome, self.hold.clock())
        return True

    def _put_definition_right(self) -> None:
        """A size that waited for the next start is not what anybody wants any more; live changes know only of what
        they change."""
        row = self.row
        size = getattr(row.vm, "size", None)
        waits = size is not None and size.next_size is not None and not when_off.needed(row.vm)
        if row.mode in {Mode.LIVE, Mode.MOVE} and waits:
            shape = Shape(**row.shape)
            self.hold.call("define", lambda hypervisor: hypervisor.define(row.vm.ref, shape))

    def _ask_for_no_more(self) -> None:
        """What the guest has not taken in time is not left asked for: room is kept only for what it has."""
        hold, ref = self.hold, self.row.vm.ref
        if self.row.mode not in {Mode.LIVE, Mode.MOVE}:
            return
        for device in hold.truth().facts.memory_devices:
            if device.model is not MemoryModel.VIRTIO_MEM or device.requested_mib <= device.current_mib:
                continue
            step = ResizeStep(ResizeKind.VIRTIO_MEM, device.current_mib, device.alias)
            try:
                hold.call("resize", lambda hypervisor, step=step: hypervisor.resize(ref, step))  # type: ignore[misc]
            except (Unreachable, VmNotFound):
                raise
            except HypervisorError as error:
                log.warning("request_not_taken_back", operation=str(self.row.pk), code=error.code, detail=error.detail)


def _step_of(stored: dict[str, object]) -> ResizeStep:
    return ResizeStep(
        ResizeKind(str(stored["kind"])),
        int(str(stored["value"])),
        str(stored["alias"]),
        int(str(stored["quota_percent"])),
    )
