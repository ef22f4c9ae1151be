"""vSphere's faults (vim.fault, vmodl.fault) and what goes wrong with the line, as the port's typed errors."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import (
    AuthenticationFailed,
    Busy,
    CeilingExceeded,
    ConsoleLimitReached,
    CpuIncompatible,
    DestinationIncompatible,
    DestinationUnreachable,
    HostNotConnected,
    HypervisorError,
    InvalidState,
    MemoryMisaligned,
    MigrationAborted,
    MigrationFailed,
    NameTaken,
    NetworkMissing,
    NoPermission,
    NotSupported,
    OutOfSpace,
    ResizeFailed,
    StorageMissing,
    TimedOut,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.vsphere.privileges import purpose

_HOT_ADD_REMEDY = "Shut the VM down to change its size, and allow hot-add in its settings while it is off."
_VMOTION_REMEDY = (
    "Give both hosts a VMkernel adapter with vMotion enabled in the same network, and check that they reach each other."
)
_SNAPSHOT_REMEDY = "Consolidate or remove the VM's snapshots, or choose another host."
_DEVICE_REMEDY = "Detach the device (a CD drive, a serial port, a passed-through card) or choose another host."
_LICENSE_REMEDY = "The host's or vCenter's licence does not include this; look at it in the vSphere Client."
_RESOURCES_REMEDY = "Free memory or CPU on the host or in its resource pool, lower reservations, or take another host."

_KINDS: dict[str, tuple[type[HypervisorError], str]] = {
    # access
    "vim.fault.InvalidLogin": (AuthenticationFailed, ""),
    "vim.fault.PasswordExpired": (AuthenticationFailed, "The account's password has expired; give it a new one."),
    "vim.fault.NotAuthenticated": (AuthenticationFailed, "The session was ended; check that the account may log in."),
    "vim.fault.NoPermission": (NoPermission, ""),
    "vim.fault.RestrictedVersion": (NoPermission, _LICENSE_REMEDY),
    "vmodl.fault.SecurityError": (NoPermission, ""),
    "vmodl.fault.NotEnoughLicenses": (NotSupported, _LICENSE_REMEDY),
    # state
    "vim.fault.InvalidState": (InvalidState, ""),
    "vim.fault.InvalidPowerState": (InvalidState, ""),
    "vim.fault.QuestionPending": (InvalidState, "Answer the VM's question in the vSphere Client."),
    "vim.fault.ToolsUnavailable": (InvalidState, "Install VMware Tools in the guest, or stop the VM unasked."),
    "vim.fault.ConcurrentAccess": (Busy, ""),
    "vim.fault.TaskInProgress": (Busy, ""),
    "vim.fault.ResourceInUse": (Busy, ""),
    "vim.fault.MksConnectionLimitReached": (ConsoleLimitReached, ""),
    "vim.fault.Timedout": (TimedOut, ""),
    "vmodl.fault.RequestCanceled": (MigrationAborted, ""),
    # what is not there
    "vmodl.fault.ManagedObjectNotFound": (HypervisorError, "It may have been removed; synchronise."),
    "vmodl.fault.MethodNotFound": (NotSupported, "A later version of vSphere can."),
    "vmodl.fault.NotSupported": (NotSupported, ""),
    "vmodl.fault.NotImplemented": (NotSupported, ""),
    "vmodl.fault.HostCommunication": (HostNotConnected, ""),
    "vim.fault.HostConnectFault": (HostNotConnected, ""),
    "vim.fault.NotSupportedHost": (DestinationIncompatible, ""),
    "vim.fault.InvalidHostState": (InvalidState, "Look at the host's state: it may be disconnected or in maintenance."),
    # moving
    "vim.fault.InsufficientResourcesFault": (OutOfSpace, _RESOURCES_REMEDY),
    "vim.fault.NoDiskSpace": (OutOfSpace, ""),
    "vim.fault.MigrationFault": (MigrationFailed, ""),
    "vim.fault.VMotionInterfaceIssue": (DestinationUnreachable, _VMOTION_REMEDY),
    "vim.fault.VMotionProtocolIncompatible": (DestinationIncompatible, ""),
    "vim.fault.SnapshotCopyNotSupported": (MigrationFailed, _SNAPSHOT_REMEDY),
    "vim.fault.CannotMoveVmWithDeltaDisk": (MigrationFailed, _SNAPSHOT_REMEDY),
    "vim.fault.DisallowedMigrationDeviceAttached": (DestinationIncompatible, _DEVICE_REMEDY),
    "vim.fault.CannotAccessVmDevice": (DestinationIncompatible, _DEVICE_REMEDY),
    "vim.fault.DeviceNotSupported": (DestinationIncompatible, _DEVICE_REMEDY),
    "vim.fault.NoCompatibleHost": (DestinationIncompatible, ""),
    "vim.fault.CpuIncompatible": (CpuIncompatible, ""),
    "vim.fault.FeatureRequirementsNotMet": (CpuIncompatible, ""),
    "vim.fault.EVCConfigFault": (CpuIncompatible, ""),
    "vim.fault.EVCModeIllegalByVendor": (CpuIncompatible, ""),
    "vim.fault.VirtualHardwareCompatibilityIssue": (DestinationIncompatible, ""),
    "vim.fault.FileFault": (StorageMissing, ""),
    "vim.fault.InvalidDatastore": (StorageMissing, ""),
    "vim.fault.CannotAccessVmDisk": (StorageMissing, ""),
    "vim.fault.CannotAccessLocalSource": (StorageMissing, ""),
    "vim.fault.CannotAccessNetwork": (NetworkMissing, ""),
    "vim.fault.NetworkCopyFault": (MigrationFailed, ""),
    "vim.fault.DuplicateName": (NameTaken, ""),
    "vim.fault.AlreadyExists": (NameTaken, ""),
    # sizes
    "vim.fault.MemoryHotPlugNotSupported": (ResizeFailed, _HOT_ADD_REMEDY),
    "vim.fault.CpuHotPlugNotSupported": (ResizeFailed, _HOT_ADD_REMEDY),
    "vim.fault.MemorySizeNotSupported": (CeilingExceeded, ""),
    "vim.fault.MemorySizeNotRecommended": (CeilingExceeded, ""),
    "vim.fault.NotEnoughCpus": (CeilingExceeded, "Choose fewer vCPUs, or a host with more."),
    "vim.fault.NumVirtualCpusNotSupported": (CeilingExceeded, ""),
    "vim.fault.NumVirtualCpusExceedsLimit": (CeilingExceeded, ""),
    "vim.fault.InvalidVmConfig": (ResizeFailed, ""),
    "vim.fault.VmConfigFault": (ResizeFailed, ""),
}
"""By the fault's class or the nearest of its bases; what is not here is a plain HypervisorError."""

