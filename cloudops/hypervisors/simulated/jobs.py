"""Migrations between simulated hosts.

A job is a row; how far it is follows from the clock alone. Whoever looks first after its time ends it, in whatever
process, so that it needs nobody to run it, as on a platform whose hosts do that among themselves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from cloudops.hypervisors import port_errors
from cloudops.hypervisors.port import (
    Busy,
    EventKind,
    HypervisorError,
    InvalidState,
    MigrationAborted,
    MigrationFailed,
    MigrationInterrupted,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    PowerState,
    VmFacts,
)
from cloudops.hypervisors.simulated.records import vm_of, vm_text
from cloudops.hypervisors.simulated.state import State
from cloudops.hypervisors.simulated.store import Store, now

POST_COPY_SHARE = 0.5
"""From here on a guest that may be moved by post-copy runs at its destination."""
ERRORS: dict[str, type[HypervisorError]] = {
    name: value
    for name, value in vars(port_errors).items()
    if isinstance(value, type) and issubclass(value, HypervisorError)
}
_COLUMNS = (
    "endpoint, vm_ref, facts, to_endpoint, to_host, rate, post_copy, started_at, seconds, stop_share, stop_error,"
    " stop_detail, state, ended_at, label"
)


@dataclass(frozen=True, slots=True)
class MigrationFault:
    """What happens to the next ``count`` migrations from or to an endpoint, or one of its hosts.

    They fail with ``error`` when ``at_percent`` of the memory is copied, or are refused when that is None. With
    ``error`` None they get no further than ``at_percent``, until the faults are cleared.
    """

    error: type[HypervisorError] | None = MigrationFailed
    detail: str = "simulated"
    at_percent: float | None = None
    host_ref: str = ""
    direction: Literal["from", "to", "any"] = "any"
    count: int = 1


class _Job(NamedTuple):
    endpoint: str
    vm_ref: str
    facts: str
    to_endpoint: str
    to_host: str
    rate: float
    post_copy: int
    started_at: float
    seconds: float
    stop_share: float | None
    stop_error: str
    stop_detail: str
    state: str
    ended_at: float | None
    label: str

    @property
    def vm(self) -> VmFacts:
        return vm_of(self.facts)

    @property
    def share(self) -> float:
        """How much is copied, 0 to 1."""
        until = now() if self.ended_at is None else self.ended_at
        share = min(1.0, max(0.0, (until - self.started_at) / self.seconds)) if self.seconds else 1.0
        return share if self.stop_share is None else min(share, self.stop_share)

    @property
    def runs_there(self) -> bool:
        return bool(self.post_copy) and self.share >= POST_COPY_SHARE


def begin(
    source: State, to: State, vm: VmFacts, to_host: str, options: MigrationOptions, rate_mib_per_second: float
) -> None:
    """Starts a job; what takes no time is done at once. Raises Busy, and what faults say."""
    store = source.store
    with store.write():
        settle(store)
        if running(source, vm.ref) is not None or _incoming(source, vm.ref) is not None:
            raise Busy(f"VM {vm.name} is being moved already.")
        fault = _take_fault(source, to, vm.host_ref, to_host)
        refusal = None if fault is None or fault[0] is not None else ERRORS[fault[1]](fault[2])
        if refusal is None:
            _insert(source, to, vm, to_host, options, rate_mib_per_second, fault)
            settle(store)
    if refusal is not None:  # after the commit, which counts the fault as used
        raise refusal


def _insert(
    source: State,
    to: State,
    vm: VmFacts,
    to_host: str,
    options: MigrationOptions,
    rate: float,
    fault: tuple[float | None, str, str] | None,
) -> None:
    began, seconds = now(), vm.memory_mib / rate if options.live else 0.0
    share, error, detail = fault or (None, "", "")
    due_at = None if share is not None and not error else began + seconds * (1.0 if share is None else share)
    values = (source.endpoint, vm.ref, vm_text(vm), to.endpoint, to_host, rate, int(options.post_copy), began, seconds)
    source.store.execute(
        f"REPLACE INTO migration_job ({_COLUMNS}, due_at) VALUES ({'?, ' * 15}?)",  # noqa: S608
        *(*values, share, error, detail, MigrationState.RUNNING.value, None, options.label, due_at),
    )
    if source.endpoint != to.endpoint:
        source.store.note(to.endpoint, EventKind.VM_CHANGED, vm.ref, PowerState.PAUSED.value)


def settle(store: Store) -> float | None:
    """Ends the jobs whose time has come; returns in how many seconds the next one's does, None when none is awaited."""
    due = store.rows("SELECT MIN(due_at) FROM migration_job WHERE state = 'running'")[0][0]
    if due is None or due > now():
        return None if due is None else float(due - now())
    query = f"SELECT {_COLUMNS} FROM migration_job WHERE state = 'running' AND due_at <= ? ORDER BY due_at, rowid"  # noqa: S608
    with store.write():
        for row in store.rows(query, now()):
            job = _Job(*row)
            if job.stop_error:
                _fail(store, job, job.stop_error, job.stop_detail)
            else:
                _complete(store, job)
    return settle(store)


