"""The libvirt driver against a real libvirtd and QEMU."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloudops.hypervisors import registry
from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.libvirt.pool import IDLE_SECONDS, MAX_IDLE, SessionPool
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.libvirt.uri import parse_uri
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    CertificateMismatch,
    EndpointSpec,
    EventKind,
    HypervisorError,
    Kind,
    NoConsole,
    PowerState,
    TimedOut,
    Transport,
    Unreachable,
)
from cloudops.lab.domain import GuestSpec
from tests.hypervisors.certificates import Authority
from tests.hypervisors.conftest import LibvirtLab
from tests.hypervisors.contract import SLACK_SECONDS, Events, HypervisorContract, Subject, eventually, opened
from tests.hypervisors.rfb import RfbClient

pytestmark = pytest.mark.real


def _spec(uri: str, timeout_seconds: float = 10.0) -> EndpointSpec:
    return EndpointSpec(key=uri, kind=Kind.LIBVIRT, uri=uri, timeout_seconds=timeout_seconds, keepalive_seconds=1)


class TestLibvirt(HypervisorContract):
    @pytest.fixture(params=["unix", "tcp", "tls", "ssh"])
    def subject(self, request: pytest.FixtureRequest, libvirt_lab: LibvirtLab) -> Subject:
        host = libvirt_lab.host
        return Subject(
            spec=_spec(libvirt_lab.uris[request.param]),
            running=libvirt_lab.one,
            stopped=libvirt_lab.two,
            hang=host.freeze,
            unhang=host.thaw,
            disconnect=host.kill_daemon,
            reconnect=lambda: None,  # its supervisor starts it again
        )


def test_a_remote_console_is_where_the_vm_listens(libvirt_lab: LibvirtLab) -> None:
    with opened(_spec(libvirt_lab.uris["tcp"])) as hypervisor:
        endpoint = hypervisor.console(libvirt_lab.one)
        assert endpoint.transport is Transport.TCP
        assert endpoint.host == "127.0.0.1"
        assert endpoint.port == 5900 + int(libvirt_lab.host.virsh("domdisplay", "one").rpartition(":")[2])
        with RfbClient(endpoint) as console:
            (connection,) = hypervisor.connections(libvirt_lab.one)
            assert (connection.client_host, connection.client_port) == console.line.getsockname()[:2]


def test_a_vm_without_display_has_no_console(libvirt_lab: LibvirtLab) -> None:
    for transport in ("unix", "tcp"):
        with opened(_spec(libvirt_lab.uris[transport])) as hypervisor:
            assert not hypervisor.vm(libvirt_lab.blind).has_console
            for call in (hypervisor.console, hypervisor.screenshot):
                with pytest.raises(NoConsole, match="blind"):
                    call(libvirt_lab.blind)
            assert list(hypervisor.connections(libvirt_lab.blind)) == []


def test_a_display_without_address_is_reached_locally_only(libvirt_lab: LibvirtLab) -> None:
    reference = libvirt_lab.host.ensure_guest(GuestSpec("hidden", memory_mib=32, vnc_listen=""))
    try:
        with opened(_spec(libvirt_lab.uris["unix"])) as local, RfbClient(local.console(reference)) as console:
            assert console.picture()
        with opened(_spec(libvirt_lab.uris["tcp"])) as remote, pytest.raises(NoConsole) as refusal:
            remote.console(reference)
        assert "unix socket" in refusal.value.remedy
    finally:
        libvirt_lab.host.virsh("destroy", "hidden")
        libvirt_lab.host.virsh("undefine", "hidden")


def test_a_vnc_password_is_read_and_never_shown(libvirt_lab: LibvirtLab) -> None:
    reference = libvirt_lab.host.ensure_guest(GuestSpec("locked", memory_mib=32, vnc_password="s3cret-1"))
    try:
        with opened(_spec(libvirt_lab.uris["tcp"])) as remote:
            endpoint = remote.console(reference)
            assert endpoint.password == "s3cret-1"
            assert "s3cret" not in repr(endpoint)
        with opened(_spec(libvirt_lab.uris["unix"])) as local, RfbClient(local.console(reference)) as console:
            assert console.picture()
    finally:
        libvirt_lab.host.virsh("destroy", "locked")
        libvirt_lab.host.virsh("undefine", "locked")


def test_facts_are_what_was_defined(libvirt_lab: LibvirtLab) -> None:
    with opened(_spec(libvirt_lab.uris["unix"])) as hypervisor:
        (host,) = hypervisor.hosts()
        assert host.ref == libvirt_lab.host.uuid
        assert host.name == "libvirt-lab"
        total_kib = int(Path("/proc/meminfo").read_text().split()[1])
        assert abs(host.memory_mib - total_kib // 1024) < 64
        assert "QEMU" in host.hypervisor_version
        assert host.cpu_percent is None
        eventually(lambda: hypervisor.hosts()[0].cpu_percent is not None)
        vm = hypervisor.vm(libvirt_lab.one)
        assert (vm.name, vm.vcpus, vm.memory_mib) == ("one", 1, 32)
        assert vm.scaling is not None
        assert (vm.scaling.max_vcpus, vm.scaling.dimm_limit_mib, vm.scaling.memory_slots) == (4, 2048, 8)
        # Boot memory, virtio-mem, and three DIMMs of 128 MiB.
        assert vm.scaling.max_memory_mib == 32 + 1536 + 3 * 128


@pytest.mark.fault
def test_a_killed_qemu_is_a_crashed_vm(libvirt_lab: LibvirtLab) -> None:
    with opened(_spec(libvirt_lab.uris["unix"])) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        libvirt_lab.host.ensure_guest(GuestSpec("two", memory_mib=32))
        with RfbClient(hypervisor.console(libvirt_lab.two)) as console:
            libvirt_lab.host.kill_guest("two")
            assert console.is_ended()
        events.wait(EventKind.VM_CHANGED, libvirt_lab.two, PowerState.CRASHED)
        assert hypervisor.vm(libvirt_lab.two).power_state is PowerState.CRASHED
    libvirt_lab.host.ensure_guest(GuestSpec("two", memory_mib=32))
    libvirt_lab.host.virsh("destroy", "two")


@pytest.mark.fault
def test_a_stuck_guest_blocks_only_calls_about_itself(libvirt_lab: LibvirtLab) -> None:
    host = libvirt_lab.host
    host.ensure_guest(GuestSpec("two", memory_mib=32))
    pid = host.guest_pid("two")
    with opened(_spec(libvirt_lab.uris["unix"], timeout_seconds=2.0)) as hypervisor:
        hypervisor.hosts()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(TimedOut):
                hypervisor.connections(libvirt_lab.two)
            assert time.monotonic() - began < 2 + SLACK_SECONDS
            began = time.monotonic()
            assert hypervisor.vm(libvirt_lab.two).power_state is PowerState.RUNNING
            assert list(hypervisor.connections(libvirt_lab.one)) == []
            assert time.monotonic() - began < 1
            # However many calls get stuck, the others find a way on.
            for _ in range(2):
                with pytest.raises(Unreachable):
                    hypervisor.connections(libvirt_lab.two)
            eventually(lambda: _succeeds(lambda: hypervisor.vm(libvirt_lab.one)))
        finally:
            os.kill(pid, signal.SIGCONT)
    host.virsh("destroy", "two")


def _succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except HypervisorError:
        return False
    return True


@contextmanager
def silent_listener() -> Iterator[int]:
    """A TCP port that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.fault
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_silent_port_is_given_up_in_time(transport: str) -> None:
    with silent_listener() as port:
        spec = _spec(f"qemu+{transport}://127.0.0.1:{port}/system?no_verify=1", timeout_seconds=1.0)
        with opened(spec) as hypervisor:
            began = time.monotonic()
            with pytest.raises(TimedOut):
                hypervisor.hosts()
            assert time.monotonic() - began < 1 + SLACK_SECONDS
            # Right after a failure nobody waits again.
            began = time.monotonic()
            with pytest.raises(Unreachable, match="Next attempt in"):
                hypervisor.hosts()
            assert time.monotonic() - began < 0.3
        steps = registry.probe(spec)
        assert [step.ok for step in steps] == [True] * (len(steps) - 1) + [False]
        assert steps[-1].remedy


