"""What is shared with other hosts, read from libvirt's XML; and what a failed migration's words mean."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import libvirt
import pytest

from cloudops.hypervisors.libvirt import reach
from cloudops.hypervisors.libvirt.domains import read_domain
from cloudops.hypervisors.libvirt.migration_errors import migration_error
from cloudops.hypervisors.libvirt.reach import (
    DiskSource,
    Pool,
    Reach,
    ReachReader,
    read_disks,
    read_networks,
    read_pool,
)
from cloudops.hypervisors.libvirt.uri import parse_uri
from cloudops.hypervisors.port import DiskFacts, DiskKind

DOMAIN = """
<domain type='kvm'><name>x</name><uuid>8f5b6c4e-0000-4000-8000-000000000001</uuid><memory>1048576</memory><vcpu>1</vcpu>
 <cpu mode='{mode}'><model>EPYC</model></cpu>
 <devices>
  <disk type='file' device='disk'><source file='/mnt/nas/a.qcow2'/><target dev='vda'/></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='vms/x'/><target dev='vdb'/></disk>
  <disk type='volume' device='disk'><source pool='default' volume='b.raw'/><target dev='vdc'/></disk>
  <disk type='block' device='disk'><target dev='vdd'/>
   <source dev='/dev/disk/by-path/ip-10.0.0.9:3260-iscsi-iqn.2030-01.nas:vms-lun-3'/></disk>
  <disk type='file' device='disk'><source file='/srv/unpooled.raw'/><target dev='vde'/></disk>
  <disk type='file' device='cdrom'><target dev='sda'/>
   <source file='/var/lib/libvirt/images/a.iso' startupPolicy='optional'/></disk>
  <disk type='file' device='cdrom'><target dev='sdb'/></disk>
  <interface type='bridge'><source bridge='br0'/></interface>
  <interface type='network'><source network='lan' bridge='virbr1'/></interface>
  <interface type='user'/>
 </devices>
