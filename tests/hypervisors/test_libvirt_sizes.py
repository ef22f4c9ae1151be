"""The libvirt driver's reading and rewriting of sizes, over recorded definitions, and what it makes of errors."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import libvirt
import libvirt_qemu
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudops.hypervisors.libvirt import scaling
from cloudops.hypervisors.libvirt.scaling_errors import resize_error
from cloudops.hypervisors.libvirt.shapes import reshape, tune_cpu
from cloudops.hypervisors.libvirt.sizes import Sizes, read_shape, read_sizes
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    Busy,
    CeilingExceeded,
    HypervisorError,
    MemoryDevice,
    MemoryMisaligned,
    MemoryModel,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    Shape,
    SlotsExhausted,
    VcpusNotRemovable,
    VmNotFound,
    VmNotRunning,
)

# Recorded on libvirt 9.0, shortened.
GROWN = """<domain type='qemu' id='3'>
  <name>web</name>
  <maxMemory slots='16' unit='KiB'>4194304</maxMemory>
  <memory unit='KiB'>2752512</memory>
  <currentMemory unit='KiB'>1269760</currentMemory>
  <vcpu placement='static' current='2'>6</vcpu>
  <vcpus>
    <vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>
    <vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>
    <vcpu id='2' enabled='no' hotpluggable='yes'/>
  </vcpus>
  <cputune><shares>200</shares><global_period>100000</global_period><global_quota>50000</global_quota></cputune>
  <cpu mode='custom'><numa><cell id='0' cpus='0-5' memory='524288' unit='KiB'/></numa></cpu>
  <devices>
    <memballoon model='virtio'><stats period='2'/></memballoon>
    <memory model='virtio-mem'>
      <target><size unit='KiB'>2097152</size><node>0</node><block unit='KiB'>2048</block>
        <requested unit='KiB'>614400</requested><current unit='KiB'>614400</current></target>
      <alias name='virtiomem0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
    </memory>
    <memory model='dimm'>
      <target><size unit='KiB'>131072</size><node>0</node></target>
      <alias name='ua-dimm0'/><address type='dimm' slot='0' base='0x160000000'/>
    </memory>
  </devices>
</domain>"""
PLAIN = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>db</name>
  <metadata><own:note xmlns:own='http://example.org/own' own:by='me'>own:word <!-- stays --></own:note></metadata>
  <memory unit='KiB'>1048576</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><source file='/images/a&amp;b.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <graphics type='vnc' port='-1' autoport='yes' passwd='s3cret &lt;1'/>
    <memballoon model='virtio'/>
  </devices>
  <seclabel type='dynamic' model='apparmor' relabel='yes'/>
  <qemu:commandline><qemu:arg value='-newarg'/></qemu:commandline>
</domain>"""
NUMA = PLAIN.replace("<devices>", "<cpu><numa><cell id='0' cpus='0-1' memory='1' unit='GiB'/></numa></cpu><devices>")
TWO_CELLS = NUMA.replace(
    "<cell id='0' cpus='0-1' memory='1' unit='GiB'/>",
    "<cell id='0' cpus='0' memory='512' unit='MiB'/><cell id='1' cpus='1' memory='512' unit='MiB'/>",
)
DIMMS = NUMA.replace("<memory unit", "<maxMemory slots='4' unit='GiB'>4</maxMemory><memory unit").replace(
    "</devices>",
    "<memory model='dimm'><target><size unit='MiB'>256</size><node>0</node></target></memory>"
    "<memory model='nvdimm'><target><size unit='MiB'>512</size><node>0</node></target></memory></devices>",
)
HUGE = PLAIN.replace(
    "<os>", "<memoryBacking><hugepages><page size='4' unit='MiB'/></hugepages><locked/></memoryBacking><os>"
)
GROWN_DEFINITION = re.sub(r" id='3'|<current unit.*?</current>|<alias name='virtiomem0'/>", "", GROWN)
RECORDED = {"plain": PLAIN, "numa": NUMA, "huge": HUGE, "virtio-mem": GROWN_DEFINITION}
ROOMY = Shape(3, 8, 512, 4096, 16, 2048, 256, 300, 150)


def _read(xml: str) -> Sizes:
    return read_sizes(_tree(xml))


