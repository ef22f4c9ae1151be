"""Power: an operation that a worker executes. Success is what the hypervisor reports afterwards, not that it agreed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from django.db import transaction

from cloudops.core import operations
from cloudops.core.actors import Actor, system
from cloudops.core.errors import Conflict, Refusal
from cloudops.core.models import Operation
from cloudops.core.queue import enqueue
from cloudops.hypervisors.port import HypervisorError, PowerAction, PowerState
from cloudops.inventory import endpoints, signals, sync
from cloudops.inventory.models import Connection, Vm
from cloudops.inventory.notices import after_commit

log = structlog.get_logger(__name__)
WORKER: Actor = system("worker")
TASK = "cloudops.inventory.tasks.run_power"
ASK, CONFIRM = 0, 1
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0

_FROM: Final[dict[PowerAction, frozenset[str]]] = {
    PowerAction.START: frozenset({PowerState.OFF, PowerState.CRASHED}),
    PowerAction.SHUTDOWN: frozenset({PowerState.RUNNING}),
    PowerAction.REBOOT: frozenset({PowerState.RUNNING}),
    PowerAction.STOP: frozenset({PowerState.RUNNING, PowerState.PAUSED}),
    PowerAction.RESET: frozenset({PowerState.RUNNING, PowerState.PAUSED}),
    PowerAction.PAUSE: frozenset({PowerState.RUNNING}),
    PowerAction.RESUME: frozenset({PowerState.PAUSED}),
}
_TO: Final[dict[PowerAction, frozenset[str]]] = {
    PowerAction.START: frozenset({PowerState.RUNNING}),
    PowerAction.SHUTDOWN: frozenset({PowerState.OFF}),
    PowerAction.REBOOT: frozenset({PowerState.RUNNING}),
    PowerAction.STOP: frozenset({PowerState.OFF}),
    PowerAction.RESET: frozenset({PowerState.RUNNING, PowerState.PAUSED}),
    PowerAction.PAUSE: frozenset({PowerState.PAUSED}),
    PowerAction.RESUME: frozenset({PowerState.RUNNING}),
}
_CONFIRM_SECONDS: Final[dict[PowerAction, float]] = {PowerAction.START: 30.0, PowerAction.SHUTDOWN: 60.0}
_CONFIRM_SECONDS_ELSE: Final = 15.0
TITLES: Final[dict[PowerAction, str]] = {
    PowerAction.START: "Start",
    PowerAction.SHUTDOWN: "Shut down",
    PowerAction.REBOOT: "Reboot",
    PowerAction.STOP: "Power off",
    PowerAction.RESET: "Reset",
    PowerAction.PAUSE: "Pause",
    PowerAction.RESUME: "Resume",
}


class PowerActionImpossible(Conflict):
    code = "power-action-impossible"
    title = "The VM's present state does not allow this."
    remedy = "Look at the VM's power state; refresh it if it seems wrong."


class HostNotUp(Conflict):
    code = "host-not-up"
    title = "The VM's host cannot be reached now."
    remedy = "Look at the host's page for the reason; try again when it is up."


class GuestIgnored(Conflict):
    code = "guest-did-not-react"
    title = "The VM did not reach the wanted state in time."
    remedy = "The guest may ignore ACPI or be busy. Look at its console; power it off if it does not end by itself."


def blocked_actions(vm: Vm) -> dict[PowerAction, str]:
    """Why an action is impossible now, by action; what is possible is not in it. Needs ``select_related("host")``."""
    if vm.missing_since is not None:
        return dict.fromkeys(PowerAction, "Its hypervisor does not report this VM any more.")
    if vm.host.connection == Connection.UNREACHABLE:
        return dict.fromkeys(PowerAction, f"Its host {vm.host.name} cannot be reached.")
    if vm.power_state == PowerState.UNKNOWN:
        return dict.fromkeys(PowerAction, "Its power state is not known yet.")
    words = f"The VM is {vm.get_power_state_display().lower()}."
    return {action: words for action, states in _FROM.items() if vm.power_state not in states}


def power(vm: Vm, *, action: PowerAction, by: Actor, now: datetime) -> Operation:
    """Starts the operation; a worker executes it. Needs ``select_related("host")``.

    Raises :class:`HostNotUp`, :class:`PowerActionImpossible`, ``OperationRunning`` and, for a start, whatever refusal
    the layers above have (``signals.vm_starting``).
    """
    if vm.host.connection == Connection.UNREACHABLE:
        raise HostNotUp(f"{vm.host.name}: {vm.host.error_detail or 'cannot be reached.'}")
    if reason := blocked_actions(vm).get(action):
        raise PowerActionImpossible(reason, power_state=str(vm.power_state), action=str(action))
    with transaction.atomic():
        operation = operations.start(
            kind="vm.power",
            title=f"{TITLES[action]} {vm.name}"[:200],
            subject=vm,
            steps=["Ask the hypervisor", "Wait for the VM"],
            by=by,
            now=now,
            params={"action": str(action)},
        )
        if action is PowerAction.START:
            signals.vm_starting.send(sender=None, vm=vm, operation=operation, by=by, now=now)
        transaction.on_commit(lambda: _hand_over(operation, now))
    return operation


def _hand_over(operation: Operation, now: datetime) -> None:
    if not enqueue(TASK, str(operation.pk)):
        words = "The job queue (Redis) cannot be reached, so nothing was done."
        remedy = "Try again in a moment; an administrator can look at /readyz."
        _end_badly(operation, "queue-unavailable", words, remedy, now=now)


def run(operation: Operation, *, clock: Callable[[], datetime]) -> None:
    """Executes the operation in a worker and ends it, well or with a code and a remedy. Never raises for the VM's sake.

    Raises ``Conflict`` when another worker has taken it up.
    """
    operations.begin(operation, by=WORKER, now=clock())
    step = ASK
    try:
        vm = Vm.objects.select_related("host__endpoint").get(pk=operation.subject_id)
        action = PowerAction(operation.params["action"])
        operations.step(operation, ASK, "running", now=clock())
        if action is PowerAction.START:
            _about_to_start(vm, operation, clock())
        endpoints.call(vm.host.endpoint, "power", lambda hypervisor: hypervisor.power(vm.ref, action))
        operations.step(operation, ASK, "done", now=clock())
        step = CONFIRM
        operations.step(operation, CONFIRM, "running", now=clock())
        state = _confirm(operation, vm, action, clock)
    except HypervisorError as error:
        _fail(operation, step, error.code, error.detail or error.title, error.remedy, now=clock())
    except Refusal as refusal:
        _fail(operation, step, refusal.code, refusal.detail, refusal.remedy_text, now=clock())
    except Vm.DoesNotExist:
        remedy = "Nothing is left to do."
        _fail(operation, step, "vm-gone", "The VM was removed from the inventory.", remedy, now=clock())
    else:
        operations.step(operation, CONFIRM, "done", now=clock(), detail=state)
        operations.succeed(operation, by=WORKER, now=clock(), result={"power_state": state})


def _about_to_start(vm: Vm, operation: Operation, now: datetime) -> None:
    """Others may have something to do while it is still off; what goes wrong there is theirs."""
    for receiver, answer in signals.vm_power_on.send_robust(sender=None, vm=vm, operation=operation, now=now):
        if isinstance(answer, Exception):
            log.warning("not_prepared_for_start", vm=str(vm.pk), receiver=str(receiver), error=str(answer))


def _confirm(operation: Operation, vm: Vm, action: PowerAction, clock: Callable[[], datetime]) -> str:
    """Reads the VM again until it is where it should be; returns its power state. Raises :class:`GuestIgnored`."""
    seconds = _CONFIRM_SECONDS.get(action, _CONFIRM_SECONDS_ELSE)
    deadline = time.monotonic() + seconds
    beat = time.monotonic() + HEARTBEAT_SECONDS
    while True:
        sync.refresh_vm(vm.host.endpoint, vm.ref, now=clock())
        vm.refresh_from_db(fields=["power_state"])
        if vm.power_state in _TO[action]:
            return vm.power_state
        if time.monotonic() >= deadline:
            raise GuestIgnored(f"{vm.name} is still {vm.power_state} after {seconds:g} s.", seconds=seconds)
        if time.monotonic() >= beat:
            operations.step(operation, CONFIRM, "running", now=clock(), detail=f"It is still {vm.power_state}.")
            beat = time.monotonic() + HEARTBEAT_SECONDS
        time.sleep(POLL_SECONDS)


def _fail(operation: Operation, step: int, code: str, detail: str, remedy: str, *, now: datetime) -> None:
    operations.step(operation, step, "failed", now=now, detail=detail)
    _end_badly(operation, code, detail, remedy, now=now)


def _end_badly(operation: Operation, code: str, detail: str, remedy: str, *, now: datetime) -> None:
    with transaction.atomic():
        operations.fail(operation, by=WORKER, now=now, code=code, detail=detail, remedy=remedy)
        if operation.params["action"] == PowerAction.START:
            after_commit(signals.vm_start_failed, vm_ids=[UUID(operation.subject_id)], now=now)
