"""Reads a host's facts from libvirt."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from cloudops.hypervisors.libvirt.reach import Reach
from cloudops.hypervisors.libvirt.session import version_text
from cloudops.hypervisors.port import HostFacts


class HostReader:
    """Remembers what does not change (reference, CPU model) and the last CPU times, from which the load follows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._identity: tuple[str, str] | None = None
        self._cpu_times: tuple[int, int] | None = None

    def ref(self, handle: Any) -> str:
        """The host's UUID; its name where libvirt has found no UUID."""
        return self._identify(handle)[0]

    def read(self, handle: Any, reach: Reach | None = None, migration_uri: str = "") -> HostFacts:
        """``reach``: what the host reaches, where that is wanted."""
        ref, cpu_model = self._identify(handle)
        information = handle.getInfo()
        # Not getInfo's memory: that counts one NUMA node's, or what was there at boot, on some machines.
        memory = handle.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
        free_kib = memory["free"] + memory.get("buffers", 0) + memory.get("cached", 0)
        versions = f"QEMU {version_text(handle.getVersion())}, libvirt {version_text(handle.getLibVersion())}"
        return HostFacts(
            ref=ref,
            name=handle.getHostname(),
            cpu_threads=information[2],
            cpu_mhz=information[3],
            memory_mib=memory["total"] // 1024,
            memory_free_mib=free_kib // 1024,
            hypervisor_version=versions,
            cpu_model=cpu_model,
            cpu_percent=self._cpu_percent(handle),
            networks=reach.networks if reach else (),
            datastores=reach.datastores if reach else (),
            migration_uri=migration_uri,
        )

    def _identify(self, handle: Any) -> tuple[str, str]:
        with self._lock:
            identity = self._identity
        if identity is None:
            capabilities = ET.fromstring(handle.getCapabilities())  # noqa: S314  (from libvirtd)
            ref = capabilities.findtext("host/uuid") or handle.getHostname()
            identity = (ref.strip(), (capabilities.findtext("host/cpu/model") or "").strip())
            with self._lock:
                self._identity = identity
        return identity

    def _cpu_percent(self, handle: Any) -> float | None:
        """Busy share since the last reading; None at the first."""
        times = handle.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS, 0)
        idle = times.get("idle", 0) + times.get("iowait", 0)
        now = (idle, sum(times.values()))
        with self._lock:
            before, self._cpu_times = self._cpu_times, now
        if before is None or now[1] <= before[1]:
            return None
        busy: float = 1 - (now[0] - before[0]) / (now[1] - before[1])
        return round(100 * busy, 1)