def _tree(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314


def _rest(xml: str) -> str:
    """All of a definition that does not concern its size, in a canonical form."""
    tree = _tree(xml)
    for path in ("memory", "currentMemory", "maxMemory", "vcpu", "vcpus", "cputune", "cpu"):
        for one in tree.findall(path):
            tree.remove(one)
    devices = tree.find("devices")
    assert devices is not None
    for one in devices.findall("memory"):
        if one.get("model") != "nvdimm":
            devices.remove(one)
    return ET.canonicalize(ET.tostring(tree, encoding="unicode"), strip_text=True)


def test_a_vm_that_has_grown_is_read() -> None:
    sizes = _read(GROWN)
    assert (sizes.vcpus, sizes.memory_mib) == (2, 512 + 600 + 128)
    facts = sizes.scaling
    assert (facts.max_vcpus, facts.boot_memory_mib, facts.balloon_mib, facts.has_balloon) == (6, 512, 512, True)
    assert (facts.dimm_limit_mib, facts.memory_slots, facts.memory_slots_used) == (4096, 16, 2)
    assert facts.max_memory_mib == 4096
    assert facts.memory_devices == (
        MemoryDevice("virtiomem0", MemoryModel.VIRTIO_MEM, 2048, 600, 600, 2),
        MemoryDevice("ua-dimm0", MemoryModel.DIMM, 128, 128, 128, 128),
    )
    assert (facts.cpu_shares, facts.cpu_quota_percent) == (200, 50)


def test_what_qemu_says_of_the_balloon_is_believed() -> None:
    """libvirt's own figure goes wrong when a DIMM is attached before the guest has taken its virtio-mem."""
    wrong = GROWN.replace(">1269760<", ">300000<")
    sizes = read_sizes(_tree(wrong), balloon_kib=640 * 1024)
    assert (sizes.memory_mib, sizes.scaling.balloon_mib) == (1240, 512)
    less = read_sizes(_tree(GROWN), balloon_kib=600 * 1024)
    assert (less.memory_mib, less.scaling.balloon_mib) == (1200, 472)
    without = _read(GROWN.replace("model='virtio'", "model='none'"))
    assert (without.memory_mib, without.scaling.has_balloon) == (1240, False)


@pytest.mark.parametrize(("kind", "removable"), [("qemu", 0), ("kvm", 1)])
def test_only_hot_plugged_vcpus_can_leave_and_never_under_emulation(kind: str, removable: int) -> None:
    assert _read(GROWN.replace("type='qemu'", f"type='{kind}'")).scaling.removable_vcpus == removable


def test_a_vm_without_headroom_is_read() -> None:
    facts = _read(PLAIN).scaling
    assert (facts.max_vcpus, facts.max_memory_mib, facts.boot_memory_mib, facts.balloon_mib) == (2, 1024, 1024, 1024)
    assert (facts.dimm_limit_mib, facts.memory_slots, facts.memory_devices) == (0, 0, ())
    assert (facts.cpu_shares, facts.cpu_quota_percent) == (0, 0)


@pytest.mark.parametrize("name", RECORDED)
def test_a_definition_gets_its_shape_and_keeps_the_rest(name: str) -> None:
    before = RECORDED[name]
    after = reshape(before, ROOMY)
    assert read_shape(_tree(after)) == ROOMY
    assert _rest(after) == _rest(before)
    assert reshape(after, ROOMY) == after
    (cell,) = _tree(after).findall("cpu/numa/cell")
    assert (cell.get("cpus"), cell.get("memory"), cell.get("unit")) == ("0-7", "524288", "KiB")
    small = reshape(after, Shape(1, 1, 256))
    assert read_shape(_tree(small)) == Shape(1, 1, 256)
    assert _rest(small) == _rest(before)
    for gone in ("maxMemory", "cputune", "devices/memory"):
        assert _tree(small).find(gone) is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(RECORDED)),
    st.integers(1, 64),
    st.integers(0, 64),
    st.integers(64, 8192),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.integers(0, 4096),
    st.integers(0, 300),
)
def test_whatever_is_written_is_read(
    name: str, vcpus: int, more: int, memory: int, size: int, requested: int, room: int, tuning: int
) -> None:
    device = size * 4
    limit = memory + device + room if device or room else 0
    shape = Shape(
        vcpus, vcpus + more, memory, limit, 8 if limit else 0, device, min(requested * 4, device), tuning, tuning
    )
    written = reshape(RECORDED[name], shape)
    assert read_shape(_tree(written)) == shape
    assert _rest(written) == _rest(RECORDED[name])


