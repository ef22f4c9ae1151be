"""Whether a host can weigh CPUs: shares and quotas need the cgroup controller ``cpu``, which not every host gives."""

from __future__ import annotations

import contextlib
from typing import Any

import libvirt


def weighs_cpus(domain: Any) -> bool:
    """Whether the running domain has a group of the CPU controller; libvirt does not tell otherwise."""
    try:
        domain.schedulerType()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return False
        raise
    return True


def host_weighs_cpus(handle: Any) -> bool:
    """As any running domain of the host shows; taken for granted while none runs."""
    for domain in handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        with contextlib.suppress(libvirt.libvirtError):  # it went away meanwhile
            return weighs_cpus(domain)
    return True