def test_a_socket_whose_queue_is_full_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        fillers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for filler in fillers:
            filler.settimeout(0)
            _quietly_connect(filler, str(path))
        with opened(_spec(f"qemu+unix:///system?socket={path}", 1.0)) as hypervisor, pytest.raises(Unreachable):
            hypervisor.hosts()
        for filler in fillers:
            filler.close()


def _quietly_connect(line: socket.socket, path: str) -> None:
    try:
        line.connect(path)
    except BlockingIOError:
        pass


@pytest.mark.parametrize(
    ("uri", "failing_step", "words"),
    [
        ("qemu+unix:///system?socket=/nowhere/libvirt-sock", "Find the socket", "systemctl start libvirtd"),
        ("qemu+tcp://127.0.0.1:1/system", "Connect", "firewall"),
        ("qemu+tcp://no-such-host.invalid/system", "Resolve the name", "DNS"),
        ("qemu+ssh://nobody@127.0.0.1/system", "libvirt answers", "authorized_keys"),
        ("qemu+ssh://stranger@127.0.0.1/system", "libvirt answers", "Log in to the host once"),
    ],
)
def test_the_probe_says_what_fails_and_how_to_mend_it(uri: str, failing_step: str, words: str, fake_ssh: None) -> None:
    *before, failed = registry.probe(_spec(uri, timeout_seconds=5.0))
    assert all(step.ok for step in before)
    assert not failed.ok
    assert failing_step in failed.name
    assert words in failed.remedy
    assert failed.detail


