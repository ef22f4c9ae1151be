"""The hosts' own maintenance mode (``EnterMaintenanceMode_Task``)."""

from __future__ import annotations

from cloudops.hypervisors.port import NotSupported
from cloudops.hypervisors.vsphere.session import Session


class Maintenance:
    """Into maintenance mode and out of it, as the port promises."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def enter(self, host_ref: str) -> None:
        raise NotSupported("Maintenance mode cannot be asked for on vSphere yet.")

    def leave(self, host_ref: str) -> None:
        raise NotSupported("Maintenance mode cannot be asked for on vSphere yet.")
