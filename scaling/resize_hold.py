"""A runner's hold on one resize, and what every step of it needs: the row, the hypervisor, the operation's steps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from cloudops.core import held, operations
from cloudops.core.actors import Actor, system
from cloudops.core.errors import Unavailable
from cloudops.core.held import Held, Lost
from cloudops.core.models import Operation
from cloudops.hypervisors.port import Hypervisor, HypervisorError, PowerState, ScalingState, VmNotFound
from cloudops.inventory import endpoints, sync
from cloudops.inventory.models import Vm
from cloudops.inventory.sync import CredentialUnreadable
from scaling import resize_words
from scaling.models import Resize
from scaling.values import Size

RUNNER: Final[Actor] = system("resize")
LIVE: Final = (Operation.Status.PENDING, Operation.Status.RUNNING)
T = TypeVar("T")


class Silent(Exception):
    """The VM's host does not answer: nothing is known, so nothing is decided."""

    def __init__(self, error: HypervisorError) -> None:
        super().__init__(str(error))
        self.error = error


class Hold(Held[Resize]):
    """``row`` is as of the last :meth:`load`, brought up to date by :meth:`write`."""

    def load(self) -> None:
        """Everything is read again: the VM's host may be another now. Raises ``Lost``."""
        self.row = _load(self.row.pk, self.me)

    def call(self, name: str, function: Callable[[Hypervisor], T]) -> T:
        """``endpoints.call``, with the row held for as long as it takes. Raises ``HypervisorError``."""
        endpoint = self.row.vm.host.endpoint
        self.renew_for(endpoint.timeout_seconds)
        try:
            return endpoints.call(endpoint, name, function)
        except Unavailable as error:
            raise CredentialUnreadable(error.detail) from error

    def truth(self) -> ScalingState:
        """What the VM has this moment. Raises :class:`Silent` and ``VmNotFound``."""
        ref = self.row.vm.ref
        try:
            return self.call("scaling", lambda hypervisor: hypervisor.scaling(ref))
        except VmNotFound:
            raise
        except HypervisorError as error:
            raise Silent(error) from error

    def refresh(self) -> PowerState:
        """Brings the inventory in step with the VM and returns its power state. Raises as :meth:`truth` does."""
        vm = self.row.vm
        self.renew_for(vm.host.endpoint.timeout_seconds)
        try:
            sync.refresh_vm(vm.host.endpoint, vm.ref, now=self.clock())
        except HypervisorError as error:
            raise Silent(error) from error
        except Unavailable as error:
            raise Silent(CredentialUnreadable(error.detail)) from error
        self.row.vm = Vm.objects.select_related("host__endpoint", "size").get(pk=vm.pk)
        if self.row.vm.missing_since is not None:
            raise VmNotFound(f"Its hypervisor does not report {vm.name} any more.")
        return PowerState(self.row.vm.power_state)

    def say(self, key: str, status: str, words: str = "") -> None:
        """Notes a step's state for people, when it differs from what was said last."""
        index = self.index(key)
        item = self.row.operation.steps[index]
        if (item["status"], item["detail"]) != (status, words):
            operations.step(self.row.operation, index, status, now=self.clock(), detail=words)

    def index(self, key: str) -> int:
        """Where this step is among the operation's."""
        return [one for one, _ in resize_words.steps(self.row)].index(key)

    def current_step(self) -> str:
        """The first that is not done."""
        keys = [key for key, _ in resize_words.steps(self.row)]
        undone = (n for n, item in enumerate(self.row.operation.steps) if item["status"] != "done")
        return keys[next(undone, len(keys) - 1)]

    def note(self, now: datetime, **values: Any) -> None:
        """Adds to what the runners remember."""
        self.write(now, progress={**self.row.progress, **values})

    @property
    def was(self) -> Size:
        return Size(**self.row.from_size)

    @property
    def given(self) -> Size:
        return Size(**self.row.given_size)

    @property
    def seconds_in_phase(self) -> float:
        """How long this phase has lasted, over all runners."""
        since = self.row.phase_since
        return (self.clock() - since).total_seconds() if since is not None else 0.0


def take(operation: Operation, clock: Callable[[], datetime]) -> Hold:
    """Takes the resize for a new runner. Raises ``TransitionConflict`` when another has it or it has ended."""
    me = held.take(Resize.objects.filter(pk=operation.pk), now=clock())
    return Hold(_load(operation.pk, me), clock)


def _load(pk: UUID, me: str) -> Resize:
    rows = Resize.objects.select_related("operation__migration", "vm__host__endpoint", "vm__size", "offering")
    row = rows.filter(pk=pk, runner=me, ended_at__isnull=True).first()
    if row is None:
        raise Lost
    return row
