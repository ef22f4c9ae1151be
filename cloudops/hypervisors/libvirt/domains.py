"""Reads what CloudOps needs from a domain's XML (libvirt.org/formatdomain.html) and state."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field

import libvirt

from cloudops.hypervisors.libvirt.reach import DiskSource, Reach, read_disks, read_networks
from cloudops.hypervisors.libvirt.sizes import read_sizes, text
from cloudops.hypervisors.port import PowerState, ScalingFacts, VmFacts

_LIBOSINFO = "{http://libosinfo.org/xmlns/libvirt/domain/1.0}"

_POWER_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,  # being shut down: it still runs
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.OFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
}
_CRASHED_REASONS = {libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_FAILED}


@dataclass(frozen=True, slots=True)
class VncDisplay:
    """A VNC display. ``index`` is its place among all graphics devices (virDomainOpenGraphicsFD counts so); ``port`` is
    0 when it listens on no TCP port; ``password`` is there only in XML read with VIR_DOMAIN_XML_SECURE."""

    index: int
    address: str
    port: int
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DomainDefinition:
    """A domain's XML, read."""

    vcpus: int
    memory_mib: int
    scaling: ScalingFacts
    guest_os: str
    vnc: VncDisplay | None
    disks: Sequence[DiskSource] = ()
    networks: tuple[str, ...] = ()
    cpu_model: str = ""


def read_domain(xml: str) -> DomainDefinition:
    """Reads the XML of a running or a stopped domain. Raises ValueError or ET.ParseError when it is not one."""
    domain = ET.fromstring(xml)  # noqa: S314  (from libvirtd, which we trust with far more)
    sizes = read_sizes(domain)
    return DomainDefinition(
        vcpus=sizes.vcpus,
        memory_mib=sizes.memory_mib,
        scaling=sizes.scaling,
        guest_os=_guest_os(domain),
        vnc=_vnc(domain),
        disks=read_disks(domain),
        networks=read_networks(domain),
        cpu_model=_cpu_model(domain),
    )


def power_state(state: int, reason: int) -> PowerState:
    """What ``virDomainGetState`` says. A domain that libvirt found dead, rather than stopped, counts as crashed; one
    that is off because it has moved away is unknown here, not stopped."""
    if state == libvirt.VIR_DOMAIN_SHUTOFF and reason in _CRASHED_REASONS:
        return PowerState.CRASHED
    if state == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED:
        return PowerState.UNKNOWN
    return _POWER_STATES.get(state, PowerState.UNKNOWN)


def vm_facts(domain: libvirt.virDomain, host_ref: str, reach: Reach, state: int, reason: int) -> VmFacts:
    """One VM's facts; asks libvirt for its XML."""
    definition = read_domain(domain.XMLDesc(0))
    return VmFacts(
        ref=domain.UUIDString(),
        name=domain.name(),
        host_ref=host_ref,
        power_state=power_state(state, reason),
        vcpus=definition.vcpus,
        memory_mib=definition.memory_mib,
        scaling=definition.scaling,
        guest_os=definition.guest_os,
        has_console=definition.vnc is not None,
        disks=tuple(reach.disk(source) for source in definition.disks),
        # A bridge that not even its own host tells of (libvirt may lack the driver for it) says nothing of others.
        networks=tuple(name for name in definition.networks if name in reach.networks),
        cpu_model=definition.cpu_model,
    )


def _vnc(domain: ET.Element) -> VncDisplay | None:
    for index, graphics in enumerate(domain.findall("devices/graphics")):
        if graphics.get("type") != "vnc":
            continue
        listen = graphics.find("listen")
        address = graphics.get("listen", "")
        if listen is not None and listen.get("type") in ("address", "network"):
            address = listen.get("address", address)
        port = int(graphics.get("port", "-1"))
        return VncDisplay(index, address, max(port, 0), graphics.get("passwd", ""))
    return None


def _cpu_model(domain: ET.Element) -> str:
    """The model that the guest sees; ``host-passthrough`` when that is the very CPU of its host. Empty: whatever the
    hypervisor gives, also for ``host-model`` of a VM that is off (while it runs, libvirt names what that came to)."""
    cpu = domain.find("cpu")
    if cpu is None:
        return ""
    if cpu.get("mode") in ("host-passthrough", "maximum"):
        return cpu.get("mode", "")
    return text(cpu.find("model"))


def _guest_os(domain: ET.Element) -> str:
    """The short name of the operating system that virt-manager and others note down: ``debian/12``."""
    system = domain.find(f"metadata/{_LIBOSINFO}libosinfo/{_LIBOSINFO}os")
    return "" if system is None else "/".join(system.get("id", "").rstrip("/").split("/")[-2:])
