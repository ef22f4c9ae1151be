"""Live migration, peer to peer: the source's libvirtd does it with the destination's, and goes on without us.

The call that asks for it returns only at the end. It gets a thread and a connection of its own, and what it ends with
is remembered in this process; any other process sees the progress through libvirt (virDomainGetJobStats) and, at the
end, where the VM is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import libvirt

from cloudops.hypervisors.libvirt.lookup import find_domain
from cloudops.hypervisors.libvirt.migration_errors import migration_error, no_job, typed
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.libvirt.uri import parse_uri
from cloudops.hypervisors.port import (
    Busy,
    DestinationIncompatible,
    DestinationUnreachable,
    EndpointSpec,
    HypervisorError,
    InvalidState,
    Kind,
    MigrationInterrupted,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    MigrationTarget,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)

T = TypeVar("T")
Call = Callable[[Callable[[Any], Any]], Any]

LONGEST_SECONDS = 7 * 24 * 3600.0
BEGIN_SHARE = 0.6
"""How much of the endpoint's timeout is spent on waiting for the memory to begin to flow, to learn of refusals."""
POLL_SECONDS = 0.05
LINE_SECONDS = 0.3
POST_COPY_ITERATION = 2
"""All memory was sent once, and what changed meanwhile is being sent again."""
MOST_REMEMBERED = 1_000
MIB = 1024 * 1024
_PAUSED_FOR_MIGRATION = {libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY}


@dataclass
class _Job:
    """One migration that this process asked for. ``status`` is final once ``ended`` is set; ``lost`` says that our
    line to the source broke, after which only libvirt knows."""

    vm_ref: str
    label: str = ""
    status: MigrationStatus = field(default_factory=lambda: MigrationStatus(MigrationState.RUNNING))
    ended: threading.Event = field(default_factory=threading.Event)
    lost: bool = False

    def note(self, status: MigrationStatus) -> None:
        """How far it is, unless it has ended meanwhile."""
        with _lock:
            if not self.ended.is_set():
                self.status = status

    def end(self, status: MigrationStatus) -> None:
        """Its last word."""
        with _lock:
            self.status = status
            self.ended.set()


_jobs: dict[tuple[str, str], _Job] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _jobs.clear()


os.register_at_fork(after_in_child=_after_fork)