def test_words_of_others_stay_as_they_are() -> None:
    after = reshape(PLAIN, ROOMY)
    for piece in (
        '<own:note xmlns:own="http://example.org/own" own:by="me">own:word <!-- stays --></own:note>',
        'passwd="s3cret &lt;1"',
        "/images/a&amp;b.qcow2",
        "<qemu:commandline><qemu:arg",
    ):
        assert piece in after


def test_dimms_become_boot_memory_and_other_devices_stay() -> None:
    before = _read(DIMMS)
    assert (before.dimms_mib, before.other_mib, before.scaling.memory_slots_used) == (256, 512, 2)
    after = reshape(DIMMS, Shape(2, 4, 1280, 4096, 4, 1024))
    sizes = _read(after)
    assert (sizes.dimms_mib, sizes.other_mib, sizes.scaling.boot_memory_mib) == (0, 512, 1280)
    assert _tree(after).findtext("memory") == str((1280 + 1024 + 512) * 1024)
    assert sizes.scaling.dimm_limit_mib == 4096 + 512
    assert _rest(after) == _rest(DIMMS)


def test_a_device_keeps_its_block_and_place_and_large_pages_make_large_blocks() -> None:
    after = _tree(reshape(GROWN_DEFINITION, ROOMY))
    (device,) = after.findall("devices/memory")
    assert device.find("address") is not None
    assert device.findtext("target/block") == "2048"
    assert _tree(reshape(HUGE, ROOMY)).findtext("devices/memory/target/block") == "4096"
    with pytest.raises(MemoryMisaligned, match="blocks of 4 MiB"):
        reshape(HUGE, Shape(1, 1, 512, 4096, 8, 1024, 514))


def test_a_topology_gets_whole_sockets() -> None:
    xml = PLAIN.replace("<devices>", "<cpu><topology sockets='1' cores='2' threads='2'/></cpu><devices>")
    after = _tree(reshape(xml, Shape(3, 6, 512)))
    topology = after.find("cpu/topology")
    assert topology is not None
    assert topology.attrib == {"sockets": "2", "cores": "2", "threads": "2"}
    assert after.findtext("vcpu") == "8"


def test_vcpus_that_are_listed_are_listed_anew() -> None:
    after = _tree(reshape(GROWN_DEFINITION, Shape(3, 4, 512)))
    listed = [(one.get("id"), one.get("enabled"), one.get("hotpluggable")) for one in after.findall("vcpus/vcpu")]
    assert listed == [("0", "yes", "no"), ("1", "yes", "yes"), ("2", "yes", "yes"), ("3", "no", "yes")]


def test_cpu_tuning_alone() -> None:
    tuned = _tree(tune_cpu(PLAIN, 120, 75))
    assert (tuned.findtext("cputune/shares"), tuned.findtext("cputune/global_quota")) == ("120", "75000")
    pinned = PLAIN.replace("<os>", "<cputune><shares>9</shares><vcpupin vcpu='0' cpuset='1'/></cputune><os>")
    cleared = _tree(tune_cpu(pinned, 0, 0)).find("cputune")
    assert cleared is not None
    assert [one.tag for one in cleared] == ["vcpupin"]


@pytest.mark.parametrize(
    ("xml", "shape", "error", "words"),
    [
        (TWO_CELLS, ROOMY, ResizeFailed, "2 NUMA cells"),
        (PLAIN, Shape(0, 1, 512), ResizeFailed, "no vCPU"),
        (PLAIN, Shape(4, 2, 512), ResizeFailed, "fewer than 4"),
        (PLAIN, Shape(1, 1, 512, 4096, 8, 1024, 2048), ResizeFailed, "more is requested"),
        (PLAIN, Shape(1, 1, 512, 4096, 8, 1023), MemoryMisaligned, "blocks of 2 MiB"),
        (PLAIN, Shape(1, 1, 512, 1024, 8, 1024), CeilingExceeded, "1536 MiB"),
    ],
)
def test_shapes_that_cannot_be(xml: str, shape: Shape, error: type[ResizeFailed], words: str) -> None:
    with pytest.raises(error, match=words) as refusal:
        reshape(xml, shape)
    assert refusal.value.remedy


