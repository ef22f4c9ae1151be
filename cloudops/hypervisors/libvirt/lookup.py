"""Finds domains by our references."""

from __future__ import annotations

import uuid
from typing import Any

from cloudops.hypervisors.port import VmNotFound


def find_domain(handle: Any, vm_ref: str) -> Any:
    """The domain of this UUID. Raises VmNotFound for what is none; libvirt's own error for one that is not there."""
    try:
        reference = str(uuid.UUID(vm_ref))
    except ValueError as error:
        raise VmNotFound(f"{vm_ref!r} is not a libvirt UUID.") from error
    return handle.lookupByUUIDString(reference)