_OURS: dict[type[HypervisorError], str] = {
    HypervisorError: "Look at the detail, and at the task or event in the vSphere Client.",
    TimedOut: "Look at the task in the vSphere Client; vCenter or the host may be overloaded.",
    MigrationFailed: "Look at the detail and at the task in the vSphere Client, then try again or choose another host.",
    DestinationIncompatible: "Choose another host; the vSphere Client says more on what this one lacks.",
    CpuIncompatible: "Choose a host with such a CPU, or power-cycle the VM in a cluster with a lower EVC mode.",
    StorageMissing: "Connect the datastore to the host, have the disks moved along, or choose another host.",
    NetworkMissing: "Create the port group of this name on the host, or choose another host.",
    ResizeFailed: "Look at the detail and at the task in the vSphere Client; continue, or go back to the size it had.",
}
"""The way out on vSphere, where the port's own words name another platform's means."""

_NUMBERS = (
    "connectionLimit",
    "unreserved",
    "requested",
    "memorySizeMB",
    "minMemorySizeMB",
    "maxMemorySizeMB",
    "numCpuDest",
    "numCpuVm",
    "numCpu",
    "limit",
)
_OFF = vim.VirtualMachine.PowerState.poweredOff


def typed(error: BaseException, what: str = "vSphere") -> HypervisorError:
    """The port's error for anything that a call to vSphere may raise. ``what`` is named when it did not answer.

    ``platform_code`` is the fault's class (``InvalidPowerState``), the detail holds vSphere's own words.
    """
    if isinstance(error, HypervisorError):
        return error
    if isinstance(error, vmodl.MethodFault):
        return _of_fault(error)
    if isinstance(error, TimeoutError):
        return TimedOut(
            f"{what} did not answer in time.",
            remedy="Check that vCenter or the ESXi host is up and not overloaded, and that no firewall is between.",
        )
    if isinstance(error, (OSError, HTTPException)):
        words = str(getattr(error, "strerror", None) or error or type(error).__name__)
        return Unreachable(f"The line to {what} broke: {words}.")
    if isinstance(error, ExpatError):
        return Unreachable(
            f"{what} answered with something that is not SOAP: {error}.",
            remedy="Check that the address is that of vCenter or ESXi, and that no proxy is between.",
        )
    raise error  # a defect of ours


