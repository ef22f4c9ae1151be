"""A maintenance mode of the simulated platform's own, as vSphere has: it waits until the host is empty, and keeps it.

How it stands follows from rows and the clock, so that it needs nobody to run it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cloudops.hypervisors.port import EventKind, HypervisorError, InvalidState, PowerState, VmFacts
from cloudops.hypervisors.simulated.jobs import ERRORS
from cloudops.hypervisors.simulated.state import State
from cloudops.hypervisors.simulated.store import now

ALIVE = (PowerState.RUNNING, PowerState.PAUSED)


@dataclass(frozen=True, slots=True)
class MaintenanceFault:
    """What the platform answers to the next ``count`` requests to enter its maintenance mode, or to ``leave`` it."""

    error: type[HypervisorError] = InvalidState
    detail: str = "simulated"
    leave: bool = False
    count: int = 1


def enter(state: State, host_ref: str) -> None:
    """The host is on its way into it from now on; asked again, as before. Raises what a fault says."""
    refusal = None
    with state.store.write():
        fault = _take_fault(state, leave=False)
        if fault is not None:
            refusal = fault
        elif not _asked(state, host_ref):
            values = (state.endpoint, host_ref, now())
            state.store.execute("INSERT INTO host_maintenance VALUES (?, ?, ?, 0)", *values)
    if refusal is not None:  # after the commit, which counts the fault as used
        raise refusal


def leave(state: State, host_ref: str) -> None:
    """It is in it no more, nor on its way there. Raises what a fault says."""
    with state.store.write():
        fault = _take_fault(state, leave=True)
        if fault is None and state.store.execute(
            "DELETE FROM host_maintenance WHERE endpoint = ? AND host_ref = ?", state.endpoint, host_ref
        ):
            state.store.note(state.endpoint, EventKind.HOSTS_CHANGED)
    if fault is not None:
        raise fault


def entered(state: State, vms: Iterable[VmFacts], seconds: float) -> set[str]:
    """The hosts that are in it: asked for ``seconds`` ago at least, and none of the ``vms`` ran there since."""
    rows = state.store.rows(
        "SELECT host_ref, asked_at, entered FROM host_maintenance WHERE endpoint = ?", state.endpoint
    )
    if not rows:
        return set()
    busy = {vm.host_ref for vm in vms if vm.power_state in ALIVE}
    there = {ref for ref, _, done in rows if done}
    fresh = {ref for ref, at, done in rows if not done and ref not in busy and at + seconds <= now()}
    if fresh:
        with state.store.write():
            for ref in fresh:
                statement = "UPDATE host_maintenance SET entered = 1 WHERE endpoint = ? AND host_ref = ?"
                state.store.execute(statement, state.endpoint, ref)
            state.store.note(state.endpoint, EventKind.HOSTS_CHANGED)
    return there | fresh


def demand_open(state: State, host_ref: str, host_name: str) -> None:
    """Raises :class:`InvalidState` for a host that is in it or on its way there: nothing is started or moved there."""
    if _asked(state, host_ref):
        raise InvalidState(f"{host_name} is in maintenance mode (simulated).", platform_code="simulated")


def add_fault(state: State, fault: MaintenanceFault) -> None:
    """For the next requests."""
    with state.store.write():
        state.store.execute(
            "INSERT INTO maintenance_fault (endpoint, error, detail, leaves, uses) VALUES (?, ?, ?, ?, ?)",
            *(state.endpoint, fault.error.__name__, fault.detail, int(fault.leave), fault.count),
        )


def _asked(state: State, host_ref: str) -> bool:
    query = "SELECT 1 FROM host_maintenance WHERE endpoint = ? AND host_ref = ?"
    return bool(state.store.rows(query, state.endpoint, host_ref))


def _take_fault(state: State, *, leave: bool) -> HypervisorError | None:
    rows = state.store.rows(
        "SELECT seq, error, detail FROM maintenance_fault WHERE endpoint = ? AND leaves = ? AND uses > 0"
        " ORDER BY seq LIMIT 1",
        *(state.endpoint, int(leave)),
    )
    if not rows:
        return None
    sequence, error, detail = rows[0]
    state.store.execute("UPDATE maintenance_fault SET uses = uses - 1 WHERE seq = ?", sequence)
    return ERRORS[error](detail, platform_code="simulated")