def _error(code: int, message: str, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    error = libvirt.libvirtError("call failed")
    error.err = (code, domain, message, 2, "", "", "", -1, -1)
    return error


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (67, "Attaching memory device with size '525312' would exceed domain's maxMemory config size '524288'",
         CeilingExceeded),
        (67, "memory device count '9' exceeds slots count '8'", SlotsExhausted),
        (67, "no free memory device slot available", SlotsExhausted),
        (67, "cannot use/hotplug a memory device when domain 'maxMemory' is not defined", CeilingExceeded),
        (67, "non unique alias detected: ua-dimm0", ResizeFailed),
        (67, "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count", VcpusNotRemovable),
        (8, "requested vcpus is greater than max allowable vcpus for the live domain: 5 > 4", CeilingExceeded),
        (8, "cannot set memory higher than max memory", CeilingExceeded),
        (8, "memory not found", ResizeFailed),
        (55, "cannot resize the maximum memory on an active domain", CeilingExceeded),
        (55, "domain is not running", VmNotRunning),
        (55, "something else", ResizeFailed),
        (68, "vcpu unplug request timed out. Unplug result must be manually inspected in the domain",
         VcpusNotRemovable),
        (68, "cannot acquire state change lock (held by monitor=remoteDispatchDomainMigratePerform3Params)", Busy),
        (35, "requested size must be smaller than or equal to @size (524288KiB)", CeilingExceeded),
        (35, "requested size must be an integer multiple of block size", MemoryMisaligned),
        (1, "unable to execute QEMU command 'device_del'", ResizeFailed),
        (42, "Domain not found", VmNotFound),
        (88, "access denied", AuthenticationFailed),
        (4711, "what nobody knows yet", ResizeFailed),
    ],
)  # fmt: skip
def test_refusals_by_code_and_words(code: int, message: str, expected: type[HypervisorError]) -> None:
    found = resize_error(_error(code, message))
    assert type(found) is expected
    assert (found.detail, found.platform_code) == (message, f"libvirt-{code}")
    assert found.remedy


class _Domain:
    """A running domain that refuses changes of its definition."""

    def __init__(self, xml: str = GROWN, agent: str = "") -> None:
        self.xml = xml
        self.agent = agent
        self.live: list[int] = []

    def name(self) -> str:
        return "web"

    def isActive(self) -> bool:
        return True

    def isPersistent(self) -> bool:
        return True

    def state(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING, 1]

    def jobInfo(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_JOB_NONE]

    def XMLDesc(self, _flags: int) -> str:
        return self.xml

    def vcpusFlags(self, _affect: int) -> int:
        return 2

    def setVcpusFlags(self, count: int, affect: int) -> None:
        if affect == scaling.CONFIG:
            raise _error(8, "the definition is read-only")
        self.live.append(count)

    def memoryStats(self) -> dict[str, int]:
        return {"actual": 655360, "available": 1159240, "usable": 1100000}

    def schedulerType(self) -> list[Any]:
        raise _error(55, "cgroup CPU controller is not mounted")


def test_a_change_that_will_not_outlive_a_restart_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = _Domain()
    monkeypatch.setattr(scaling, "find_domain", lambda _handle, _ref: domain)
    with pytest.raises(ResizeFailed, match=r"started without.*the definition is read-only") as refusal:
        scaling.resize(None, "ref", ResizeStep(ResizeKind.VCPUS, 3))
    assert domain.live == [3]
    assert refusal.value.platform_code == "libvirt-8"


@pytest.mark.parametrize(
    ("answer", "vcpus"),
    [
        ('{"return":[{"online":true,"logical-id":0},{"online":false,"logical-id":1}]}', 1),
        ('{"return":"nonsense"}', None),
        ("", None),
    ],
)
def test_the_guest_tells_what_it_can(monkeypatch: pytest.MonkeyPatch, answer: str, vcpus: int | None) -> None:
    def ask(_domain: object, _command: str, seconds: int, _flags: int) -> str:
        assert seconds <= 2
        if not answer:
            raise _error(86, "Guest agent is not responding")
        return answer

    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>"
    domain = _Domain(GROWN.replace("</devices>", f"{channel}</devices>"))
    monkeypatch.setattr(scaling, "find_domain", lambda _handle, _ref: domain)
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", ask)
    state = scaling.read(None, "ref")
    assert (state.guest.memory_mib, state.guest.memory_used_mib, state.guest.vcpus) == (1132, 58, vcpus)
    assert not state.cpu_control
