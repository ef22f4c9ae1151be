"""A runner's hold on one migration: the row, taken by compare-and-set for a short lease that every write renews."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from cloudops.core import held, operations
from cloudops.core.actors import Actor, system
from cloudops.core.held import Held, Lost
from cloudops.core.models import Operation
from cloudops.hypervisors.port import Hypervisor, HypervisorError, PowerState, VmNotFound
from cloudops.inventory import endpoints
from cloudops.inventory.models import Host
from placement import whereabouts
from placement.fence import is_fenced
from placement.models import VmMigration
from placement.vm_migrations import Options

log = structlog.get_logger(__name__)
RUNNER: Final[Actor] = system("migration")
READ_AGAIN_SECONDS: Final = 10.0


class Hold(Held[VmMigration]):
    """``row`` is as of the last :meth:`load`, brought up to date by :meth:`write`."""

    def __init__(self, row: VmMigration, clock: Callable[[], datetime]) -> None:
        super().__init__(row, clock)
        self._read_at = clock()

    def load(self) -> None:
        """Sees whether an abort was asked for; from time to time everything is read again, as addresses and
        credentials of hosts may change meanwhile. Raises :class:`Lost`."""
        now = self.clock()
        if (now - self._read_at).total_seconds() >= READ_AGAIN_SECONDS:
            self.row, self._read_at = _load(self.row.pk, self.me), now
            return
        said = self.mine.values_list("abort_requested_at", "abort_requested_by").first()
        if said is None:
            raise Lost
        self.row.abort_requested_at, self.row.abort_requested_by = said

    def hold_during(self, host: Host) -> None:
        """Holds the row for as long as a call to ``host`` may take."""
        self.renew_for(host.endpoint.timeout_seconds)

    def call(self, host: Host, name: str, function: Callable[[Hypervisor], Any]) -> Any:
        """:func:`endpoints.call`, with the row held for as long as it takes."""
        self.hold_during(host)
        with whereabouts.typed():
            return endpoints.call(host.endpoint, name, function)

    def discard(self, host: Host) -> bool:
        """Removes what ``host`` still has of a VM that is elsewhere; whether nothing is left. Behind one endpoint a VM
        is held once, wherever it is, so there is no second one."""
        ref = self.row.vm.ref
        if self.row.source.endpoint_id == self.row.target.endpoint_id:
            return True
        try:
            self.call(host, "discard", lambda hypervisor: hypervisor.discard(ref))
        except VmNotFound:
            return True
        except HypervisorError as error:
            log.warning("leftover_not_removed", host=host.name, vm=ref, code=error.code, detail=error.detail)
            return False
        return True

    def say(self, index: int, status: str, words: str, *, percent: int | None = None) -> None:
        """Notes a step's state for people, when it differs from what was said last."""
        item = self.row.operation.steps[index]
        if (item["status"], item["detail"]) != (status, words):
            operations.step(self.row.operation, index, status, now=self.clock(), detail=words, percent=percent)

    def is_fenced(self, host: Host) -> bool:
        """Whether an administrator declared it dead meanwhile."""
        return is_fenced(host)

    @property
    def live(self) -> bool:
        return self.row.mode == VmMigration.Mode.LIVE

    @property
    def was_paused(self) -> bool:
        return bool(self.row.options.get("power_state") == PowerState.PAUSED)

    @property
    def options(self) -> Options:
        return Options.stored(self.row.options)

    @property
    def label(self) -> str:
        """This attempt's name for the hypervisor: what is remembered of an earlier one is not taken for it."""
        return f"{self.row.pk}/{self.row.progress.get('begun', 0)}"

    @property
    def overdue(self) -> bool:
        since = self.row.copying_since
        return since is not None and self.clock() >= since + timedelta(seconds=self.options.timeout_seconds)


def take(operation: Operation, clock: Callable[[], datetime]) -> Hold:
    """Takes the migration for a new runner. Raises :class:`TransitionConflict` when another has it or it has ended."""
    me = held.take(VmMigration.objects.filter(pk=operation.pk), now=clock())
    return Hold(_load(operation.pk, me), clock)


def _load(pk: UUID, me: str) -> VmMigration:
    rows = VmMigration.objects.select_related("operation", "vm", "maintenance", "source__endpoint", "target__endpoint")
    row = rows.filter(pk=pk, runner=me, ended_at__isnull=True).first()
    if row is None:
        raise Lost
    return row