def running(state: State, vm_ref: str) -> _Job | None:
    """The job that moves this VM away."""
    job = _latest(state, vm_ref)
    return job if job is not None and job.state == MigrationState.RUNNING else None


def incoming(state: State) -> list[VmFacts]:
    """VMs on their way here from other endpoints: defined here already, and paused."""
    query = (
        f"SELECT {_COLUMNS} FROM migration_job WHERE to_endpoint = ? AND endpoint != ? AND state = 'running'"  # noqa: S608
        " ORDER BY rowid"
    )
    jobs = [_Job(*row) for row in state.store.rows(query, state.endpoint, state.endpoint)]
    return [replace(job.vm, host_ref=job.to_host, power_state=PowerState.PAUSED) for job in jobs]


def status(state: State, vm_ref: str) -> MigrationStatus:
    """How the VM's latest job away from here stands."""
    settle(state.store)
    job = _latest(state, vm_ref)
    if job is None:
        return MigrationStatus(MigrationState.NONE)
    total = job.vm.memory_mib
    sent = int(total * job.share)
    ended = job.state == MigrationState.COMPLETED
    return MigrationStatus(
        MigrationState(job.state),
        memory_total_mib=total,
        memory_remaining_mib=total - sent,
        memory_sent_mib=sent,
        rate_mib_per_second=job.rate if job.state == MigrationState.RUNNING and job.stop_share != job.share else 0.0,
        downtime_milliseconds=_downtime_milliseconds(vm_ref) if ended else None,
        elapsed_seconds=(now() if job.ended_at is None else job.ended_at) - job.started_at,
        post_copy=job.runs_there,
        error=ERRORS[job.stop_error](job.stop_detail) if job.state == MigrationState.FAILED else None,
        label=job.label,
    )


def abort(state: State, vm_ref: str) -> None:
    """Raises InvalidState when nothing moves, or the guest runs at its destination already."""
    with state.store.write():
        settle(state.store)
        job = running(state, vm_ref)
        if job is None:
            raise InvalidState("No migration of this VM is running here.")
        if job.runs_there:
            raise InvalidState("The VM runs at its destination already; the rest of its memory follows.")
        _fail(state.store, job, MigrationAborted.__name__, "The migration was cancelled.")


def cancel(state: State, vm_ref: str, detail: str) -> None:
    """The VM was stopped: its job, if there is one, ends with that."""
    if (job := running(state, vm_ref)) is not None:
        _fail(state.store, job, MigrationFailed.__name__, detail)


def interrupt(state: State) -> None:
    """Ends the jobs from and to what cannot be reached any more; within the store's transaction."""
    faults, store = state.faults(), state.store
    query = f"SELECT {_COLUMNS} FROM migration_job WHERE state = 'running' AND (endpoint = ? OR to_endpoint = ?)"  # noqa: S608
    for row in store.rows(query, state.endpoint, state.endpoint):
        job = _Job(*row)
        ours = {job.vm.host_ref} if job.endpoint == state.endpoint else set()
        ours |= {job.to_host} if job.to_endpoint == state.endpoint else set()
        if faults.disconnected or ours & set(faults.down_hosts):
            _fail(store, job, MigrationInterrupted.__name__, "The line between the hosts broke (simulated).")


