"""Moves VMs between the hosts of one vCenter."""

from __future__ import annotations

from collections.abc import Sequence

from cloudops.hypervisors.port import MigrationOptions, MigrationStatus, MigrationTarget, NotSupported, Objection
from cloudops.hypervisors.vsphere.session import Session


class Migrations:
    """The jobs that move VMs away from this endpoint's hosts, as the port promises them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def check(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        raise NotSupported("VMs cannot be moved on vSphere yet.")

    def begin(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        raise NotSupported("VMs cannot be moved on vSphere yet.")

    def status(self, vm_ref: str) -> MigrationStatus:
        raise NotSupported("VMs cannot be moved on vSphere yet.")

    def abort(self, vm_ref: str) -> None:
        raise NotSupported("VMs cannot be moved on vSphere yet.")
