"""Rewrites what a domain's definition says of its size, and nothing else of it.

The XML is edited in place (names, prefixes, comments and metadata stay as they are). DIMMs are folded into the boot
memory, which frees their slots. Memory that can be added while the VM runs needs ``maxMemory`` with slots and a NUMA
cell; one that spans all memory and vCPUs is made where there is none.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import NoReturn
from xml.dom import minidom

from cloudops.hypervisors.libvirt.sizes import GLOBAL_PERIOD_US, mib, read_sizes
from cloudops.hypervisors.port import CeilingExceeded, MemoryMisaligned, MemoryModel, ResizeFailed, Shape

BLOCK_MIB = 2
FOREIGN_REMEDY = "Change this VM's definition by hand (virsh edit), or give it a single NUMA cell or none."


def reshape(xml: str, shape: Shape) -> str:
    """The definition with this shape. ``xml``: read with VIR_DOMAIN_XML_INACTIVE and _SECURE, or passwords are lost.

    Raises :class:`ResizeFailed` for a definition of several NUMA cells (how sizes are to be divided is nobody's guess)
    and for a shape that makes no sense, :class:`CeilingExceeded` and :class:`MemoryMisaligned` among them.
    """
    read = ET.fromstring(xml)  # noqa: S314  (from libvirtd, which we trust with far more)
    sizes = read_sizes(read)
    block_mib = _block_mib(read)
    _check(shape, block_mib)
    if sizes.cells > 1:
        raise ResizeFailed(
            f"The VM is defined with {sizes.cells} NUMA cells; CloudOps sizes VMs of one cell only.",
            numbers={"cells": sizes.cells},
            remedy=FOREIGN_REMEDY,
        )
    document = minidom.parseString(xml)  # noqa: S318  (the same)
    domain = document.documentElement
    if domain is None:
        raise ResizeFailed("The VM's definition is empty.")
    max_vcpus = _vcpus(domain, shape)
    _memory(domain, shape, sizes.other_mib, max_vcpus)
    _virtio_mem(domain, shape, block_mib)
    _cpu_tuning(domain, shape.cpu_shares, shape.cpu_quota_percent)
    return str(domain.toxml())


def tune_cpu(xml: str, shares: int, quota_percent: int) -> str:
    """The definition with these shares and this limit (0: nothing is said of it)."""
    document = minidom.parseString(xml)  # noqa: S318  (from libvirtd, which we trust with far more)
    if document.documentElement is None:
        raise ResizeFailed("The VM's definition is empty.")
    _cpu_tuning(document.documentElement, shares, quota_percent)
    return str(document.documentElement.toxml())


def _check(shape: Shape, block_mib: int) -> None:
    if shape.vcpus < 1 or shape.memory_mib < 1:
        _undefinable("it has no vCPU or no memory")
    if shape.max_vcpus < shape.vcpus:
        _undefinable(f"{shape.max_vcpus} vCPUs at most are fewer than {shape.vcpus}")
    if shape.virtio_mem_requested_mib > shape.virtio_mem_mib:
        _undefinable("more is requested of the virtio-mem device than it has")
    if shape.virtio_mem_mib % block_mib or shape.virtio_mem_requested_mib % block_mib:
        raise MemoryMisaligned(
            f"This VM's virtio-mem device has blocks of {block_mib} MiB; {shape.virtio_mem_mib} and "
            f"{shape.virtio_mem_requested_mib} MiB are not whole numbers of them.",
            numbers={"step": block_mib},
        )
    needed = shape.memory_mib + shape.virtio_mem_mib
    if (shape.virtio_mem_mib or shape.max_memory_mib) and shape.max_memory_mib < needed:
        raise CeilingExceeded(
            f"maxMemory of {shape.max_memory_mib} MiB is less than boot memory and devices, {needed} MiB.",
            numbers={"ceiling": shape.max_memory_mib, "wanted": needed},
        )


def _undefinable(why: str) -> NoReturn:
    raise ResizeFailed(f"Such a VM cannot be defined: {why}.")


def _block_mib(domain: ET.Element) -> int:
    """The present device's; else 2 MiB, or one page where the memory is of larger ones."""
    for device in domain.findall("devices/memory"):
        if device.get("model") == MemoryModel.VIRTIO_MEM and (block := mib(device.find("target/block"))):
            return block
    pages = []
    for page in domain.findall("memoryBacking/hugepages/page"):
        size = ET.Element("size", unit=page.get("unit", "KiB"))
        size.text = page.get("size", "0")
        pages.append(mib(size))
    return max([BLOCK_MIB, *pages])


def _vcpus(domain: minidom.Element, shape: Shape) -> int:
    """Writes vCPUs; returns the most there are: with a CPU topology that is a whole number of sockets."""
    most = shape.max_vcpus
    cpu = _child(domain, "cpu")
    topology = None if cpu is None else _child(cpu, "topology")
    if topology is not None:
        per_socket = 1
        for name in ("dies", "clusters", "cores", "threads"):
            per_socket *= int(topology.getAttribute(name) or 1)
        sockets = -(-most // per_socket)
        most = sockets * per_socket
        topology.setAttribute("sockets", str(sockets))
    vcpu = _made(domain, "vcpu")
    _write(vcpu, str(most))
    vcpu.setAttribute("current", str(shape.vcpus))
    _each_vcpu(domain, most, shape.vcpus)
    return most


def _each_vcpu(domain: minidom.Element, most: int, enabled: int) -> None:
    """Where vCPUs are listed one by one, the first ones are there; which may leave again stays as it was."""
    listed = _child(domain, "vcpus")
    if listed is None:
        return
    hotpluggable = {one.getAttribute("id"): one.getAttribute("hotpluggable") for one in _children(listed, "vcpu")}
    _empty(listed)
    for number in range(most):
        one = _added(listed, "vcpu")
        one.setAttribute("id", str(number))
        one.setAttribute("enabled", "yes" if number < enabled else "no")
        may_leave = hotpluggable.get(str(number), "no" if number < enabled else "yes")
        one.setAttribute("hotpluggable", may_leave if number else "no")


def _memory(domain: minidom.Element, shape: Shape, other_mib: int, max_vcpus: int) -> None:
    devices = _made(domain, "devices")
    for device in _children(devices, "memory"):
        if device.getAttribute("model") == MemoryModel.DIMM:
            devices.removeChild(device)
    # libvirt subtracts no virtio-mem from what the balloon is to leave: that is boot memory alone.
    _write_mib(_made(domain, "memory"), shape.memory_mib + shape.virtio_mem_mib + other_mib)
    _write_mib(_made(domain, "currentMemory"), shape.memory_mib + other_mib)
    if shape.max_memory_mib or other_mib:
        ceiling = _made(domain, "maxMemory")
        _write_mib(ceiling, max(shape.max_memory_mib, shape.memory_mib) + other_mib)
        kept = len([one for one in _children(devices, "memory") if one.getAttribute("model") != "virtio-mem"])
        least = kept + (1 if shape.virtio_mem_mib else 0)
        ceiling.setAttribute("slots", str(max(1, least, shape.memory_slots)))
        cell = _made(_made(_made(domain, "cpu"), "numa"), "cell")
    else:
        _remove(domain, "maxMemory")
        cpu = _child(domain, "cpu")
        numa = None if cpu is None else _child(cpu, "numa")
        if numa is None or (found := _child(numa, "cell")) is None:
            return
        cell = found
    if not cell.getAttribute("id"):
        cell.setAttribute("id", "0")
    cell.setAttribute("cpus", f"0-{max_vcpus - 1}" if max_vcpus > 1 else "0")
    cell.setAttribute("memory", str(shape.memory_mib * 1024))
    cell.setAttribute("unit", "KiB")


def _virtio_mem(domain: minidom.Element, shape: Shape, block_mib: int) -> None:
    """One device of this size, or none."""
    devices = _made(domain, "devices")
    found = [one for one in _children(devices, "memory") if one.getAttribute("model") == MemoryModel.VIRTIO_MEM]
    for device in found[1 if shape.virtio_mem_mib else 0 :]:
        devices.removeChild(device)
    if not shape.virtio_mem_mib:
        return
    device = found[0] if found else _added(devices, "memory")
    device.setAttribute("model", MemoryModel.VIRTIO_MEM.value)
    target = _made(device, "target")
    _write_mib(_made(target, "size"), shape.virtio_mem_mib)
    if _child(target, "node") is None:
        cell = next(one for one in domain.getElementsByTagName("cell"))
        _write(_added(target, "node"), cell.getAttribute("id"))
    _write_mib(_made(target, "block"), block_mib)
    _write_mib(_made(target, "requested"), shape.virtio_mem_requested_mib)
    _remove(target, "current")


def _cpu_tuning(domain: minidom.Element, shares: int, quota_percent: int) -> None:
    if not shares and not quota_percent and _child(domain, "cputune") is None:
        return
    tuning = _made(domain, "cputune")
    values = {"shares": shares, "global_period": 0, "global_quota": 0}
    if quota_percent:
        values["global_period"] = GLOBAL_PERIOD_US
        values["global_quota"] = quota_percent * GLOBAL_PERIOD_US // 100
    for name, value in values.items():
        if value:
            _write(_made(tuning, name), str(value))
        else:
            _remove(tuning, name)
    if not any(isinstance(one, minidom.Element) for one in tuning.childNodes):
        _remove(domain, "cputune")


def _children(parent: minidom.Element, tag: str) -> Iterator[minidom.Element]:
    return iter([one for one in parent.childNodes if isinstance(one, minidom.Element) and one.tagName == tag])


def _child(parent: minidom.Element, tag: str) -> minidom.Element | None:
    return next(_children(parent, tag), None)


def _added(parent: minidom.Element, tag: str) -> minidom.Element:
    document = parent.ownerDocument
    if document is None:
        raise ValueError("an element of no document")
    made = document.createElement(tag)
    parent.appendChild(made)
    return made


def _made(parent: minidom.Element, tag: str) -> minidom.Element:
    """The child of this name; made where there is none."""
    return _child(parent, tag) or _added(parent, tag)


def _remove(parent: minidom.Element, tag: str) -> None:
    for one in _children(parent, tag):
        parent.removeChild(one)


def _empty(element: minidom.Element) -> None:
    while element.firstChild is not None:
        element.removeChild(element.firstChild)


def _write(element: minidom.Element, text: str) -> None:
    _empty(element)
    document = element.ownerDocument
    if document is not None:
        element.appendChild(document.createTextNode(text))


def _write_mib(element: minidom.Element, value: int) -> None:
    element.setAttribute("unit", "KiB")
    _write(element, str(value * 1024))
