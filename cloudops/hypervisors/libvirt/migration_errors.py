"""What libvirt says when a migration fails, as the port's typed errors.

libvirt gives most of these reasons no code of their own: then its words decide (src/qemu/qemu_migration.c).
"""

from __future__ import annotations

import libvirt

from cloudops.hypervisors.libvirt.errors import translate
from cloudops.hypervisors.port import (
    Busy,
    CpuIncompatible,
    DestinationIncompatible,
    DestinationUnreachable,
    HypervisorError,
    InvalidState,
    MigrationAborted,
    MigrationFailed,
    MigrationInterrupted,
    MigrationUnsafe,
    NameTaken,
    NetworkMissing,
    OutOfSpace,
    SameHost,
    StorageMissing,
    VmNotFound,
    VmNotRunning,
)

_BY_CODE: dict[int, type[HypervisorError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: VmNotFound,
    libvirt.VIR_ERR_OPERATION_ABORTED: MigrationAborted,
    libvirt.VIR_ERR_MIGRATE_UNSAFE: MigrationUnsafe,
    libvirt.VIR_ERR_CPU_INCOMPATIBLE: CpuIncompatible,
    libvirt.VIR_ERR_DOM_EXIST: NameTaken,
    libvirt.VIR_ERR_NO_STORAGE_POOL: StorageMissing,
    libvirt.VIR_ERR_NO_STORAGE_VOL: StorageMissing,
    libvirt.VIR_ERR_NO_NETWORK: NetworkMissing,
    libvirt.VIR_ERR_NO_MEMORY: OutOfSpace,
    libvirt.VIR_ERR_AUTH_FAILED: DestinationUnreachable,
    libvirt.VIR_ERR_AUTH_CANCELLED: DestinationUnreachable,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: DestinationUnreachable,
    libvirt.VIR_ERR_GNUTLS_ERROR: DestinationUnreachable,
    libvirt.VIR_ERR_NO_CONNECT: DestinationUnreachable,
    libvirt.VIR_ERR_UNKNOWN_HOST: DestinationUnreachable,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: DestinationIncompatible,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: DestinationIncompatible,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: DestinationIncompatible,
    libvirt.VIR_ERR_NO_SUPPORT: DestinationIncompatible,
}
_BY_WORDS: tuple[tuple[type[HypervisorError], tuple[str, ...]], ...] = (
    (SameHost, ("to the same host", "same host")),
    (NameTaken, ("already exists with uuid", "already defined", "is already active", "already exists")),
    (Busy, ("another migration job", "state change lock")),
    (VmNotRunning, ("domain is not running",)),
    (OutOfSpace, ("cannot set up guest memory", "Cannot allocate memory", "No space left")),
    (NetworkMissing, ("Cannot get interface MTU", "Unable to add bridge", "Network not found", "to bridge ")),
    (StorageMissing, ("Cannot access storage file", "Could not open '", "Failed to open file", "No such file")),
    (
        DestinationUnreachable,
        (
            "unable to connect to server", "Unable to resolve", "Cannot write data: ", "Connection refused",
            "No route to host", "Name or service not known", "Network is unreachable", "Failed to connect",
        ),
    ),
    (DestinationIncompatible, ("is not supported by emulator", "unsupported machine", "does not support")),
    (
        MigrationInterrupted,
        (
            "client socket is closed", "End of file", "Lost connection to destination", "keepalive timeout",
            "Connection reset", "Broken pipe", "unexpectedly closed the monitor", "connection closed",
            "unexpectedly failed",
        ),
    ),
)  # fmt: skip


def migration_error(error: libvirt.libvirtError) -> HypervisorError:
    """The typed error, with libvirt's message and ``libvirt-<number>`` as ``platform_code``."""
    code, message = error.get_error_code() or 0, error.get_error_message() or str(error)
    kind = _kind(code, message)
    return kind(message, platform_code=f"libvirt-{code}")


def _kind(code: int, message: str) -> type[HypervisorError]:
    # A code that is as vague as "operation failed" is not in the table; one that is there says more than words do.
    if code in _BY_CODE:
        return _BY_CODE[code]
    lower = message.lower()
    for kind, words in _BY_WORDS:
        if any(word.lower() in lower for word in words):
            return kind
    return InvalidState if code == libvirt.VIR_ERR_OPERATION_INVALID else MigrationFailed


def no_job(error: libvirt.libvirtError) -> bool:
    """Whether a domain has no job to ask about here: it is off, it is gone, or it arrives."""
    codes = {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_OPERATION_UNSUPPORTED}
    return bool(error.get_error_code() in codes)


def typed(error: libvirt.libvirtError) -> HypervisorError:
    """For calls about a migration, other than the one that migrates."""
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
        return InvalidState(error.get_error_message() or "", platform_code="libvirt-55")
    return translate(error)
