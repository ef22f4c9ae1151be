"""Reads a domain's size and ceilings from its XML (libvirt.org/formatdomain.html, "Memory devices", "CPU tuning").

What libvirt means by its numbers (tried on 9.0): ``memory`` is the boot memory with every device at its full size.
``currentMemory`` is, while the domain runs, what the balloon leaves of boot memory and DIMMs plus what the guest has
taken of virtio-mem; without a balloon it stays at ``memory``. It can be wrong for good: when a DIMM is attached before
the guest has taken what was requested of virtio-mem. In a definition it leaves virtio-mem out.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from cloudops.hypervisors.port import MemoryDevice, MemoryModel, ScalingFacts, Shape

DIMM_MIB = 128
"""Linux takes memory in such blocks; a DIMM of another size is lost, and every later one with it."""
GLOBAL_PERIOD_US = 100_000
# libvirt scales with binary units, and counts KiB where none is named.
_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "k": 1, "KiB": 1, "MB": 1000**2 / 1024, "M": 1024,
        "MiB": 1024, "GB": 1000**3 / 1024, "G": 1024**2, "GiB": 1024**2, "TB": 1000**4 / 1024, "T": 1024**3,
        "TiB": 1024**3}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a domain has, and how far it can go. ``other_mib``: memory devices that only a restart changes, NVDIMMs for
    example; ``cells``: its NUMA cells."""

    vcpus: int
    memory_mib: int
    scaling: ScalingFacts
    other_mib: int
    cells: int

    @property
    def dimms_mib(self) -> int:
        """Of all DIMMs."""
        return sum(one.size_mib for one in self.scaling.memory_devices if one.model is MemoryModel.DIMM)


def read_sizes(domain: ET.Element, *, balloon_kib: int | None = None) -> Sizes:
    """Of a running domain (its element has an ``id``) or of a definition. ``balloon_kib``: what QEMU says that the
    balloon leaves of boot memory and DIMMs (virDomainMemoryStats ``actual``), which is always right."""
    max_vcpus, vcpus = _vcpus(domain)
    devices = read_memory_devices(domain)
    sizes = sum(mib(one.find("target/size")) for one in domain.findall("devices/memory"))
    other = sizes - sum(one.size_mib for one in devices)
    cells = domain.findall("cpu/numa/cell")
    total = mib(domain.find("memory"))
    boot = sum(_cell_mib(cell) for cell in cells) or max(0, total - sizes)
    balloon = _balloon_mib(domain, boot, sizes, devices, balloon_kib)
    limit, slots = read_max_memory(domain)
    most = boot + sizes
    if limit > most and slots > len(domain.findall("devices/memory")):
        most += (limit - most) // DIMM_MIB * DIMM_MIB
    shares, quota = read_cpu_tuning(domain)
    return Sizes(
        vcpus=vcpus,
        memory_mib=balloon + sum(one.current_mib for one in devices) + other,
        scaling=ScalingFacts(
            max_vcpus=max_vcpus,
            max_memory_mib=most,
            memory_slots=slots,
            # Every device counts: "memory device count '2' exceeds slots count '1'", virtio-mem or not.
            memory_slots_used=len(domain.findall("devices/memory")),
            boot_memory_mib=boot,
            balloon_mib=balloon,
            has_balloon=_has_balloon(domain),
            dimm_limit_mib=limit,
            memory_devices=devices,
            removable_vcpus=_removable(domain),
            cpu_shares=shares,
            cpu_quota_percent=quota,
        ),
        other_mib=other,
        cells=len(cells),
    )


def read_shape(domain: ET.Element) -> Shape:
    """What a definition starts. DIMMs and a balloon that is blown up count with the boot memory."""
    sizes = read_sizes(domain)
    facts = sizes.scaling
    virtio = [one for one in facts.memory_devices if one.model is MemoryModel.VIRTIO_MEM]
    return Shape(
        vcpus=sizes.vcpus,
        max_vcpus=facts.max_vcpus,
        memory_mib=facts.balloon_mib + sizes.dimms_mib,
        max_memory_mib=facts.dimm_limit_mib,
        memory_slots=facts.memory_slots,
        virtio_mem_mib=sum(one.size_mib for one in virtio),
        virtio_mem_requested_mib=sum(one.requested_mib for one in virtio),
        cpu_shares=facts.cpu_shares,
        cpu_quota_percent=facts.cpu_quota_percent,
    )