def add_fault(state: State, fault: MigrationFault) -> None:
    """For the next migrations."""
    share = None if fault.at_percent is None else fault.at_percent / 100
    error = "" if fault.error is None else fault.error.__name__
    with state.store.write():
        state.store.execute(
            "INSERT INTO migration_fault (endpoint, host_ref, direction, share, error, detail, uses)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(state.endpoint, fault.host_ref, fault.direction),
            *(0.0 if share is None and not error else share, error, fault.detail, fault.count),
        )


def clear_faults(state: State) -> None:
    """None from now on; jobs that are held up go on."""
    ours = "state = 'running' AND due_at IS NULL AND (endpoint = ? OR to_endpoint = ?)"
    with state.store.write():
        state.store.execute("DELETE FROM migration_fault WHERE endpoint = ?", state.endpoint)
        state.store.execute(  # those that stand still go on from where they are
            f"UPDATE migration_job SET started_at = MAX(started_at, ? - seconds * stop_share) WHERE {ours}",  # noqa: S608
            *(now(), state.endpoint, state.endpoint),
        )
        state.store.execute(
            f"UPDATE migration_job SET stop_share = NULL, due_at = started_at + seconds WHERE {ours}",  # noqa: S608
            *(state.endpoint, state.endpoint),
        )


def _latest(state: State, vm_ref: str) -> _Job | None:
    query = f"SELECT {_COLUMNS} FROM migration_job WHERE endpoint = ? AND vm_ref = ?"  # noqa: S608
    rows = state.store.rows(query, state.endpoint, vm_ref)
    return _Job(*rows[0]) if rows else None


def _incoming(state: State, vm_ref: str) -> VmFacts | None:
    return next((vm for vm in incoming(state) if vm.ref == vm_ref), None)


def _take_fault(source: State, to: State, from_host: str, to_host: str) -> tuple[float | None, str, str] | None:
    """Share, error and detail of the first fault that concerns this move."""
    rows: list[Any] = source.store.rows(
        "SELECT seq, share, error, detail FROM migration_fault WHERE uses > 0 AND ("
        " (endpoint = ? AND direction IN ('from', 'any') AND host_ref IN ('', ?))"
        " OR (endpoint = ? AND direction IN ('to', 'any') AND host_ref IN ('', ?))) ORDER BY seq LIMIT 1",
        *(source.endpoint, from_host, to.endpoint, to_host),
    )
    if not rows:
        return None
    sequence, share, error, detail = rows[0]
    source.store.execute("UPDATE migration_fault SET uses = uses - 1 WHERE seq = ?", sequence)
    return share, error, detail


def _end(store: Store, job: _Job, state: MigrationState, error: str = "", detail: str = "") -> None:
    at = now() if job.stop_error or state is MigrationState.FAILED else job.started_at + job.seconds
    store.execute(
        "UPDATE migration_job SET state = ?, stop_error = ?, stop_detail = ?, ended_at = ?"
        " WHERE endpoint = ? AND vm_ref = ?",
        *(state.value, error, detail, at, job.endpoint, job.vm_ref),
    )


def _fail(store: Store, job: _Job, error: str, detail: str) -> None:
    _end(store, job, MigrationState.FAILED, error, detail)
    if job.to_endpoint != job.endpoint:
        store.note(job.to_endpoint, EventKind.VM_REMOVED, job.vm_ref)
    store.note(job.endpoint, EventKind.VM_CHANGED, job.vm_ref)


def _complete(store: Store, job: _Job) -> None:
    source, to = State(store, job.endpoint), State(store, job.to_endpoint)
    power = source.power_state(job.vm_ref) or job.vm.power_state
    shape, guest = source.shape(job.vm_ref), source.guest(job.vm_ref)
    _end(store, job, MigrationState.COMPLETED)
    source.remove_vm(job.vm_ref, event=job.to_endpoint != job.endpoint)
    moved = replace(job.vm, host_ref=job.to_host, power_state=power)
    to.put_vm(moved)
    if shape is not None or guest is not None:
        to.change_vm(moved, shape, guest)


def _downtime_milliseconds(vm_ref: str) -> float:
    return round(random.Random(vm_ref).uniform(30.0, 190.0), 1)