def words(fault: Any) -> str:
    """What vSphere says of a fault: its message, and the messages below it."""
    said = [getattr(fault, "msg", None) or ""]
    said += [one.message or "" for one in getattr(fault, "faultMessage", None) or ()]
    cause = getattr(fault, "faultCause", None)
    if cause is not None:
        said.append(getattr(cause, "msg", None) or "")
    unique = [text.strip() for text in dict.fromkeys(said) if text and text.strip()]
    return " ".join(unique) or _class_name(fault)


def _of_fault(fault: Any) -> HypervisorError:
    if isinstance(fault, vim.fault.NoCompatibleHost):
        return _of_hosts(fault)
    kind, remedy = _kind(fault)
    detail = words(fault)
    numbers: dict[str, object] = {name: getattr(fault, name) for name in _NUMBERS if _is_number(fault, name)}
    if isinstance(fault, vim.fault.NotAuthenticated):
        detail = "vSphere says that nobody is logged in on this session."
    elif isinstance(fault, vim.fault.NoPermission):
        detail, numbers = _missing(fault)
    elif isinstance(fault, vim.fault.MksConnectionLimitReached):
        numbers["limit"] = fault.connectionLimit
    elif isinstance(fault, vim.fault.InvalidPowerState) and fault.existingState == _OFF:
        kind = VmNotRunning
    elif isinstance(fault, vmodl.fault.ManagedObjectNotFound) and isinstance(fault.obj, vim.VirtualMachine):
        kind, remedy = VmNotFound, ""
    elif _is_memory_step(fault):
        kind = MemoryMisaligned
    return kind(detail, platform_code=_class_name(fault), numbers=numbers, remedy=remedy or _OURS.get(kind, ""))


def _kind(fault: Any) -> tuple[type[HypervisorError], str]:
    for base in type(fault).__mro__:
        if base.__name__ in _KINDS:
            return _KINDS[base.__name__]
    return HypervisorError, ""


def _of_hosts(fault: vim.fault.NoCompatibleHost) -> HypervisorError:
    """Why no host will do: the one reason, where all hosts have the same."""
    reasons: Sequence[Any] = fault.error or ()
    kinds = {_kind(reason) for reason in reasons}
    kind, remedy = kinds.pop() if len(kinds) == 1 else (DestinationIncompatible, "")
    remedy = remedy or _OURS.get(kind, "")
    detail = " ".join(dict.fromkeys([words(fault), *(words(reason) for reason in reasons)]))
    return kind(detail, platform_code=_class_name(fault), remedy=remedy)


def _missing(fault: vim.fault.NoPermission) -> tuple[str, dict[str, object]]:
    """Which privilege lacks on which object. ``missingPrivileges`` is there from vSphere 7.0.3.2 on."""
    told = [
        (privilege, entry.entity)
        for entry in getattr(fault, "missingPrivileges", None) or ()
        for privilege in entry.privilegeIds or ()
    ]
    if not told and fault.privilegeId:
        told = [(fault.privilegeId, fault.object)]
    if not told:
        return words(fault), {}
    sentences = [f"{privilege} is missing on {_object(entity)}{_purpose(privilege)}." for privilege, entity in told]
    return " ".join(sentences), {"privileges": sorted({privilege for privilege, _ in told})}


def _purpose(privilege: str) -> str:
    known = purpose(privilege)
    return f" (needed {known})" if known else ""


def _object(entity: Any) -> str:
    if entity is None:
        return "an object that vSphere does not name"
    return f"{type(entity).__name__.rpartition('.')[2]} {entity._moId}"


def _class_name(fault: Any) -> str:
    return type(fault).__name__.rpartition(".")[2]


def _is_number(fault: Any, name: str) -> bool:
    return isinstance(getattr(fault, name, None), int)


def _is_memory_step(fault: Any) -> bool:
    """ESXi's refusal of a size that is no multiple of 4 MiB or of the hot-plug increment."""
    invalid = isinstance(fault, (vmodl.fault.InvalidArgument, vim.fault.InvalidVmConfig))
    named = getattr(fault, "invalidProperty", None) or getattr(fault, "property", None) or ""
    return invalid and "memoryMB" in str(named)
