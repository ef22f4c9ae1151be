"""The libvirt driver's parts that need no host: URIs, XML, errors, events, the link."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.libvirt.dial import ssh_command
from cloudops.hypervisors.libvirt.domains import VncDisplay, power_state, read_domain
from cloudops.hypervisors.libvirt.driver import read_vnc_clients
from cloudops.hypervisors.libvirt.errors import TYPES, translate
from cloudops.hypervisors.libvirt.events import lifecycle_event
from cloudops.hypervisors.libvirt.link import Link
from cloudops.hypervisors.libvirt.uri import InvalidUri, parse_uri
from cloudops.hypervisors.pictures import ppm_to_png
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    Busy,
    EventKind,
    HypervisorError,
    InvalidState,
    NotSupported,
    PowerState,
    TimedOut,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)
from tests.hypervisors.contract import eventually


@pytest.mark.parametrize(
    ("uri", "transport", "host", "port", "user"),
    [
        ("qemu:///system", "unix", "", 0, ""),
        ("qemu+unix:///system?socket=/x/y", "unix", "", 0, ""),
        ("qemu://hv1/system", "tls", "hv1", 16514, ""),
        ("qemu+tls://hv1/system?no_verify=1", "tls", "hv1", 16514, ""),
        ("qemu+tcp://10.0.0.1:16510/system", "tcp", "10.0.0.1", 16510, ""),
        ("qemu+tcp://[fd00::1]/system", "tcp", "fd00::1", 16509, ""),
        ("qemu+ssh://root@hv1/system", "ssh", "hv1", 0, "root"),
        ("qemu+ssh://root@hv1:2222/session", "ssh", "hv1", 2222, "root"),
    ],
)
def test_uris(uri: str, transport: str, host: str, port: int, user: str) -> None:
    parsed = parse_uri(uri)
    assert (parsed.transport, parsed.host, parsed.port, parsed.user) == (transport, host, port, user)
    assert parsed.is_local == (transport == "unix")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "xen:///system",
        "qemu+libssh2://hv/system",
        "qemu+tcp:///system",
        "qemu:///",
        "qemu://h:port/system",
        "http://x/",
    ],
)
def test_wrong_uris(uri: str) -> None:
    with pytest.raises(InvalidUri) as refusal:
        parse_uri(uri)
    assert repr(uri) in refusal.value.detail
    assert "qemu:///system" in refusal.value.remedy


def test_sockets_of_both_kinds_of_daemon_are_known() -> None:
    assert [path.name for path in parse_uri("qemu:///system").socket_candidates()] == ["libvirt-sock", "virtqemud-sock"]
    assert parse_uri("qemu+unix:///system?socket=/x").socket_candidates() == [Path("/x")]


def test_the_ssh_command_cannot_be_broken_out_of() -> None:
    uri = parse_uri("qemu+ssh://me@hv:2222/system?socket=/a%20b;rm%20-rf&keyfile=/k&no_verify=1&known_hosts=/h")
    command = ssh_command(uri, 5.0)
    assert command[command.index("--") + 1] == "hv"
    assert command[-1].startswith("sh -c ")
    assert "'\"'\"'/a b;rm -rf'\"'\"'" in command[-1]  # quoted, and quoted again for the outer shell
    for words in (["-p", "2222"], ["-l", "me"], ["-i", "/k"], ["-o", "BatchMode=yes"], ["-o", "ConnectTimeout=5"]):
        assert " ".join(words) in " ".join(command)
    assert "virt-ssh-helper qemu:///system" in ssh_command(parse_uri("qemu+ssh://hv/system"), 5.0)[-1]


FULL = """
<domain type='kvm' id='3' xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
  <metadata><libosinfo:libosinfo><libosinfo:os id='http://debian.org/debian/12'/></libosinfo:libosinfo></metadata>
  <maxMemory slots='16' unit='KiB'>8388608</maxMemory>
  <memory unit='KiB'>2097152</memory>
  <currentMemory unit='KiB'>1572864</currentMemory>
  <vcpu placement='static' current='2'>8</vcpu>
  <devices>
    <graphics type='spice' port='5901'/>
    <graphics type='vnc' port='5902' autoport='yes' listen='10.0.0.5' passwd='topsecret'>
      <listen type='address' address='10.0.0.5'/>
    </graphics>
    <memballoon model='virtio'/><memory model='dimm'/><memory model='virtio-mem'/>
  </devices>
