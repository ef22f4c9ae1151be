"""What a host reaches: networks, bridges, storage pools; and from that, whether a disk is shared with other hosts."""

from __future__ import annotations

import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import libvirt

from cloudops.hypervisors.port import DiskFacts, DiskKind

KEEP_SECONDS = 60.0

# Pool types (libvirt.org/storage.html). What is in neither may be either: LVM, SCSI and multipath devices.
_SHARED = {"netfs", "gluster", "rbd", "iscsi", "iscsi-direct", "sheepdog", "vstorage"}
_LOCAL = {"dir", "fs", "disk", "zfs"}
_REMOVABLE = {"cdrom", "floppy"}
_NONE = {
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_OPERATION_DENIED,
    libvirt.VIR_ERR_ACCESS_DENIED,
    libvirt.VIR_ERR_NO_NETWORK,
    libvirt.VIR_ERR_NO_STORAGE_POOL,
    libvirt.VIR_ERR_NO_INTERFACE,
}
_TAPS = ("vnet", "tap", "macvtap")
"""Guests' own interfaces; there may be hundreds, and none is a bridge."""


@dataclass(frozen=True, slots=True)
class DiskSource:
    """A disk as a domain's XML has it. ``kind`` is the source's type; ``path`` a file, device, or ``protocol:name``."""

    target: str
    kind: str
    path: str
    pool: str = ""
    removable: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """An active storage pool. ``datastore`` is what it is called on every host that reaches it; empty: local."""

    name: str
    kind: DiskKind
    path: str = ""
    datastore: str = ""
    token: str = ""
    """What the path of each of its volumes holds: iSCSI pools all have the same directory."""


@dataclass(frozen=True, slots=True)
class Reach:
    networks: tuple[str, ...] = ()
    pools: tuple[Pool, ...] = ()

    @property
    def datastores(self) -> tuple[str, ...]:
        return tuple(sorted({pool.datastore for pool in self.pools if pool.datastore}))

    def disk(self, source: DiskSource) -> DiskFacts:
        """The disk, with what its pool tells of it. A network disk is reached by QEMU itself, so by any host."""
        if source.kind == "network":
            return DiskFacts(source.target, source.path, DiskKind.SHARED, removable=source.removable)
        pool = self._pool_of(source)
        if pool is None:
            return DiskFacts(source.target, source.path, DiskKind.UNKNOWN, removable=source.removable)
        return DiskFacts(source.target, source.path, pool.kind, pool.datastore, removable=source.removable)

    def _pool_of(self, source: DiskSource) -> Pool | None:
        if source.pool:
            return next((pool for pool in self.pools if pool.name == source.pool), None)
        path = PurePosixPath(source.path)
        holders = [
            pool for pool in self.pools if pool.path and path.is_relative_to(pool.path) and pool.token in source.path
        ]
        return max(holders, key=lambda pool: len(pool.path), default=None)


class ReachReader:
    """Asks a host, and remembers the answer for a while: it takes a call per pool and interface."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[float, Reach] | None = None

    def read(self, handle: Any) -> Reach:
        """At most :data:`KEEP_SECONDS` old."""
        with self._lock:
            known = self._known
        if known is not None and time.monotonic() - known[0] < KEEP_SECONDS:
            return known[1]
        try:
            reach = Reach(networks_of(handle), pools_of(handle))
        except libvirt.libvirtError:  # a line that broke shows in whatever is asked next; what is known still holds
            return known[1] if known is not None else Reach()
        with self._lock:
            self._known = (time.monotonic(), reach)
        return reach


def networks_of(handle: Any) -> tuple[str, ...]:
    """Names of active networks and of bridges."""
    networks = _listed(lambda: handle.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE))
    names = {network.name() for network in networks}
    # Not only active ones: a bridge to which nothing is connected yet does not count as such.
    for interface in _listed(lambda: handle.listAllInterfaces(0)):
        if interface.name().startswith(_TAPS):
            continue
        for xml in _listed(lambda interface=interface: [interface.XMLDesc(0)]):  # type: ignore[misc]
            if ET.fromstring(xml).get("type") == "bridge":  # noqa: S314  (from libvirtd)
                names.add(interface.name())
    return tuple(sorted(names))


def pools_of(handle: Any) -> tuple[Pool, ...]:
    """Active storage pools."""
    pools = []
    for pool in _listed(lambda: handle.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)):
        pools += [read_pool(xml) for xml in _listed(lambda pool=pool: [pool.XMLDesc(0)])]  # type: ignore[misc]
    return tuple(pools)


def read_pool(xml: str) -> Pool:
    """Reads a pool's XML (libvirt.org/formatstorage.html)."""
    pool = ET.fromstring(xml)  # noqa: S314  (from libvirtd)
    kind, name = pool.get("type", ""), pool.findtext("name") or ""
    path = pool.findtext("target/path") or ""
    if kind in _LOCAL:
        return Pool(name, DiskKind.LOCAL, path)
    if kind not in _SHARED:
        return Pool(name, DiskKind.UNKNOWN, path)
    host = _attribute(pool, "source/host", "name")
    device = _attribute(pool, "source/device", "path")
    parts = {
        "netfs": (host, _attribute(pool, "source/dir", "path")),
        "gluster": (host, (pool.findtext("source/name") or "") + _attribute(pool, "source/dir", "path").rstrip("/")),
        "iscsi": (host, device),
        "iscsi-direct": (host, device),
    }.get(kind, (pool.findtext("source/name") or name,))
    datastore = ":".join([kind, *(part for part in parts if part)])
    return Pool(name, DiskKind.SHARED, path, datastore, device if kind == "iscsi" else "")


def read_disks(domain: ET.Element) -> Sequence[DiskSource]:
    """A domain's disks; drives without a medium are left out."""
    found = []
    for disk in domain.findall("devices/disk"):
        source = disk.find("source")
        if source is None or not source.attrib:
            continue
        kind = disk.get("type", "")
        path = source.get("file") or source.get("dev") or source.get("dir") or source.get("path") or ""
        if kind == "network":
            path = f"{source.get('protocol', '')}:{source.get('name', '')}"
        elif kind == "volume":
            path = f"{source.get('pool', '')}/{source.get('volume', '')}"
        found.append(
            DiskSource(
                target=_attribute(disk, "target", "dev"),
                kind=kind,
                path=path,
                pool=source.get("pool", ""),
                removable=disk.get("device") in _REMOVABLE,
                optional=source.get("startupPolicy", "mandatory") != "mandatory",
            )
        )
    return found


def read_networks(domain: ET.Element) -> tuple[str, ...]:
    """Networks and bridges that a domain is connected to."""
    sources = domain.findall("devices/interface/source")
    names = {source.get("network") or source.get("bridge") or "" for source in sources}
    return tuple(sorted(names - {""}))


def _attribute(element: ET.Element, path: str, name: str) -> str:
    found = element.find(path)
    return "" if found is None else found.get(name, "")


def _listed(ask: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """Nothing where libvirt has no driver for such things or lets us not see them, or where one went away just now."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        no_daemon = "Failed to connect socket" in (error.get_error_message() or "")  # virtnetworkd, virtstoraged …
        if error.get_error_code() in _NONE or no_daemon:
            return []
        raise
