"""Reads and changes the size of a domain. Every function takes libvirt's connection object and keeps to short calls.

libvirt does not always take a change of the running domain and of its definition in one call, so they are two (tried
on 9.0: virtio-mem in one call fails with "memory not found", CPU shares with "mutually exclusive"). What a guest takes
of virtio-mem is exactly what its MemTotal grows by, together with vCPUs too; a live migration keeps both, and a domain
may be started with memory requested.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import libvirt
import libvirt_qemu

from cloudops.hypervisors.libvirt import shapes
from cloudops.hypervisors.libvirt.cpu_control import host_weighs_cpus, weighs_cpus
from cloudops.hypervisors.libvirt.domains import power_state
from cloudops.hypervisors.libvirt.lookup import find_domain
from cloudops.hypervisors.libvirt.migration import demand_idle
from cloudops.hypervisors.libvirt.scaling_errors import typed
from cloudops.hypervisors.libvirt.sizes import (
    DIMM_MIB,
    GLOBAL_PERIOD_US,
    mib,
    read_memory_devices,
    read_shape,
    read_sizes,
)
from cloudops.hypervisors.port import (
    CeilingExceeded,
    GuestView,
    InvalidState,
    MemoryMisaligned,
    MemoryModel,
    NotSupported,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    ScalingState,
    Shape,
    VcpusNotRemovable,
    VmNotRunning,
)

LIVE: int = libvirt.VIR_DOMAIN_AFFECT_LIVE
CONFIG: int = libvirt.VIR_DOMAIN_AFFECT_CONFIG
DEFINITION: int = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
AGENT = "org.qemu.guest_agent.0"
AGENT_SECONDS = 2
HALF_DONE = "The running VM has it, but its definition could not be changed: it would be started without."
HALF_REMEDY = "Make the change again, or define the VM's size for its next start."
# How libvirt refuses to start a domain with shares or quotas where it has no CPU controller, of 9.0 and before.
UNTUNABLE = ("cgroup cpu is required for scheduler tuning", "CPU tuning is not available")
# The kernel's weight of a group of which nothing is said: cgroup v1 cpu.shares, v2 cpu.weight.
DEFAULT_SHARES_V1, DEFAULT_SHARES_V2, MOST_SHARES_V2 = 1024, 100, 10_000


def read(handle: Any, vm_ref: str) -> ScalingState:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.scaling`."""
    domain = find_domain(handle, vm_ref)
    state = power_state(*domain.state())
    xml = _parsed(domain.XMLDesc(0))
    runs = xml.get("id") is not None
    stats = _memory_stats(domain) if runs else {}
    sizes = read_sizes(xml, balloon_kib=stats.get("actual"))
    next_start = read_shape(_parsed(domain.XMLDesc(DEFINITION))) if domain.isPersistent() else read_shape(xml)
    facts = sizes.scaling
    if not next_start.cpu_shares and facts.cpu_shares in (DEFAULT_SHARES_V1, DEFAULT_SHARES_V2):
        facts = replace(facts, cpu_shares=0)  # see _reset_shares
    return ScalingState(
        vcpus=sizes.vcpus,
        memory_mib=sizes.memory_mib,
        power_state=state,
        facts=facts,
        guest=_guest_view(domain, xml, stats) if state is PowerState.RUNNING else GuestView(),
        next_start=next_start,
        cpu_control=weighs_cpus(domain) if runs else host_weighs_cpus(handle),
    )


