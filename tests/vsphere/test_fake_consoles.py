"""The fake's displays: tickets, limits, closing from either side, relaying to a VNC server; and half-open sockets."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hypervisors.websocket import Ended, Refused
from tests.vsphere.client import (
    Display,
    done,
    eventually,
    find_host,
    find_vm,
    logged_in,
    pinned,
    raises,
)
from tests.vsphere.fake import FakeVcenter, HostPlan
from tests.vsphere.fake.types import vim, vmodl


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    with FakeVcenter(hosts=2, vms=2, task_seconds=0.02) as running:
        yield running


@pytest.fixture
def vm(vcenter: FakeVcenter) -> Iterator[Any]:
    with logged_in(vcenter) as instance:
        yield find_vm(instance, vcenter, "vm-0001")


def refused(vcenter: FakeVcenter, ticket: Any, **changed: str) -> int:
    with pytest.raises(Refused) as caught:
        Display(vcenter, ticket, **changed)
    return caught.value.status


def test_a_ticket_shows_the_vm_once(vcenter: FakeVcenter, vm: Any) -> None:
    ticket = vm.AcquireTicket("webmks")
    der = ssl.PEM_cert_to_DER_cert(vcenter.host("esx-01.lab.example.org").certificate_pem)
    prints = {one.hashAlgorithm: one.thumbprint.replace(":", "").lower() for one in ticket.certThumbprintList}
    assert prints["sha256"] == hashlib.sha256(der).hexdigest()
    assert ticket.sslThumbprint.replace(":", "").lower() == prints["sha1"] == hashlib.sha1(der).hexdigest()  # noqa: S324
    assert refused(vcenter, ticket, subprotocol="vmware-vvc") == 400
    with Display(vcenter, ticket) as display:
        assert display.shake_hands() == "vm-0001 on esx-01.lab.example.org"
        assert refused(vcenter, ticket) == 404, "a ticket is for once"
        (connection,) = vm.QueryConnections()
        assert connection.userName == vcenter.username
        assert vm.runtime.numMksConnections == 1
    eventually(lambda: vm.runtime.numMksConnections == 0)
    assert not vm.QueryConnections()
    with raises(vmodl.fault.InvalidArgument):
        vm.AcquireTicket("mks")


def test_tickets_expire_and_belong_to_their_host(vcenter: FakeVcenter, vm: Any) -> None:
    vcenter.service.consoles.ticket_seconds = 0
    assert refused(vcenter, vm.AcquireTicket("webmks")) == 404
    vcenter.service.consoles.ticket_seconds = 30
    ticket = vm.AcquireTicket("webmks")
    vcenter.world.place(vcenter.vm("vm-0001"), vcenter.host("esx-02.lab.example.org"))
    assert refused(vcenter, ticket) == 404


def test_the_limit_counts_connections_and_frees_at_once(vcenter: FakeVcenter, vm: Any) -> None:
    with vcenter.world.lock:
        vcenter.vm("vm-0001").max_connections = 3
        vcenter.world.changed(vcenter.vm("vm-0001"))
    spare = vm.AcquireTicket("webmks")
    displays = [Display(vcenter, vm.AcquireTicket("webmks")) for _ in range(3)]
    try:
        for display in displays:
            display.shake_hands()
        with raises(vim.fault.MksConnectionLimitReached) as caught:
            vm.AcquireTicket("webmks")
        assert caught.value.connectionLimit == 3
        assert refused(vcenter, spare) == 503
        displays[0].close()
        eventually(lambda: vcenter.connections("vm-0001") == 2)
        two = vm.QueryConnections()
        assert vm.DropConnections(two[:1])
        assert vm.runtime.numMksConnections == 1
        with pytest.raises(Ended) as closed:
            displays[1].read(1)
        assert closed.value.code == 1008
        assert not vm.DropConnections(two[:1]), "it is gone already"
        done(vm.PowerOffVM_Task())
        assert vcenter.connections() == 0
        with raises(vim.fault.InvalidPowerState):
            vm.AcquireTicket("webmks")
    finally:
        for display in displays:
            display.close()


def test_vmotion_ends_displays(vcenter: FakeVcenter, vm: Any) -> None:
    with Display(vcenter, vm.AcquireTicket("webmks")) as display, logged_in(vcenter) as instance:
        display.shake_hands()
        done(vm.MigrateVM_Task(host=find_host(instance, "esx-02.lab.example.org"), priority="defaultPriority"))
        with pytest.raises(Ended):
            display.read(1)
        assert vcenter.connections() == 0
        with Display(vcenter, vm.AcquireTicket("webmks")) as again:
            assert again.shake_hands() == "vm-0001 on esx-02.lab.example.org"


def test_a_cut_line_is_noticed_and_a_silent_one_is_not(vcenter: FakeVcenter, vm: Any) -> None:
    display = Display(vcenter, vm.AcquireTicket("webmks"))
    display.shake_hands()
    assert vm.runtime.numMksConnections == 1, "a client that says nothing stays"
    display.line.shutdown(socket.SHUT_RDWR)
    eventually(lambda: vcenter.connections() == 0)
    display.close()


def test_a_frozen_host_answers_nobody(vcenter: FakeVcenter, vm: Any) -> None:
    name = "esx-01.lab.example.org"
    display = Display(vcenter, vm.AcquireTicket("webmks"))
    display.shake_hands()
    ticket = vm.AcquireTicket("webmks")
    vcenter.faults.freeze(name)
    display.line.settimeout(0.2)
    with pytest.raises(TimeoutError):
        display.line.recv(1)
    with socket.create_connection((ticket.host, ticket.port), 5) as line:
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            pinned(vcenter.host(name).certificate_pem).wrap_socket(line)
    assert vcenter.connections() == 1
    vcenter.faults.thaw(name)
    display.close()
    eventually(lambda: vcenter.connections() == 0)


def test_a_frozen_and_a_stopped_vcenter(vcenter: FakeVcenter, vm: Any) -> None:
    display = Display(vcenter, vm.AcquireTicket("webmks"))
    vcenter.faults.freeze("vcenter")
    with socket.create_connection((vcenter.address, vcenter.port), 5) as line:
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            pinned(vcenter.certificate_pem).wrap_socket(line)
    vcenter.faults.thaw("vcenter")
    vcenter.faults.down("vcenter")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((vcenter.address, vcenter.port), 5)
    display.shake_hands()
    vcenter.faults.up("vcenter")
    with pytest.raises(OSError, match=r"EOF|reset|closed"):
        assert vm.runtime
    assert vm.runtime.numMksConnections == 1, "a vCenter that returns knows its sessions"
    display.close()


def test_a_changed_certificate_is_another(vcenter: FakeVcenter, vm: Any) -> None:
    before, context = vcenter.fingerprint_sha256, pinned(vcenter.certificate_pem)
    assert vcenter.faults.swap_certificate("vcenter") == vcenter.fingerprint_sha256 != before
    with socket.create_connection((vcenter.address, vcenter.port), 5) as line, pytest.raises(ssl.SSLError):
        context.wrap_socket(line)
    old, pem = vm.AcquireTicket("webmks"), vcenter.host("esx-01.lab.example.org").certificate_pem
    vcenter.faults.swap_certificate("esx-01.lab.example.org")
    with pytest.raises(ssl.SSLError):
        Display(vcenter, old, pem=pem)
    Display(vcenter, vm.AcquireTicket("webmks")).close()


def test_what_tickets_call_their_host(vcenter: FakeVcenter, vm: Any) -> None:
    vcenter.faults.ticket_names(None)
    assert vm.AcquireTicket("webmks").host is None
    vcenter.faults.ticket_names("esx.unresolvable.invalid")
    assert vm.AcquireTicket("webmks").host == "esx.unresolvable.invalid"
    assert vm.runtime.host.config.network.vnic[0].spec.ip.ipAddress == vcenter.host("esx-01.lab.example.org").address
    with FakeVcenter([HostPlan("esx")], 1, standalone=True) as single, logged_in(single) as instance:
        single.faults.ticket_names(None)
        ticket = find_vm(instance, single, "vm-0001").AcquireTicket("webmks")
        with Display(single, ticket, host=single.address) as display:
            assert display.shake_hands() == "vm-0001 on esx"


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_real_vnc_server_is_relayed(vcenter: FakeVcenter, vm: Any, tmp_path: Path, family: str) -> None:
    if family == "unix":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "vnc"))
        where = f"unix:{tmp_path / 'vnc'}"
    else:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{listening.getsockname()[1]}"
    listening.listen()
    ended = threading.Event()

    def echo() -> None:
        line, _ = listening.accept()
        with line:
            line.sendall(b"RFB 003.008\n")
            with contextlib.suppress(ConnectionResetError):
                while data := line.recv(4096):
                    line.sendall(data.upper())
        ended.set()

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    vcenter.vm("vm-0001").vnc = where
    with listening, Display(vcenter, vm.AcquireTicket("webmks")) as display:
        assert display.read(12) == b"RFB 003.008\n"
        display.send(b"key")
        assert display.read(3) == b"KEY"
        display.close()
        assert ended.wait(10), "the other side is closed too"
    thread.join(10)


def test_no_display_behind_it_ends_the_connection(vcenter: FakeVcenter, vm: Any, tmp_path: Path) -> None:
    vcenter.vm("vm-0001").vnc = f"unix:{tmp_path / 'nothing'}"
    with Display(vcenter, vm.AcquireTicket("webmks")) as display, pytest.raises(Ended):
        display.read(1)
    eventually(lambda: vcenter.connections() == 0)