</domain>"""


def test_a_full_definition_is_read() -> None:
    domain = read_domain(FULL)
    assert (domain.vcpus, domain.memory_mib, domain.guest_os) == (2, 1536, "debian/12")
    scaling = domain.scaling
    assert (scaling.max_vcpus, scaling.max_memory_mib) == (8, 8192)
    assert (scaling.memory_slots, scaling.memory_slots_used) == (16, 2)
    assert domain.vnc == VncDisplay(index=1, address="10.0.0.5", port=5902, password="topsecret")
    assert "topsecret" not in repr(domain)


@pytest.mark.parametrize(
    ("graphics", "expected"),
    [
        ("", None),
        ("<graphics type='spice' port='5900'/>", None),
        ("<graphics type='vnc' port='-1' autoport='yes'/>", VncDisplay(0, "", 0)),
        ("<graphics type='vnc' port='5900' listen='10.2.2.2'/>", VncDisplay(0, "10.2.2.2", 5900)),
        ("<graphics type='vnc' port='5900'><listen type='network' address='10.1.1.1'/></graphics>",
         VncDisplay(0, "10.1.1.1", 5900)),
        ("<graphics type='vnc'><listen type='socket' socket='/run/x.sock'/></graphics>", VncDisplay(0, "", 0)),
        ("<graphics type='vnc' port='-1'><listen type='none'/></graphics>", VncDisplay(0, "", 0)),
    ],
)  # fmt: skip
def test_displays(graphics: str, expected: VncDisplay | None) -> None:
    assert (
        read_domain(f"<domain><vcpu>1</vcpu><memory>1</memory><devices>{graphics}</devices></domain>").vnc == expected
    )


@pytest.mark.parametrize(
    ("memory", "mib"),
    [
        ("<memory>524288</memory>", 512),
        ("<memory unit='GiB'>2</memory>", 2048),
        ("<memory unit='MB'>1024</memory>", 976),
    ],
)
def test_units_and_what_is_left_out(memory: str, mib: int) -> None:
    domain = read_domain(f"<domain>{memory}</domain>")
    assert (domain.memory_mib, domain.vcpus, domain.scaling.max_memory_mib) == (mib, 1, mib)


def test_power_states() -> None:
    assert power_state(libvirt.VIR_DOMAIN_RUNNING, 1) is PowerState.RUNNING
    assert power_state(libvirt.VIR_DOMAIN_SHUTDOWN, 0) is PowerState.RUNNING
    assert power_state(libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED) is PowerState.OFF
    assert power_state(libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED) is PowerState.CRASHED
    assert power_state(libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED) is PowerState.UNKNOWN
    assert power_state(999, 0) is PowerState.UNKNOWN


def _error(code: int, message: str = "the message", domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    error = libvirt.libvirtError("ignored")
    error.err = (code, domain, message, libvirt.VIR_ERR_ERROR, message, "", "", -1, -1)
    return error


CODES = sorted(
    {
        getattr(libvirt, name)
        for name in dir(libvirt)
        if name.startswith("VIR_ERR_")
        and name not in ("VIR_ERR_NONE", "VIR_ERR_WARNING", "VIR_ERR_ERROR", "VIR_ERR_OK")
    }
)


@pytest.mark.parametrize("code", CODES)
def test_every_libvirt_code_is_a_typed_error_in_its_own_words(code: int) -> None:
    typed = translate(_error(code))
    assert isinstance(typed, TYPES.get(code, HypervisorError))
    assert typed.detail == "the message"
    assert typed.platform_code == f"libvirt-{code}"
    assert typed.remedy


@pytest.mark.parametrize(
    ("code", "message", "domain", "expected"),
    [
        (1, "internal error: client socket is closed", libvirt.VIR_FROM_RPC, Unreachable),
        (1, "internal error: connection closed due to keepalive timeout", libvirt.VIR_FROM_RPC, TimedOut),
        (38, "End of file while reading data: Input/output error", libvirt.VIR_FROM_RPC, Unreachable),
        (38, "cannot open file", libvirt.VIR_FROM_QEMU, HypervisorError),
        (42, "Domain not found", libvirt.VIR_FROM_QEMU, VmNotFound),
        (45, "authentication failed", libvirt.VIR_FROM_RPC, AuthenticationFailed),
        (55, "Requested operation is not valid: domain is not running", libvirt.VIR_FROM_QEMU, VmNotRunning),
        (55, "Requested operation is not valid: domain is already running", libvirt.VIR_FROM_QEMU, InvalidState),
        (67, "unsupported configuration: Attaching memory device", libvirt.VIR_FROM_QEMU, NotSupported),
        (68, "Timed out during operation: cannot acquire state change lock", libvirt.VIR_FROM_QEMU, Busy),
        (68, "Timed out during operation: vcpu unplug request timed out", libvirt.VIR_FROM_QEMU, HypervisorError),
        (9999, "from the future", libvirt.VIR_FROM_QEMU, HypervisorError),
    ],
)
def test_errors_by_meaning(code: int, message: str, domain: int, expected: type[HypervisorError]) -> None:
    assert type(translate(_error(code, message, domain))) is expected


def test_an_error_without_details_is_still_one() -> None:
    assert translate(libvirt.libvirtError("bare words")).detail


@pytest.mark.parametrize(
    ("event", "detail", "kind", "state", "name"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STARTED, 0, EventKind.VM_CHANGED, PowerState.RUNNING, "started"),
        (libvirt.VIR_DOMAIN_EVENT_RESUMED, 1, EventKind.VM_CHANGED, PowerState.RUNNING, "resumed:migrated"),
        (libvirt.VIR_DOMAIN_EVENT_STARTED, 1, EventKind.VM_CHANGED, None, "started:migrated"),
        (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, 1, EventKind.VM_CHANGED, None, "suspended:migrated"),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, 3, EventKind.VM_CHANGED, None, "stopped:migrated"),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, 5, EventKind.VM_CHANGED, PowerState.CRASHED, "crashed"),
        (libvirt.VIR_DOMAIN_EVENT_UNDEFINED, 0, EventKind.VM_REMOVED, None, "undefined"),
        (77, 0, EventKind.VM_CHANGED, None, "changed"),
    ],
)
def test_lifecycle_events(event: int, detail: int, kind: EventKind, state: PowerState | None, name: str) -> None:
    told = lifecycle_event("ref", event, detail)
    assert (told.kind, told.vm_ref, told.power_state, told.detail) == (kind, "ref", state, name)


def test_vnc_clients_are_told_apart() -> None:
    unix = {"family": "unix", "host": "", "service": ""}
    tcp = {"family": "ipv4", "host": "10.0.0.9", "service": "40112", "websocket": True}
    first, second, third = read_vnc_clients({"return": {"enabled": True, "clients": [unix, unix, tcp]}})
    assert len({first.label, second.label, third.label}) == 3
    assert (first.label, second.label, third.label) == ("unix::1", "unix::2", "ipv4:10.0.0.9:40112")
    assert (third.client_host, third.client_port, third.websocket) == ("10.0.0.9", 40112, True)
    assert list(read_vnc_clients({"return": {"enabled": False}})) == []


def test_an_old_qemus_picture_becomes_png() -> None:
    assert ppm_to_png(b"P6\n# from QEMU\n2 1\n255\n" + b"\xff\0\0\0\0\xff").startswith(b"\x89PNG")
    for wrong in (b"GIF89a", b"P6 2 2 255 short"):
        with pytest.raises(HypervisorError):
            ppm_to_png(wrong)


def test_the_backoff_doubles_and_repeats_the_error() -> None:
    backoff = Backoff()
    backoff.check()
    backoff.failed(AuthenticationFailed("wrong key", remedy="the right key"))
    assert 0.3 < backoff.wait_seconds <= 0.5
    with pytest.raises(AuthenticationFailed, match=r"wrong key Next attempt in 0\.[3-5] s") as again:
        backoff.check()
    assert again.value.remedy == "the right key"
    backoff.failed(Unreachable("at the same time"))
    assert backoff.wait_seconds <= 0.5
    eventually(lambda: backoff.wait_seconds == 0)
    backoff.failed(Unreachable("again"))
    assert 0.8 < backoff.wait_seconds <= 1.0
    backoff.succeeded()
    backoff.check()


class _Line:
    """A link with both of its far ends in our hands."""

    def __init__(self, *, passes_descriptors: bool) -> None:
        self.ended: list[str] = []
        self.daemon, upstream = socket.socketpair()
        self.link = Link(upstream, passes_descriptors=passes_descriptors, accept_seconds=5, on_end=self.ended.append)
        self.client = socket.socket(socket.AF_UNIX)
        for line in (self.client, self.daemon):
            line.settimeout(5)
        self.client.connect(str(self.link.path))

    def close(self) -> None:
        self.link.cut("the test is over")
        self.client.close()
        self.daemon.close()


@pytest.fixture
def line() -> Iterator[_Line]:
    line = _Line(passes_descriptors=True)
    yield line
    line.close()
    eventually(lambda: bool(line.ended))


def test_a_link_carries_bytes_both_ways(line: _Line) -> None:
    blob = os.urandom(3_000_000)
    sender = threading.Thread(target=line.client.sendall, args=(blob,))
    sender.start()
    received = b""
    while len(received) < len(blob):
        received += line.daemon.recv(1 << 20)
    sender.join(5)
    assert received == blob
    line.daemon.sendall(b"answer")
    assert line.client.recv(100) == b"answer"
    assert not line.link.path.exists()  # nobody else can connect


def test_a_descriptor_follows_its_message_byte_for_byte(line: _Line) -> None:
    """As libvirt reads it: the message by its length with read(2), then one byte with the descriptor."""
    reader, writer = os.pipe()
    line.daemon.sendall(b"message")
    socket.send_fds(line.daemon, [b"\0"], [writer])
    os.close(writer)
    time.sleep(0.1)
    assert line.client.recv(len("message")) == b"message"
    data, (passed,), _, _ = socket.recv_fds(line.client, 1, 1)
    assert data == b"\0"
    os.write(passed, b"through the descriptor")
    os.close(passed)
    assert os.read(reader, 100) == b"through the descriptor"
    assert os.read(reader, 100) == b""  # no copy of the descriptor was left open
    os.close(reader)


def test_a_cut_ends_both_sides_with_its_reason(line: _Line) -> None:
    line.daemon.sendall(b"x")
    assert line.client.recv(1) == b"x"
    line.link.cut("first reason")
    line.link.cut("second reason")
    assert line.client.recv(1) == b""
    assert line.daemon.recv(1) == b""
    eventually(lambda: line.ended == ["first reason"])
    assert line.link.reason == "first reason"


def test_a_link_tells_who_ended_it(line: _Line) -> None:
    line.daemon.close()
    assert line.client.recv(1) == b""
    eventually(lambda: line.ended == ["the host closed the connection"])