def resize(handle: Any, vm_ref: str, step: ResizeStep) -> None:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.resize`."""
    domain = find_domain(handle, vm_ref)
    state = power_state(*domain.state())
    demand_idle(domain)
    if state is PowerState.PAUSED:
        raise InvalidState(f"VM {domain.name()} is paused; its guest could not follow.")
    if state is not PowerState.RUNNING:
        raise VmNotRunning(f"VM {domain.name()} is {state}.")
    change = _CHANGES.get(step.kind)
    if change is None:
        raise NotSupported(f"libvirt has no change of kind {step.kind}: memory comes by virtio-mem, DIMM or balloon.")
    change(handle, domain, step)


def define(handle: Any, vm_ref: str, shape: Shape) -> None:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.define`."""
    domain = find_domain(handle, vm_ref)
    demand_idle(domain)
    _demand_definition(domain)
    if domain.isActive() and not weighs_cpus(domain):  # it would not start
        shape = replace(shape, cpu_shares=0, cpu_quota_percent=0)
    xml = shapes.reshape(domain.XMLDesc(DEFINITION), shape)
    with typed():
        handle.defineXML(xml)


def untuned(handle: Any, domain: Any, error: libvirt.libvirtError) -> bool:
    """Whether a domain could not start because its host cannot weigh CPUs; its definition then asks for it no more."""
    if not any(words in (error.get_error_message() or "") for words in UNTUNABLE):
        return False
    handle.defineXML(shapes.tune_cpu(domain.XMLDesc(DEFINITION), 0, 0))
    return True


def _vcpus(_handle: Any, domain: Any, step: ResizeStep) -> None:
    """vCPUs that cannot leave are not asked to. QEMU's own emulation takes a vCPU from its guest, fails all the same
    (libvirt's code 68), and may crash when a DIMM is attached later, or never end a migration."""
    removable = read_sizes(_parsed(domain.XMLDesc(0))).scaling.removable_vcpus
    with typed():
        now = domain.vcpusFlags(LIVE)
        if now - step.value > removable:
            raise VcpusNotRemovable(
                f"Of the {now} vCPUs of {domain.name()} {removable} can leave while it runs.",
                numbers={"current": now, "wanted": step.value, "removable": removable},
            )
        if now != step.value:
            domain.setVcpusFlags(step.value, LIVE)

    def keep() -> None:
        if domain.vcpusFlags(CONFIG) != step.value:
            domain.setVcpusFlags(step.value, CONFIG)

    _in_definition(domain, keep)


def _virtio_mem(_handle: Any, domain: Any, step: ResizeStep) -> None:
    xml = _parsed(domain.XMLDesc(0))
    names = [one.alias for one in read_memory_devices(xml) if one.model is MemoryModel.VIRTIO_MEM]
    if step.alias not in names:
        raise ResizeFailed(
            f"VM {domain.name()} has no virtio-mem device {step.alias!r}.",
            remedy="Look at the VM anew; prepare it for live scaling at its next start.",
        )
    number = names.index(step.alias)
    with typed():
        _request(domain, _virtio_devices(xml)[number], step.value, LIVE)

    def keep() -> None:
        defined = _virtio_devices(_parsed(domain.XMLDesc(DEFINITION)))
        if number >= len(defined):
            raise ResizeFailed(f"{HALF_DONE} It defines no such virtio-mem device.", remedy=HALF_REMEDY)
        _request(domain, defined[number], step.value, CONFIG)

    _in_definition(domain, keep)


def _request(domain: Any, device: ET.Element, value_mib: int, affect: int) -> None:
    requested = device.find("target/requested")
    if requested is None or mib(requested) == value_mib:
        return
    requested.set("unit", "KiB")
    requested.text = str(value_mib * 1024)
    domain.updateDeviceFlags(ET.tostring(device, encoding="unicode"), affect)


def _dimm(_handle: Any, domain: Any, step: ResizeStep) -> None:
    """A DIMM whose size Linux cannot take is refused here: libvirt would attach it, and the guest could take neither it
    nor any later one."""
    if step.value <= 0 or step.value % DIMM_MIB:
        raise MemoryMisaligned(
            f"A DIMM of {step.value} MiB is not a whole number of blocks of {DIMM_MIB} MiB.",
            numbers={"wanted": step.value, "step": DIMM_MIB},
        )
    if not step.alias.startswith("ua-"):
        raise ResizeFailed(f"libvirt forgets a device's name that does not begin with ua-: {step.alias!r}.")
    with typed():
        _attach(domain, _parsed(domain.XMLDesc(0)), step, LIVE)
    _in_definition(domain, lambda: _attach(domain, _parsed(domain.XMLDesc(DEFINITION)), step, CONFIG))


def _attach(domain: Any, xml: ET.Element, step: ResizeStep, affect: int) -> None:
    for one in read_memory_devices(xml):
        if one.alias == step.alias:
            if one.size_mib == step.value:
                return
            raise ResizeFailed(f"VM {domain.name()} has another device {step.alias} already, of {one.size_mib} MiB.")
    device = ET.Element("memory", model="dimm")
    target = ET.SubElement(device, "target")
    ET.SubElement(target, "size", unit="MiB").text = str(step.value)
    cell = xml.find("cpu/numa/cell")
    if cell is not None:
        ET.SubElement(target, "node").text = cell.get("id", "0")
    ET.SubElement(device, "alias", name=step.alias)
    domain.attachDeviceFlags(ET.tostring(device, encoding="unicode"), affect)


def _balloon(_handle: Any, domain: Any, step: ResizeStep) -> None:
    """libvirt's virDomainSetMemory counts boot memory and DIMMs, and leaves virtio-mem out on both sides."""
    sizes = read_sizes(_parsed(domain.XMLDesc(0)), balloon_kib=_memory_stats(domain).get("actual"))
    facts = sizes.scaling
    if not facts.has_balloon:
        raise NotSupported(f"VM {domain.name()} has no memory balloon.")
    if any(one.requested_mib or one.current_mib for one in facts.memory_devices if one.model != MemoryModel.DIMM):
        raise ResizeFailed(
            f"The balloon of {domain.name()} cannot be moved while memory of virtio-mem is plugged.",
            remedy="Take back all of virtio-mem first, or choose a larger size.",
        )
    if step.value > facts.boot_memory_mib:
        raise CeilingExceeded(
            f"VM {domain.name()} was started with {facts.boot_memory_mib} MiB; its balloon cannot leave it "
            f"{step.value}.",
            numbers={"ceiling": facts.boot_memory_mib, "wanted": step.value},
        )
    if step.value < 1:
        raise ResizeFailed("A VM needs memory.")
    beside = sizes.dimms_mib + sizes.other_mib
    with typed():
        if facts.balloon_mib != step.value:
            domain.setMemoryFlags((step.value + beside) * 1024, LIVE)
    _in_definition(domain, lambda: domain.setMemoryFlags((step.value + beside) * 1024, CONFIG))


def _cpu(handle: Any, domain: Any, step: ResizeStep) -> None:
    """Where the host cannot weigh CPUs nothing is done, to the definition neither: such a domain would not start."""
    if not weighs_cpus(domain):
        return
    quota = step.quota_percent * GLOBAL_PERIOD_US // 100 if step.quota_percent > 0 else -1
    with typed():
        limit = {"global_period": GLOBAL_PERIOD_US, "global_quota": quota} if quota > 0 else {"global_quota": quota}
        domain.setSchedulerParametersFlags(limit, LIVE)
        if step.value:
            domain.setSchedulerParametersFlags({"cpu_shares": step.value}, LIVE)
        else:
            _reset_shares(domain)
    _in_definition(
        domain,
        lambda: handle.defineXML(shapes.tune_cpu(domain.XMLDesc(DEFINITION), step.value, step.quota_percent)),
    )


def _reset_shares(domain: Any) -> None:
    """libvirt takes no "default" for a running domain. Which one is right only its refusal of 0 tells."""
    try:
        domain.setSchedulerParametersFlags({"cpu_shares": 0}, LIVE)
    except libvirt.libvirtError as error:
        found = re.search(r"in range \[\d+, (\d+)\]", error.get_error_message() or "")
        if found is None:
            raise
        is_v2 = int(found[1]) == MOST_SHARES_V2
        default = DEFAULT_SHARES_V2 if is_v2 else DEFAULT_SHARES_V1
        domain.setSchedulerParametersFlags({"cpu_shares": default}, LIVE)


_CHANGES: dict[ResizeKind, Callable[[Any, Any, ResizeStep], None]] = {
    ResizeKind.VCPUS: _vcpus,
    ResizeKind.VIRTIO_MEM: _virtio_mem,
    ResizeKind.DIMM: _dimm,
    ResizeKind.BALLOON: _balloon,
    ResizeKind.CPU: _cpu,
}


def _in_definition(domain: Any, change: Callable[[], object]) -> None:
    """The same change of what the domain is started as. A transient one has no definition."""
    if domain.isPersistent():
        with typed(before=HALF_DONE):
            change()


def _demand_definition(domain: Any) -> None:
    if not domain.isPersistent():
        raise ResizeFailed(
            f"libvirt keeps no definition of {domain.name()}: it is gone when it ends.",
            remedy="Define the VM on its host (virsh define), then try again.",
        )
    if domain.hasManagedSaveImage(0):
        raise ResizeFailed(
            f"The memory of {domain.name()} is saved on disk; it goes on from there, with the size it had.",
            remedy="Start the VM and shut it down, or drop what was saved (virsh managedsave-remove).",
        )


def _memory_stats(domain: Any) -> dict[str, int]:
    """What QEMU and the balloon's driver in the guest say, KiB; nothing for a domain that has just ended."""
    try:
        return dict(domain.memoryStats())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return {}
        raise


def _guest_view(domain: Any, xml: ET.Element, stats: Mapping[str, int]) -> GuestView:
    """What the balloon's driver reports every ``<stats period>``, and a guest agent where one is connected."""
    available, usable = stats.get("available"), stats.get("usable", stats.get("unused"))
    used = None if available is None or usable is None else -(-(available - usable) // 1024)
    return GuestView(
        memory_mib=None if available is None else available // 1024,
        memory_used_mib=used,
        vcpus=_agent_vcpus(domain, xml),
    )


def _agent_vcpus(domain: Any, xml: ET.Element) -> int | None:
    """vCPUs on line as the guest agent counts them (guest-get-vcpus); None without an agent that answers quickly."""
    channels = xml.findall("devices/channel/target")
    if not any(one.get("name") == AGENT and one.get("state") == "connected" for one in channels):
        return None
    try:
        answer = libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-get-vcpus"}', AGENT_SECONDS, 0)
        return sum(bool(one["online"]) for one in json.loads(answer)["return"])
    except (libvirt.libvirtError, ValueError, LookupError, TypeError):
        return None


def _virtio_devices(xml: ET.Element) -> list[ET.Element]:
    return [one for one in xml.findall("devices/memory") if one.get("model") == MemoryModel.VIRTIO_MEM]


def _parsed(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314  (from libvirtd, which we trust with far more)
