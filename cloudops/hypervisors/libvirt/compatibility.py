"""Whether a destination would take a domain: asked of both libvirt daemons before anything moves."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import libvirt

from cloudops.hypervisors.libvirt.cpu_control import host_weighs_cpus
from cloudops.hypervisors.libvirt.lookup import find_domain
from cloudops.hypervisors.libvirt.migration import NO_URI_REMEDY
from cloudops.hypervisors.libvirt.migration_errors import migration_error
from cloudops.hypervisors.libvirt.reach import Reach, ReachReader, read_disks, read_networks
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.libvirt.sizes import read_cpu_tuning
from cloudops.hypervisors.libvirt.uri import parse_uri
from cloudops.hypervisors.port import (
    CpuIncompatible,
    DestinationIncompatible,
    DestinationUnreachable,
    DiskKind,
    EndpointSpec,
    HypervisorError,
    Kind,
    MigrationOptions,
    MigrationTarget,
    MigrationUnsafe,
    NameTaken,
    NetworkMissing,
    Objection,
    SameHost,
    StorageMissing,
)

TRY_SECONDS = 2.0
WEIGH_REMEDY = (
    "Give the destination's libvirt the cgroup controller cpu (cgroup_controllers in qemu.conf), choose another host, "
    "or take the CPU speed from the VM's size."
)
EJECT_REMEDY = "Eject the medium, or put it on storage that both hosts reach."
# What of <cpu> is the guest's affair and not the host's.
_NOT_COMPARED = ("numa", "topology", "cache", "maxphysaddr")
_NO_COMPARISON = {
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
}


@dataclass(frozen=True, slots=True)
class _Mover:
    """The domain, as its source defines it."""

    uuid: str
    name: str
    xml: ET.Element
    reach: Reach
    host_uuid: str
    host_cpu: str

    @property
    def machine(self) -> tuple[str, str, str]:
        """Architecture, machine type and virtualisation type."""
        kind = self.xml.find("os/type")
        attributes = {} if kind is None else kind.attrib
        return attributes.get("arch", ""), attributes.get("machine", ""), self.xml.get("type", "")


def check(
    call: Callable[[Callable[[Any], Any]], Any],
    spec: EndpointSpec,
    reaches: ReachReader,
    vm_ref: str,
    target: MigrationTarget,
    options: MigrationOptions,
) -> Sequence[Objection]:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.check_migration`; ``call`` asks the source."""
    deadline = time.monotonic() + spec.timeout_seconds
    mover: _Mover = call(lambda handle: _mover(handle, vm_ref, reaches))
    if target.spec.kind is not Kind.LIBVIRT:
        return [_objection(DestinationIncompatible(f"A libvirt VM cannot move to a host of kind {target.spec.kind}."))]
    if not target.uri:
        words = "The destination has no address where other hosts reach it."
        return [_objection(DestinationUnreachable(words, remedy=NO_URI_REMEDY))]
    try:
        session = Session(target.spec, parse_uri(target.spec.uri))
        try:
            session.open(deadline)
            found = session.call(lambda handle: list(_objections(handle, mover, options)), deadline)
            uuid = session.call(_host_uuid, deadline)
        finally:
            session.close("it was only asked")
    except HypervisorError as error:
        found, uuid = [DestinationUnreachable(f"The destination does not answer: {error}")], ""
    if not found:
        found = _wrong_address(target, uuid, deadline)
    return [_objection(error) for error in found]


def _wrong_address(target: MigrationTarget, host_uuid: str, deadline: float) -> list[HypervisorError]:
    """An address of its own for migrations, tried from here: one that leads to another host would be the wrong one for
    the source, too. What we do not reach says nothing: it may be a network between the hosts only."""
    try:
        uri = parse_uri(target.uri)
    except HypervisorError as error:
        return [DestinationUnreachable(f"The destination's migration URI is not valid: {error}", remedy=NO_URI_REMEDY)]
    if uri.from_elsewhere == parse_uri(target.spec.uri).from_elsewhere:
        return []
    session = Session(target.spec, uri)
    until = min(deadline, time.monotonic() + TRY_SECONDS)
    try:
        session.open(until)
        there = session.call(_host_uuid, until)
    except HypervisorError:
        return []
    finally:
        session.close("it was only tried")
    if there == host_uuid:
        return []
    words = f"The destination's migration URI {target.uri} leads to another host, UUID {there}."
    return [DestinationUnreachable(words, remedy=NO_URI_REMEDY)]


def _host_uuid(handle: Any) -> str:
    return ET.fromstring(handle.getCapabilities()).findtext("host/uuid") or ""  # noqa: S314  (from libvirtd)


def _objection(error: HypervisorError) -> Objection:
    return Objection(error.code, error.detail or error.title, error.remedy)


def _mover(handle: Any, vm_ref: str, reaches: ReachReader) -> _Mover:
    domain = find_domain(handle, vm_ref)
    capabilities = ET.fromstring(handle.getCapabilities())  # noqa: S314  (from libvirtd)
    cpu = capabilities.find("host/cpu")
    return _Mover(
        uuid=domain.UUIDString(),
        name=domain.name(),
        xml=ET.fromstring(domain.XMLDesc(0)),  # noqa: S314
        reach=reaches.read(handle),
        host_uuid=capabilities.findtext("host/uuid") or "",
        host_cpu="" if cpu is None else ET.tostring(cpu, encoding="unicode"),
    )


