"""What an administrator asks of a maintenance job, and what he chose for single VMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from placement.maintenance.errors import HostNeeded
from placement.models import Maintenance, MaintenanceMove

Choice = MaintenanceMove.Choice
Mode = Maintenance.Mode

RELAXATIONS: Final = (Choice.ACROSS, Choice.DROP_SOFT_TAGS, Choice.COPY_STORAGE, Choice.MOVE_PINNED)
"""Choices that are combined with each other; host, skip and stop take each other's place."""


@dataclass(frozen=True, slots=True)
class VmChoice:
    """What was chosen for one VM. ``main`` is none, host, skip or stop; ``relaxed`` are what may be given up, too."""

    main: str = Choice.NONE
    host_id: UUID | None = None
    relaxed: frozenset[str] = frozenset()

    def plus(self, choice: str, host_id: UUID | None = None) -> VmChoice:
        """With one more choice: relaxations add up, ``host``, ``skip`` and ``stop`` replace each other, none clears.

        Raises :class:`HostNeeded` for ``host`` without a host."""
        if choice == Choice.NONE:
            return VmChoice()
        if choice in RELAXATIONS:
            return VmChoice(self.main, self.host_id, self.relaxed | {choice})
        if choice == Choice.HOST and host_id is None:
            raise HostNeeded
        return VmChoice(Choice(choice), host_id if choice == Choice.HOST else None, self.relaxed)


AS_PLANNED: Final = VmChoice()


@dataclass(frozen=True, slots=True)
class Options:
    """How hosts are emptied. ``across_clusters`` None: as the installation's settings say.

    ``hosts_at_once``: of several hosts, at most so many are out of use at a time; 0 means all of them.
    ``host_parallel`` None: the installation's limit of migrations per host. ``choices``: by VM id.
    """

    mode: str = Mode.MAINTENANCE
    across_clusters: bool | None = None
    move_powered_off: bool = False
    hosts_at_once: int = 0
    host_parallel: int | None = None
    choices: Mapping[UUID, VmChoice] = field(default_factory=dict)

    def choice(self, vm_id: UUID) -> VmChoice:
        return self.choices.get(vm_id, AS_PLANNED)
