"""The port's typed errors: what a hypervisor refuses or fails at, with a stable code and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class HypervisorError(Exception):
    """A hypervisor refused or failed. ``code`` is stable; ``detail`` holds the platform's own words and numbers."""

    code: ClassVar[str] = "hypervisor-error"
    title: ClassVar[str] = "The hypervisor reported an error."
    remedy: str = "Look at the detail; if it says nothing, look at the hypervisor's own log."
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str = "",
        *,
        platform_code: str = "",
        numbers: Mapping[str, object] | None = None,
        remedy: str = "",
    ):
        """``remedy`` replaces the class's where the case is known better."""
        super().__init__(detail or self.title)
        self.detail = detail
        if remedy:
            self.remedy = remedy
        self.platform_code = platform_code
        self.numbers = dict(numbers or {})


class Unreachable(HypervisorError):
    code = "hypervisor-unreachable"
    title = "The host's management service cannot be reached."
    remedy = "Check that the host is up, that the address and port are right, and that no firewall is between."
    retryable = True


class TimedOut(Unreachable):
    code = "hypervisor-timeout"
    title = "The host's management service did not answer in time."
    remedy = "The host may be frozen or overloaded. Look at its load and at its libvirtd or hostd log."


class Overloaded(Unreachable):
    code = "hypervisor-overloaded"
    title = "Too many requests wait for this host already."
    remedy = "The host answers slowly. Try again in a few seconds; look at its load if this stays."


class AuthenticationFailed(HypervisorError):
    code = "hypervisor-authentication"
    title = "The host's management service refused the credentials."
    remedy = "Correct the user name, the password or the client certificate of this host."


class CertificateMismatch(HypervisorError):
    code = "hypervisor-certificate"
    title = "The certificate of the management service is not the expected one."
    remedy = "Compare the fingerprint with the host's own; accept the new one only if it was changed on purpose."


class NoPermission(HypervisorError):
    code = "hypervisor-permission"
    title = "The account that CloudOps uses there may not do this."
    remedy = "Give its role the privilege that the detail names; the documentation lists all that are needed."


class HostNotConnected(Unreachable):
    code = "host-not-connected"
    title = "The management service does not reach the VM's host."
    remedy = "Check that the host is up and reconnect it in its management service."


class VmNotFound(HypervisorError):
    code = "vm-not-found"
    title = "The hypervisor does not know this VM."
    remedy = "It may have been moved or removed; synchronise the host."


class VmNotRunning(HypervisorError):
    code = "vm-not-running"
    title = "The VM is not running."
    remedy = "Start the VM first."


class NoConsole(HypervisorError):
    code = "vm-without-console"
    title = "The VM has no VNC display."
    remedy = "Add a VNC graphics device to the VM's definition and restart the VM."


class ConsoleLimitReached(HypervisorError):
    """``numbers["limit"]``: how many display connections the platform lets the VM have."""

    code = "vm-console-limit"
    title = "The platform lets no more consoles be open on this VM."
    remedy = "Close a console of this VM, or drop a connection that nobody needs; its slot is free at once."
    retryable = True


class InvalidState(HypervisorError):
    code = "vm-invalid-state"
    title = "The VM's state does not allow this."
    remedy = "Wait until the running operation ends, look at the VM's state and try again."


class Busy(HypervisorError):
    code = "vm-busy"
    title = "Another operation holds the VM."
    remedy = "Wait until it ends and try again."
    retryable = True


class NotSupported(HypervisorError):
    code = "not-supported"
    title = "This platform cannot do that."
    remedy = "Use another way; the detail says which."


class MigrationFailed(HypervisorError):
    """Base of what only a migration fails with. Unless said otherwise the VM goes on at its source."""

    code = "migration-failed"
    title = "The VM could not be moved; it stays where it was."
    remedy = "Look at the detail and at both hosts' libvirt logs, then try again or choose another host."


class MigrationAborted(MigrationFailed):
    code = "migration-aborted"
    title = "The migration was aborted; the VM stays where it was."
    remedy = "Start it again when it suits."