class Migrations:
    """Of one endpoint. ``call`` runs a function with libvirt's connection object, in a short time."""

    def __init__(self, spec: EndpointSpec, call: Call) -> None:
        self._spec = spec
        self._call = call

    def begin(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.migrate`."""
        deadline = time.monotonic() + self._spec.timeout_seconds * BEGIN_SHARE
        if (known := self._known(vm_ref)) is not None and known.ended.is_set():
            self._forget(known)
        self._call(lambda handle: _demand_ready(handle, vm_ref, options))
        _demand_reachable(target, deadline)
        job = self._remember(vm_ref, options.label)
        session = Session(self._spec, parse_uri(self._spec.uri))
        try:
            session.open(deadline)
        except BaseException:
            self._forget(job)
            raise
        threading.Thread(
            target=self._run, args=(job, session, target, options), name=f"migration of {vm_ref}", daemon=True
        ).start()
        while not job.ended.wait(POLL_SECONDS) and time.monotonic() < deadline:
            with contextlib.suppress(HypervisorError):
                found, _ = self._look(vm_ref)
                if found is not None and found.memory_total_mib:
                    break
        if job.ended.is_set() and job.status.error is not None:
            self._forget(job)
            raise job.status.error

    def status(self, vm_ref: str) -> MigrationStatus:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.migration`."""
        job = self._known(vm_ref)
        status = self._status_of(job, vm_ref)
        return replace(status, label=job.label) if job is not None else status

    def _status_of(self, job: _Job | None, vm_ref: str) -> MigrationStatus:
        was_over = job is not None and job.ended.is_set()
        try:
            found, is_here = self._look(vm_ref)
        except Unreachable:
            if job is not None and job.ended.is_set() and not job.lost:
                return job.status
            raise
        if found is not None:  # also when another process began it, after what this one remembers
            if job is not None and was_over:  # a later one than this process remembers
                self._forget(job)
            elif job is not None:
                job.note(found)
            return found
        if job is None or (job.ended.is_set() and job.status.state is MigrationState.FAILED and not is_here):
            return MigrationStatus(MigrationState.NONE)
        if not job.lost:  # ended, or ending just now
            return job.status
        words = job.status.error.detail if job.status.error is not None else ""
        error = MigrationInterrupted(f"The source host's libvirt went away meanwhile ({words.rstrip('.')}).")
        return replace(job.status, state=MigrationState.FAILED, error=error)

    def abort(self, vm_ref: str) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.abort_migration`."""

        def stop(handle: Any) -> None:
            domain = find_domain(handle, vm_ref)
            try:
                if _outgoing(domain) is None:
                    raise InvalidState(f"No migration of {domain.name()} is running here.")
                domain.abortJob()
            except libvirt.libvirtError as error:
                raise typed(error) from error

        self._call(stop)

    def discard(self, vm_ref: str) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.discard`."""

        def remove(handle: Any) -> None:
            domain = find_domain(handle, vm_ref)
            if domain.isActive():
                state, reason = domain.state()
                if state != libvirt.VIR_DOMAIN_PAUSED or reason not in _PAUSED_FOR_MIGRATION or _has_job(domain):
                    raise InvalidState(f"{domain.name()} is in use here; only a definition that is off is a leftover.")
                domain.destroy()
            if domain.isPersistent():
                domain.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
                )

        self._call(remove)

    # -- the job

    def _run(self, job: _Job, session: Session, target: MigrationTarget, options: MigrationOptions) -> None:
        began = time.monotonic()
        if options.live and options.post_copy:
            threading.Thread(target=self._attend, args=(job,), name="post-copy", daemon=True).start()
        try:
            session.call(
                lambda handle: _migrate(handle, job.vm_ref, target, options), time.monotonic() + LONGEST_SECONDS
            )
        except HypervisorError as error:
            if isinstance(error, MigrationInterrupted):
                time.sleep(LINE_SECONDS)  # was it the line between the hosts, or ours, which says so a moment later?
            job.lost = isinstance(error, Unreachable) or not session.is_alive
            took = time.monotonic() - began
            state = MigrationState.FAILED
            job.end(replace(job.status, state=state, error=error, rate_mib_per_second=0.0, elapsed_seconds=took))
        else:
            last = replace(job.status, elapsed_seconds=time.monotonic() - began)
            job.end(
                _completed(job.vm_ref, target, last) if options.live else replace(last, state=MigrationState.COMPLETED)
            )
        finally:
            job.ended.set()
            session.close("the migration has ended")

    def _attend(self, job: _Job) -> None:
        """Lets the guest go on at the destination once its memory was sent a first time."""

        def switch(handle: Any) -> bool:
            domain = find_domain(handle, job.vm_ref)
            stats = _outgoing(domain)
            if stats is None or stats.get("memory_iteration", 0) < POST_COPY_ITERATION:
                return False
            domain.migrateStartPostCopy(0)
            return True

        while not job.ended.wait(0.5):
            with contextlib.suppress(HypervisorError):
                if self._call(switch):
                    return

    def _look(self, vm_ref: str) -> tuple[MigrationStatus | None, bool]:
        """What libvirt says of a job that runs, if there is one; and whether the VM runs here."""

        def ask(handle: Any) -> tuple[MigrationStatus | None, bool]:
            try:
                domain = find_domain(handle, vm_ref)
                stats, (state, reason) = _outgoing(domain), domain.state()
            except VmNotFound:
                return None, False
            except libvirt.libvirtError as error:
                if no_job(error):
                    return None, False
                raise
            there = state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_POSTCOPY
            is_here = state != libvirt.VIR_DOMAIN_SHUTOFF
            return None if stats is None else _status(stats, MigrationState.RUNNING, post_copy=there), is_here

        found: tuple[MigrationStatus | None, bool] = self._call(ask)
        return found

    def _known(self, vm_ref: str) -> _Job | None:
        with _lock:
            return _jobs.get((self._spec.key, vm_ref))

    def _remember(self, vm_ref: str, label: str) -> _Job:
        with _lock:
            known = _jobs.get((self._spec.key, vm_ref))
            if known is not None and not known.ended.is_set():
                raise Busy("This VM is being moved already.")
            if len(_jobs) >= MOST_REMEMBERED:
                for key in [key for key, job in _jobs.items() if job.ended.is_set()][: MOST_REMEMBERED // 2]:
                    del _jobs[key]
            job = _jobs[(self._spec.key, vm_ref)] = _Job(vm_ref, label)
            return job

    def _forget(self, job: _Job) -> None:
        with _lock:
            if _jobs.get((self._spec.key, job.vm_ref)) is job:
                del _jobs[(self._spec.key, job.vm_ref)]


def demand_idle(domain: Any) -> None:
    """Raises :class:`Busy` while a job runs on the domain: libvirt would keep the caller waiting for half a minute."""
    if domain.isActive() and _has_job(domain):
        raise Busy(f"{domain.name()} is being moved, or saved, just now.")


def _has_job(domain: Any) -> bool:
    try:
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:  # it is arriving here
            return True
        if no_job(error):
            return False
        raise


def _outgoing(domain: Any) -> dict[str, Any] | None:
    """The statistics of the migration away from here, while it runs."""
    try:
        stats: dict[str, Any] = domain.jobStats()
    except libvirt.libvirtError as error:
        if no_job(error):
            return None
        raise
    runs = stats.get("type") in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED)
    return stats if runs and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT else None


def _demand_ready(handle: Any, vm_ref: str, options: MigrationOptions) -> None:
    domain = find_domain(handle, vm_ref)
    if options.live and not domain.isActive():
        raise VmNotRunning(f"VM {domain.name()} is off.")
    if not options.live and domain.isActive():  # libvirt would move the definition away from under it
        raise InvalidState(f"VM {domain.name()} is not off; only a VM that is off moves without its memory.")
    demand_idle(domain)


def _demand_reachable(target: MigrationTarget, deadline: float) -> None:
    """libvirtd would wait for minutes for a destination that does not answer, and could not be stopped from it."""
    if target.spec.kind is not Kind.LIBVIRT:
        raise DestinationIncompatible(f"A libvirt VM cannot move to a host of kind {target.spec.kind}.")
    if not target.uri:
        raise DestinationUnreachable("The destination has no address where other hosts reach it.", remedy=NO_URI_REMEDY)
    session = Session(target.spec, parse_uri(target.spec.uri))
    try:
        session.open(deadline)
    except HypervisorError as error:
        raise DestinationUnreachable(f"The destination does not answer: {error}") from error
    finally:
        session.close("it was only tried")


NO_URI_REMEDY = "Enter the host's migration URI, for example qemu+tls://kvm-02/system."


def _migrate(handle: Any, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
    domain = find_domain(handle, vm_ref)
    parameters: dict[str, Any] = {}
    if options.live:
        if options.bandwidth_mib_per_second:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = options.bandwidth_mib_per_second
        with contextlib.suppress(libvirt.libvirtError):  # older ones take it only while it migrates
            domain.migrateSetMaxDowntime(options.downtime_milliseconds, 0)
    try:
        domain.migrateToURI3(target.uri, parameters, _flags(options))
    except libvirt.libvirtError as error:
        raise migration_error(error) from error


def _flags(options: MigrationOptions) -> int:
    flags: int = libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    if not options.live:
        return flags | int(libvirt.VIR_MIGRATE_OFFLINE)
    flags |= libvirt.VIR_MIGRATE_LIVE
    if options.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if options.post_copy:
        flags |= libvirt.VIR_MIGRATE_POSTCOPY
    if options.copy_storage:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
    return flags


def _completed(vm_ref: str, target: MigrationTarget, last: MigrationStatus) -> MigrationStatus:
    """The final figures, which the destination keeps."""
    session = Session(target.spec, parse_uri(target.spec.uri))
    deadline = time.monotonic() + target.spec.timeout_seconds
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED
    try:
        session.open(deadline)
        stats = session.call(lambda handle: find_domain(handle, vm_ref).jobStats(flags), deadline)
    except HypervisorError:
        return replace(last, state=MigrationState.COMPLETED, memory_remaining_mib=0, rate_mib_per_second=0.0)
    finally:
        session.close("the figures are known")
    found = _status(stats, MigrationState.COMPLETED, post_copy=False)
    return replace(found, elapsed_seconds=found.elapsed_seconds or last.elapsed_seconds)


def _status(stats: dict[str, Any], state: MigrationState, *, post_copy: bool) -> MigrationStatus:
    """virDomainGetJobStats' fields; bytes and milliseconds there."""
    total, remaining = stats.get("memory_total", 0), stats.get("memory_remaining", 0)
    return MigrationStatus(
        state,
        memory_total_mib=-(-total // MIB),
        memory_remaining_mib=-(-remaining // MIB),
        memory_sent_mib=-(-stats.get("memory_processed", 0) // MIB),
        rate_mib_per_second=round(stats.get("memory_bps", 0) / MIB, 2) if state is MigrationState.RUNNING else 0.0,
        downtime_milliseconds=float(stats["downtime"])
        if state is MigrationState.COMPLETED and "downtime" in stats
        else None,
        elapsed_seconds=stats.get("time_elapsed", 0) / 1000,
        post_copy=post_copy,
    )