def test_a_wrong_uri_is_a_failed_probe() -> None:
    (step,) = registry.probe(_spec("xen:///system"))
    assert not step.ok
    assert "qemu" in step.remedy


def test_a_pinned_certificate_is_enough_and_must_match(libvirt_lab: LibvirtLab) -> None:
    pinned = replace(_spec(libvirt_lab.uris["tls"]), certificate_sha256=libvirt_lab.server_sha256.upper())
    with opened(pinned) as hypervisor:
        assert hypervisor.hosts()
    wrong = replace(pinned, certificate_sha256="ab" * 32)
    with opened(wrong) as hypervisor, pytest.raises(CertificateMismatch) as refusal:
        hypervisor.hosts()
    assert refusal.value.numbers["found"] == libvirt_lab.server_sha256


def test_certificates_of_another_authority_are_refused(libvirt_lab: LibvirtLab, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "another authority")
    stranger.issue("client")
    address = libvirt_lab.uris["tls"].partition("?")[0]
    with opened(_spec(f"{address}?pkipath={tmp_path}")) as hypervisor, pytest.raises(CertificateMismatch):
        hypervisor.hosts()
    # We trust the host, but the host does not trust us.
    unverified = _spec(f"{address}?pkipath={tmp_path}&no_verify=1")
    with opened(unverified) as hypervisor, pytest.raises(AuthenticationFailed):
        hypervisor.hosts()
    with (
        opened(_spec(f"{address}?pkipath={tmp_path / 'none'}")) as hypervisor,
        pytest.raises(AuthenticationFailed) as no,
    ):
        hypervisor.hosts()
    assert "cacert.pem" in no.value.remedy


def test_idle_connections_are_given_up(libvirt_lab: LibvirtLab) -> None:
    made: list[Session] = []

    def make() -> Session:
        made.append(Session(spec, parse_uri(spec.uri)))
        return made[-1]

    spec = _spec(libvirt_lab.uris["unix"])
    pool = SessionPool(make, Backoff())
    deadline = time.monotonic() + 10
    with pool.session(deadline), pool.session(deadline), pool.session(deadline):
        pass
    assert [session.is_alive for session in made].count(True) == MAX_IDLE
    with pool.session(deadline) as again:
        assert again in made
    pool.trim(time.monotonic())
    assert [session.is_alive for session in made].count(True) == MAX_IDLE
    pool.trim(time.monotonic() + IDLE_SECONDS + 1)
    assert not any(session.is_alive for session in made)
    pool.close()
    with pytest.raises(Unreachable), pool.session(deadline):
        pass


def test_connections_leave_nothing_behind(libvirt_lab: LibvirtLab) -> None:
    def use(transport: str) -> None:
        with opened(_spec(libvirt_lab.uris[transport])) as hypervisor:
            hypervisor.subscribe(lambda _event: None)
            with RfbClient(hypervisor.console(libvirt_lab.one)):
                pass
            assert hypervisor.vms()

    for transport in libvirt_lab.uris:
        use(transport)
    time.sleep(0.5)
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        for transport in libvirt_lab.uris:
            use(transport)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2)
    eventually(lambda: threading.active_count() <= threads + 1)
