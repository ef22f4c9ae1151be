"""libvirt's error codes (virerror.h, ``virErrorNumber``) as the port's typed errors."""

from __future__ import annotations

import libvirt

from cloudops.hypervisors.port import (
    AuthenticationFailed,
    Busy,
    CpuIncompatible,
    HypervisorError,
    InvalidState,
    MigrationAborted,
    MigrationUnsafe,
    NotSupported,
    TimedOut,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)

NO_QEMU_REMEDY = "Install libvirt's QEMU driver on the host (Debian: libvirt-daemon-driver-qemu) and restart libvirtd."
READ_ONLY_REMEDY = "Give this user full access to libvirt on the host (group libvirt, a polkit rule, or its ACL)."

TYPES: dict[int, type[HypervisorError]] = {
    libvirt.VIR_ERR_UNKNOWN_HOST: Unreachable,
    libvirt.VIR_ERR_NO_CONNECT: Unreachable,
    libvirt.VIR_ERR_INVALID_CONN: Unreachable,
    libvirt.VIR_ERR_RPC: Unreachable,
    libvirt.VIR_ERR_GNUTLS_ERROR: Unreachable,
    libvirt.VIR_ERR_AUTH_FAILED: AuthenticationFailed,
    libvirt.VIR_ERR_AUTH_CANCELLED: AuthenticationFailed,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: AuthenticationFailed,
    libvirt.VIR_ERR_ACCESS_DENIED: AuthenticationFailed,
    libvirt.VIR_ERR_OPERATION_DENIED: AuthenticationFailed,
    libvirt.VIR_ERR_NO_DOMAIN: VmNotFound,
    libvirt.VIR_ERR_OPERATION_INVALID: InvalidState,
    libvirt.VIR_ERR_MIGRATE_UNSAFE: MigrationUnsafe,
    libvirt.VIR_ERR_OPERATION_ABORTED: MigrationAborted,
    libvirt.VIR_ERR_BLOCK_COPY_ACTIVE: InvalidState,
    libvirt.VIR_ERR_RESOURCE_BUSY: Busy,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: InvalidState,
    libvirt.VIR_ERR_NO_SUPPORT: NotSupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_CPU_INCOMPATIBLE: CpuIncompatible,
}
"""Codes not named here are plain :class:`HypervisorError` with libvirt's own words."""

REMEDIES = {
    libvirt.VIR_ERR_NO_CONNECT: NO_QEMU_REMEDY,
    libvirt.VIR_ERR_ACCESS_DENIED: READ_ONLY_REMEDY,
    libvirt.VIR_ERR_OPERATION_DENIED: READ_ONLY_REMEDY,
}

# Errors of the line itself: from the RPC layer these otherwise vague codes mean that the connection broke.
_LINE_DOMAINS = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_NET}
_LINE_CODES = {libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_OPERATION_FAILED}


def translate(error: libvirt.libvirtError) -> HypervisorError:
    """The typed error for a libvirt error, with libvirt's message and ``libvirt-<number>`` as ``platform_code``."""
    code = error.get_error_code() or 0
    message = error.get_error_message() or str(error)
    kind = _kind(code, error.get_error_domain(), message)
    return kind(message, platform_code=f"libvirt-{code}", remedy=REMEDIES.get(code, ""))


def _kind(code: int, domain: int | None, message: str) -> type[HypervisorError]:
    if "keepalive timeout" in message:
        return TimedOut
    if domain in _LINE_DOMAINS and code in _LINE_CODES:
        return Unreachable
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        # The VM's job lock is held by a longer operation. Other timeouts are the operation's own failure.
        return Busy if "state change lock" in message else HypervisorError
    if code == libvirt.VIR_ERR_OPERATION_INVALID and "not running" in message:
        return VmNotRunning
    return TYPES.get(code, HypervisorError)
