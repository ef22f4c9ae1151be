"""The fake as a process of its own: the same face, told by its control."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.vsphere.client import eventually
from tests.vsphere.fake import FakeProcess
from tests.vsphere.fake.control import ControlError


@pytest.fixture
def fake() -> Iterator[FakeProcess]:
    with FakeProcess(hosts=2, vms=2, vnc={"vm-0002": "127.0.0.1:5900"}) as running:
        yield running


def can_connect(fake: FakeProcess) -> bool:
    host, _, port = fake.uri.removeprefix("https://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        return False
    return True


def test_a_process_is_told_by_its_control(fake: FakeProcess) -> None:
    spec = fake.spec(secret="x")
    assert (spec.uri, spec.secret, len(spec.certificate_sha256)) == (fake.uri, "x", 64)
    first, second = fake.actions.hosts()
    assert fake.actions.vms()["vm-0001"]["host"] == first
    fake.actions.place("vm-0001", second)
    assert fake.actions.hosts()[second]["vms"] == ["vm-0002", "vm-0001"]
    fake.actions.add_vm("newcomer", host=first, memory_mib=512)
    fake.actions.set_vm("newcomer", max_connections=2)
    fake.actions.connect(second, "notResponding")
    assert fake.actions.hosts()[second]["connection"] == "notResponding"
    assert fake.connections() == 0
    assert fake.calls("Login") == 0
    with pytest.raises(ControlError, match="no shoes"):
        fake.actions.set_vm("newcomer", shoes=4)
    fake.faults.deny("System.View", first)
    assert fake.faults.state()["denied"] == [["System.View", first]]
    assert fake.faults.swap_certificate("vcenter") != fake.fingerprint_sha256
    fake.faults.down("vcenter")
    assert not can_connect(fake)
    fake.faults.up("vcenter")
    assert can_connect(fake)
    fake.kill()
    eventually(lambda: not can_connect(fake))