def read_memory_devices(domain: ET.Element) -> tuple[MemoryDevice, ...]:
    """virtio-mem devices and DIMMs, in the order of the XML. A definition's have an alias only if a user gave one, and
    what is requested in it is what the guest is to take from the start."""
    running = domain.get("id") is not None
    found = []
    for number, device in enumerate(domain.findall("devices/memory")):
        model, target = device.get("model", ""), device.find("target")
        if model not in set(MemoryModel) or target is None:
            continue
        alias = device.find("alias")
        size = mib(target.find("size"))
        requested, block = size, DIMM_MIB
        if model == MemoryModel.VIRTIO_MEM:
            requested, block = mib(target.find("requested")), mib(target.find("block")) or 2
        current = target.find("current")
        found.append(
            MemoryDevice(
                alias=f"memory{number}" if alias is None else alias.get("name", ""),
                model=MemoryModel(model),
                size_mib=size,
                requested_mib=requested,
                current_mib=mib(current) if running and current is not None else requested,
                block_mib=block,
            )
        )
    return tuple(found)


def read_max_memory(domain: ET.Element) -> tuple[int, int]:
    """The most that boot memory and devices may be together, in MiB, and how many devices; 0 and 0 for none."""
    ceiling = domain.find("maxMemory")
    return (0, 0) if ceiling is None else (mib(ceiling), int(ceiling.get("slots", "0")))


def read_cpu_tuning(domain: ET.Element) -> tuple[int, int]:
    """Shares, and the limit for the whole domain in percent of one thread; 0 where nothing is set."""
    tuning = domain.find("cputune")
    if tuning is None:
        return 0, 0
    quota = int(text(tuning.find("global_quota")) or 0)
    period = int(text(tuning.find("global_period")) or GLOBAL_PERIOD_US)
    return int(text(tuning.find("shares")) or 0), round(100 * quota / period) if quota > 0 else 0


def mib(element: ET.Element | None) -> int:
    """A size with its unit, in whole MiB; 0 for none."""
    return 0 if element is None else _scaled(text(element), element.get("unit", "KiB"))


def text(element: ET.Element | None) -> str:
    """What an element says, "" for none."""
    return "" if element is None else (element.text or "").strip()


def _scaled(number: str, unit: str) -> int:
    return int(int(number or 0) * _KIB[unit] / 1024)


def _cell_mib(cell: ET.Element) -> int:
    return _scaled(cell.get("memory", "0"), cell.get("unit", "KiB"))


def _vcpus(domain: ET.Element) -> tuple[int, int]:
    vcpu = domain.find("vcpu")
    most = int(text(vcpu) or 1)
    return most, int(vcpu.get("current", most)) if vcpu is not None else most


def _balloon_mib(
    domain: ET.Element, boot: int, sizes: int, devices: tuple[MemoryDevice, ...], balloon_kib: int | None
) -> int:
    """How much of the boot memory the balloon leaves."""
    current = domain.find("currentMemory")
    if current is None or not _has_balloon(domain):
        return boot
    virtio = [one for one in devices if one.model is MemoryModel.VIRTIO_MEM]
    beside = sizes - sum(one.size_mib for one in virtio)
    if balloon_kib is not None:
        left = balloon_kib // 1024
    else:
        left = mib(current) - (sum(one.current_mib for one in virtio) if domain.get("id") is not None else 0)
    return max(0, min(boot, left - beside))


def _has_balloon(domain: ET.Element) -> bool:
    balloon = domain.find("devices/memballoon")
    return balloon is not None and balloon.get("model") != "none"


def _removable(domain: ET.Element) -> int:
    """vCPUs that libvirt may take away. QEMU's own emulation (domain type ``qemu``) never lets go of one: libvirt fails
    after 5 s, goes on counting it, and the guest does without it."""
    if domain.get("type") == "qemu":
        return 0
    return sum(one.get("enabled") == one.get("hotpluggable") == "yes" for one in domain.findall("vcpus/vcpu"))