class MigrationInterrupted(MigrationFailed):
    code = "migration-interrupted"
    title = "The line between the two hosts broke during the migration."
    remedy = "Check that both hosts are up and can reach each other, then try again or choose another host."
    retryable = True


class DestinationUnreachable(MigrationFailed):
    code = "destination-unreachable"
    title = "The VM's present host cannot reach the destination."
    remedy = (
        "Check the destination's migration URI, its name in DNS as the source host sees it, that its libvirt listens, "
        "and that ports 16509 or 16514 and 49152 to 49215 are open between the hosts."
    )
    retryable = True


class SameHost(MigrationFailed):
    code = "same-host"
    title = "Source and destination are the same host."
    remedy = "Choose another host; if they are different machines, give each its own host_uuid in libvirtd.conf."


class NameTaken(MigrationFailed):
    code = "vm-name-taken"
    title = "The destination has a VM of this name or UUID already."
    remedy = "Rename or remove the leftover definition on the destination, or choose another host."


class MigrationUnsafe(MigrationFailed):
    code = "migration-unsafe"
    title = "The VM's disks or their cache mode do not allow a safe migration."
    remedy = "Put the disks on storage that both hosts share, use cache=none, or have the disks copied along."


class CpuIncompatible(MigrationFailed):
    code = "cpu-incompatible"
    title = "The destination's CPU lacks what the guest was given."
    remedy = "Choose a host with a CPU that has these features, or restart the VM with a CPU model that all hosts have."


class DestinationIncompatible(MigrationFailed):
    code = "destination-incompatible"
    title = "The destination's hypervisor cannot run this VM as it is defined."
    remedy = "Bring the destination's QEMU and libvirt to the source's version or newer, or choose another host."


class StorageMissing(MigrationFailed):
    code = "destination-storage-missing"
    title = "The destination does not reach the VM's disks."
    remedy = (
        "Make the storage available there under the same path or pool, have the disks copied, or choose another host."
    )


class NetworkMissing(MigrationFailed):
    code = "destination-network-missing"
    title = "The destination lacks a network or bridge that the VM uses."
    remedy = "Create the network there under the same name, or choose another host."


class OutOfSpace(MigrationFailed):
    code = "destination-out-of-space"
    title = "The destination has not enough memory or disk space for the VM."
    remedy = "Free some there, or choose another host."


class ResizeFailed(HypervisorError):
    """Base of what only a change of a VM's size fails with. The VM goes on; what was changed before stays changed."""

    code = "resize-failed"
    title = "The VM's size could not be changed."
    remedy = "Look at the detail and at the host's libvirt log; continue, or go back to the size it had."


class CeilingExceeded(ResizeFailed):
    code = "vm-ceiling-exceeded"
    title = "The VM was not started with enough room to grow that far."
    remedy = "Choose a smaller size, restart it with the new size, or prepare it for live scaling at its next start."


class SlotsExhausted(ResizeFailed):
    code = "memory-slots-exhausted"
    title = "The VM has no free memory slot."
    remedy = "Restart the VM: its memory then counts as boot memory, and all slots are free again."


class MemoryMisaligned(ResizeFailed):
    code = "memory-misaligned"
    title = "The VM's memory cannot be changed by that amount."
    remedy = "Choose a size that is a whole number of the VM's memory steps."


class MemoryInUse(ResizeFailed):
    code = "memory-in-use"
    title = "The guest still uses the memory that is to be taken from it."
    remedy = "Free memory inside the guest, or choose a larger size."


class VcpusNotRemovable(ResizeFailed):
    code = "vcpus-not-removable"
    title = "The guest did not give back its vCPUs."
    remedy = "Restart the VM with fewer vCPUs."


class GuestDidNotFollow(ResizeFailed):
    code = "guest-did-not-follow"
    title = "The guest has not taken what it was given."
    remedy = "Check that the guest has the virtio-mem driver and puts new memory and CPUs on line; then continue."
    retryable = True
