"""The definition of a lab guest as libvirt reads it (libvirt.org/formatdomain.html)."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from cloudops.lab.guest import GuestImage

FIRMWARE_MEMORY_MIB = 32
DIMM_SLOTS = 8
KERNEL_ARGUMENTS = "console=ttyS0 console=tty1 quiet consoleblank=0 mitigations=off"
QUICKER = "cryptomgr.notests no_timer_check initcall_blacklist=init_kprobe_trace,load_system_certificate_list"
"""Spares the kernel what nobody needs here and what takes a quarter of its start under emulation."""
BLOCK_KIB = 2048
"""The steps in which a virtio-mem device gives memory to its guest."""


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest to define. Without an ``image`` it shows the firmware's "no bootable device": a picture, and cheap.

    It can grow while it runs: by ``virtio_mem_mib`` in small steps, by DIMMs up to ``max_memory_mib`` in all, and up to
    ``max_vcpus``. Without ``headroom`` it cannot: it is defined as most VMs are.

    ``vnc_listen`` empty: VNC without any address (reachable through a passed descriptor only); None: the address that
    each host has configured, so that the guest can move. ``display`` False: none.
    """

    name: str
    image: GuestImage | None = None
    memory_mib: int = 192
    max_memory_mib: int = 2048
    virtio_mem_mib: int = 1536
    vcpus: int = 1
    max_vcpus: int = 4
    headroom: bool = True
    display: bool = True
    vnc_listen: str | None = "127.0.0.1"
    vnc_password: str = ""
    uuid: str = ""

    @property
    def reference(self) -> str:
        """The guest's UUID, derived from its name unless one was given."""
        return self.uuid or str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.lab.cloudops"))


def domain_xml(spec: GuestSpec, serial_log: Path) -> str:
    """The domain XML. maxMemory, slots and a NUMA cell are what libvirt needs before memory can be added live."""
    domain = ET.Element("domain", type="qemu")
    _text(domain, "name", spec.name)
    _text(domain, "uuid", spec.reference)
    if spec.headroom:
        _text(domain, "maxMemory", str(spec.max_memory_mib), slots=str(DIMM_SLOTS), unit="MiB")
        _text(domain, "memory", str(spec.memory_mib + spec.virtio_mem_mib), unit="MiB")
        _text(domain, "currentMemory", str(spec.memory_mib), unit="MiB")
        _text(domain, "vcpu", str(spec.max_vcpus), placement="static", current=str(spec.vcpus))
    else:
        _text(domain, "memory", str(spec.memory_mib), unit="MiB")
        _text(domain, "vcpu", str(spec.vcpus), placement="static")
    system = ET.SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="pc")
    if spec.image is not None:
        _text(system, "kernel", str(spec.image.kernel.absolute()))
        _text(system, "initrd", str(spec.image.initrd.absolute()))
        _text(system, "cmdline", f"{KERNEL_ARGUMENTS} {QUICKER} lab.name={spec.name}")
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    # A smaller translation cache makes QEMU 7.2 abort when a CPU is added live.
    _text(ET.SubElement(features, "tcg"), "tb-cache", "128", unit="MiB")
    cpu = ET.SubElement(domain, "cpu", mode="custom", match="exact", check="none")
    _text(cpu, "model", "qemu64", fallback="allow")
    if spec.headroom:
        cell = {"id": "0", "cpus": f"0-{spec.max_vcpus - 1}", "memory": str(spec.memory_mib), "unit": "MiB"}
        ET.SubElement(ET.SubElement(cpu, "numa"), "cell", cell)
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(domain, event, action)
    _devices(domain, spec, serial_log)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def _devices(domain: ET.Element, spec: GuestSpec, serial_log: Path) -> None:
    devices = ET.SubElement(domain, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "target", port="0")
    ET.SubElement(serial, "log", file=str(serial_log.absolute()), append="on")
    ET.SubElement(devices, "input", type="mouse", bus="ps2")
    if spec.display:
        graphics = ET.SubElement(devices, "graphics", type="vnc", port="-1", autoport="yes")
        graphics.set("sharePolicy", "allow-exclusive")
        if spec.vnc_password:
            graphics.set("passwd", spec.vnc_password)
        if spec.vnc_listen:
            ET.SubElement(graphics, "listen", type="address", address=spec.vnc_listen)
        elif spec.vnc_listen is not None:
            ET.SubElement(graphics, "listen", type="none")
        video = ET.SubElement(devices, "video")
        ET.SubElement(video, "model", type="vga", vram="16384", heads="1", primary="yes")
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period="2")
    if spec.headroom and spec.virtio_mem_mib:
        target = ET.SubElement(ET.SubElement(devices, "memory", model="virtio-mem"), "target")
        _text(target, "size", str(spec.virtio_mem_mib), unit="MiB")
        _text(target, "node", "0")
        _text(target, "block", str(BLOCK_KIB), unit="KiB")
        _text(target, "requested", "0", unit="KiB")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