def _objections(handle: Any, mover: _Mover, options: MigrationOptions) -> Sequence[HypervisorError]:
    capabilities = ET.fromstring(handle.getCapabilities())  # noqa: S314
    if capabilities.findtext("host/uuid") == mover.host_uuid:
        return [SameHost(f"Both are the host with the UUID {mover.host_uuid}.")]
    there = ReachReader().read(handle)
    return [
        *_identity(handle, mover),
        *_machine(handle, mover),
        *_cpu(handle, mover),
        *_cpu_tuning(handle, mover),
        *_storage(handle, mover, there, options),
        *_networks(mover, there),
    ]


def _identity(handle: Any, mover: _Mover) -> Sequence[HypervisorError]:
    """A definition of the very same VM that is off there is replaced; anything else of this name or UUID is in the
    way."""
    twin = _found(lambda: handle.lookupByName(mover.name))
    if twin is not None and twin.UUIDString() != mover.uuid:
        return [NameTaken(f"The destination has another VM {mover.name}, UUID {twin.UUIDString()}.")]
    same = _found(lambda: handle.lookupByUUIDString(mover.uuid))
    if same is not None and same.name() != mover.name:
        return [NameTaken(f"The destination has the UUID {mover.uuid} under the name {same.name()}.")]
    if same is not None and same.isActive():
        return [NameTaken(f"{mover.name} runs at the destination already, or arrives there.")]
    return []


def _found(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _machine(handle: Any, mover: _Mover) -> Sequence[HypervisorError]:
    arch, machine, kind = mover.machine
    try:
        handle.getDomainCapabilities(None, arch or None, machine or None, kind or None, 0)
    except libvirt.libvirtError as error:
        return [DestinationIncompatible(f"{mover.name} needs {arch} {machine} ({kind}): {error.get_error_message()}.")]
    return []


def _cpu(handle: Any, mover: _Mover) -> Sequence[HypervisorError]:
    """Compares what the guest was given with what the destination's *hypervisor* offers it, which under emulation is
    another thing than its hardware (virConnectCompareHypervisorCPU). Where that cannot be told, hardware is compared,
    for guests that run on hardware."""
    cpu = mover.xml.find("cpu")
    arch, machine, kind = mover.machine
    if cpu is None or cpu.get("mode") in ("maximum", "host-model"):  # of a VM that is off: it starts with another
        return []
    for name in _NOT_COMPARED:
        for part in cpu.findall(name):
            cpu.remove(part)
    flags = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
    try:
        if cpu.get("mode") == "host-passthrough":
            handle.compareCPU(mover.host_cpu, flags)
            return []
        text = ET.tostring(cpu, encoding="unicode")
        try:
            handle.compareHypervisorCPU(None, arch or None, machine or None, kind or None, text, flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _NO_COMPARISON:
                raise
            if kind == "kvm":
                handle.compareCPU(text, flags)
    except libvirt.libvirtError as error:
        typed = migration_error(error)
        return [typed] if isinstance(typed, CpuIncompatible) else []
    return []


def _cpu_tuning(handle: Any, mover: _Mover) -> Sequence[HypervisorError]:
    """Shares or a quota that the destination cannot apply: libvirt would refuse the guest there."""
    shares, quota_percent = read_cpu_tuning(mover.xml)
    if not (shares or quota_percent) or host_weighs_cpus(handle):
        return []
    words = f"{mover.name} has a CPU speed by shares or quota, which the destination cannot apply."
    return [DestinationIncompatible(words, remedy=WEIGH_REMEDY)]


def _storage(handle: Any, mover: _Mover, there: Reach, options: MigrationOptions) -> Sequence[HypervisorError]:
    found: list[HypervisorError] = []
    for source in read_disks(mover.xml):
        disk = mover.reach.disk(source)
        words = f"{'Medium' if disk.removable else 'Disk'} {disk.target} of {mover.name} ({disk.source})"
        if disk.kind is DiskKind.SHARED:
            if disk.datastore and disk.datastore not in there.datastores:
                found.append(StorageMissing(f"{words} is on {disk.datastore}, which the destination does not have."))
        elif disk.removable:
            if disk.kind is DiskKind.LOCAL and not source.optional and not _has_volume(handle, disk.source):
                found.append(StorageMissing(f"{words} is not at the destination.", remedy=EJECT_REMEDY))
        elif disk.kind is DiskKind.LOCAL and not options.copy_storage:
            found.append(MigrationUnsafe(f"{words} is on storage of this host alone."))
    return found


def _has_volume(handle: Any, path: str) -> bool:
    try:
        handle.storageVolLookupByPath(path)
    except libvirt.libvirtError:
        return False
    return True


def _networks(mover: _Mover, there: Reach) -> Sequence[HypervisorError]:
    known = {name for name in read_networks(mover.xml) if name in mover.reach.networks}
    missing = sorted(known - set(there.networks))
    return [NetworkMissing(f"{mover.name} uses {name}, which the destination does not have.") for name in missing]