</domain>"""

DOMAIN_ELEMENT = ET.fromstring(DOMAIN.format(mode="custom"))  # noqa: S314

POOLS = {
    "<pool type='dir'><name>default</name><target><path>/var/lib/libvirt/images</path></target></pool>": (
        "default",
        DiskKind.LOCAL,
        "",
    ),
    "<pool type='netfs'><name>nas</name><source><host name='nas'/><dir path='/vms'/></source>"
    "<target><path>/mnt/nas</path></target></pool>": ("nas", DiskKind.SHARED, "netfs:nas:/vms"),
    "<pool type='rbd'><name>ceph</name><source><name>vms</name></source></pool>": ("ceph", DiskKind.SHARED, "rbd:vms"),
    "<pool type='gluster'><name>g</name><source><host name='g1'/><name>vol</name><dir path='/'/></source></pool>": (
        "g",
        DiskKind.SHARED,
        "gluster:g1:vol",
    ),
    "<pool type='iscsi'><name>san</name><source><host name='nas'/><device path='iqn.2030-01.nas:vms'/></source>"
    "<target><path>/dev/disk/by-path</path></target></pool>": (
        "san",
        DiskKind.SHARED,
        "iscsi:nas:iqn.2030-01.nas:vms",
    ),
    "<pool type='logical'><name>vg</name><target><path>/dev/vg</path></target></pool>": ("vg", DiskKind.UNKNOWN, ""),
}
REACH = Reach(pools=tuple(read_pool(xml) for xml in POOLS))


@pytest.mark.parametrize("xml", list(POOLS))
def test_pools(xml: str) -> None:
    pool = read_pool(xml)
    assert (pool.name, pool.kind, pool.datastore) == POOLS[xml]


def test_a_datastore_is_called_alike_wherever_it_is_reached() -> None:
    again = [read_pool(xml.replace("<name>nas</name>", "<name>storage7</name>")) for xml in POOLS]
    assert Reach(pools=tuple(again)).datastores == REACH.datastores
    assert len(REACH.datastores) == 4


def test_disks_by_what_holds_them() -> None:
    disks = [REACH.disk(source) for source in read_disks(DOMAIN_ELEMENT)]
    assert [(disk.target, disk.kind, disk.datastore, disk.removable) for disk in disks] == [
        ("vda", DiskKind.SHARED, "netfs:nas:/vms", False),
        ("vdb", DiskKind.SHARED, "", False),  # QEMU reaches it by itself, so on every host
        ("vdc", DiskKind.LOCAL, "", False),
        ("vdd", DiskKind.SHARED, "iscsi:nas:iqn.2030-01.nas:vms", False),
        ("vde", DiskKind.UNKNOWN, "", False),
        ("sda", DiskKind.LOCAL, "", True),
    ]
    assert disks[1].source == "rbd:vms/x"


def test_another_target_of_the_same_portal_is_another_pool() -> None:
    path = "/dev/disk/by-path/ip-10.0.0.9:3260-iscsi-iqn.2030-01.nas:other-lun-3"
    assert REACH.disk(DiskSource("vda", "block", path)) == DiskFacts("vda", path, DiskKind.UNKNOWN)


def test_networks_of_a_domain() -> None:
    assert read_networks(DOMAIN_ELEMENT) == ("br0", "lan")


@pytest.mark.parametrize(
    ("mode", "model"),
    [("custom", "EPYC"), ("host-passthrough", "host-passthrough"), ("maximum", "maximum"), ("host-model", "EPYC")],
)
def test_the_cpu_of_a_domain(mode: str, model: str) -> None:
    assert read_domain(DOMAIN.format(mode=mode)).cpu_model == model


class _Host:
    """A libvirt connection with one network, whose driver for pools answers as told."""

    def __init__(self, *errors: libvirt.libvirtError) -> None:
        self.errors = list(errors)
        self.asked = 0

    def listAllNetworks(self, _flags: int) -> list[Any]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop()
        return [self]

    def listAllInterfaces(self, _flags: int) -> list[Any]:
        raise _error(libvirt.VIR_ERR_NO_SUPPORT, "this function is not supported by the connection driver")

    def listAllStoragePools(self, _flags: int) -> list[Any]:
        raise _error(libvirt.VIR_ERR_SYSTEM_ERROR, "Failed to connect socket to '/var/run/libvirt/virtstoraged-sock'")

    def name(self) -> str:
        return "lan"


def test_drivers_that_a_host_lacks_are_no_error_and_answers_are_kept_for_a_while() -> None:
    reader, host = ReachReader(), _Host()
    assert reader.read(host) == Reach(networks=("lan",)) == reader.read(host)
    assert host.asked == 1


def test_a_broken_line_makes_nobody_forget_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ReachReader()
    reader.read(_Host())
    monkeypatch.setattr(reach, "KEEP_SECONDS", -1.0)
    broken = _Host(_error(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed"))
    assert reader.read(broken) == Reach(networks=("lan",))
    assert ReachReader().read(_Host(_error(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed"))) == Reach()


def _error(code: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError("it failed")
    error.err = (code, libvirt.VIR_FROM_QEMU, message, 2, "", "", "", 0, 0)
    return error


# Verbatim from libvirt 9.0 (see its src/qemu/qemu_migration.c and src/rpc).
@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (1, "internal error: Attempt to migrate guest to the same host 77000000", "same-host"),
        (38, "unable to connect to server at '10.77.0.12:16509': No route to host", "destination-unreachable"),
        (38, "unable to connect to server at 'kvm-02:16509': Connection refused", "destination-unreachable"),
        (45, "authentication failed: authentication failed", "destination-unreachable"),
        (9, "operation failed: domain 'vm1' already exists with uuid 5c1e0f8e", "vm-name-taken"),
        (55, "Requested operation is not valid: domain 'vm1' is already active as 'vm1'", "vm-name-taken"),
        (81, "Unsafe migration: Migration without shared storage is unsafe", "migration-unsafe"),
        (55, "Requested operation is not valid: domain is not running", "vm-not-running"),
        (55, "Requested operation is not valid: another migration job is already running for domain 'x'", "vm-busy"),
        (68, "Timed out during operation: cannot acquire state change lock (held by x)", "vm-busy"),
        (78, "operation aborted: job 'migration out' canceled by client", "migration-aborted"),
        (1, "internal error: client socket is closed", "migration-interrupted"),
        (9, "operation failed: Lost connection to destination host", "migration-interrupted"),
        (38, "End of file while reading data: Input/output error", "migration-interrupted"),
        (9, "operation failed: job 'migration out' unexpectedly failed", "migration-interrupted"),
        (91, "the CPU is incompatible with host CPU: Host CPU does not provide: svm", "cpu-incompatible"),
        (67, "unsupported configuration: Emulator does not support machine type 'pc-9.0'", "destination-incompatible"),
        (43, "Network not found: no network with matching name 'lan'", "destination-network-missing"),
        (38, "Cannot get interface MTU on 'br0': No such device", "destination-network-missing"),
        (38, "Cannot access storage file '/mnt/a.raw': No such file or directory", "destination-storage-missing"),
        (49, "Storage pool not found: no storage pool with matching name 'x'", "destination-storage-missing"),
        (1, "internal error: cannot set up guest memory 'pc.ram': Cannot allocate", "destination-out-of-space"),
        (42, "Domain not found: no domain with matching uuid", "vm-not-found"),
        (55, "Requested operation is not valid: domain has active block job", "vm-invalid-state"),
        (9999, "something that nobody has seen yet", "migration-failed"),
    ],
)  # fmt: skip
def test_what_libvirt_says_of_a_failed_migration(code: int, words: str, expected: str) -> None:
    error = migration_error(_error(code, words))
    assert (error.code, error.detail, error.platform_code) == (expected, words, f"libvirt-{code}")
    assert error.remedy


@pytest.mark.parametrize(
    ("uri", "from_elsewhere"),
    [
        ("qemu:///system", ""),
        ("qemu+unix:///system?socket=/x", ""),
        ("qemu+tcp://127.0.0.1/system", ""),
        ("qemu+tls://localhost/system", ""),
        ("qemu+tcp://kvm1/system", "qemu+tcp://kvm1/system"),
        ("qemu://kvm1/system?pkipath=/ours&no_verify=1", "qemu+tls://kvm1/system"),
        ("qemu+tcp://[fd00::1]:16510/system", "qemu+tcp://[fd00::1]:16510/system"),
        ("qemu+ssh://root@kvm1/system?keyfile=/ours", "qemu+ssh://root@kvm1/system"),
    ],
)
def test_uris_that_other_hosts_may_use(uri: str, from_elsewhere: str) -> None:
    assert parse_uri(uri).from_elsewhere == from_elsewhere


def test_the_deepest_directory_holds_a_disk() -> None:
    pools = (Pool("a", DiskKind.LOCAL, "/srv"), Pool("b", DiskKind.SHARED, "/srv/nas", "netfs:nas:/x"))
    assert Reach(pools=pools).disk(DiskSource("vda", "file", "/srv/nas/a")).datastore == "netfs:nas:/x"
    assert Reach(pools=pools).disk(DiskSource("vda", "file", "/srv/nasty")).kind is DiskKind.LOCAL
