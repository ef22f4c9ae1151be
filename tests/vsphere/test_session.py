"""One login for all, renewed once when vSphere forgets it; connections that are bounded, reused and ended."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pyVmomi import vim

from cloudops.hypervisors import registry
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    Busy,
    EndpointSpec,
    HypervisorError,
    Kind,
    NotSupported,
    TimedOut,
    Unreachable,
)
from cloudops.hypervisors.vsphere import tasks
from cloudops.hypervisors.vsphere.address import InvalidAddress, parse
from cloudops.hypervisors.vsphere.link import Link, best_version
from cloudops.hypervisors.vsphere.lookup import find_vm
from cloudops.hypervisors.vsphere.session import Session
from tests.hypervisors.contract import eventually, opened
from tests.vsphere.fake import FakeVcenter

SLACK_SECONDS = 3.0
LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)


def _now(link: Link) -> object:
    return vim.ServiceInstance("ServiceInstance", link.stub).CurrentTime()


def _key(link: Link) -> str:
    manager = link.content.sessionManager
    current = manager.currentSession if manager is not None else None
    return str(current.key) if current is not None else ""


@pytest.fixture
def session(vcenter: FakeVcenter) -> Iterator[Session]:
    made = Session(vcenter.spec(timeout_seconds=15.0))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("uri", "host", "port", "shown"),
    [
        ("https://vc.example.org", "vc.example.org", 443, "vc.example.org"),
        ("https://vc.example.org:8443/", "vc.example.org", 8443, "vc.example.org:8443"),
        (" https://[2001:db8::1]/sdk ", "2001:db8::1", 443, "[2001:db8::1]"),
        ("https://192.0.2.7/ui/", "192.0.2.7", 443, "192.0.2.7"),
    ],
)
def test_addresses(uri: str, host: str, port: int, shown: str) -> None:
    address = parse(uri)
    assert (address.host, address.port, str(address)) == (host, port, shown)


@pytest.mark.parametrize(
    "uri",
    [
        "vc.example.org",
        "http://vc.example.org",
        "https://",
        "https://a:b@vc",
        "https://vc/other",
        "https://vc:99999",
        "https://vc?x=1",
    ],
)
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(InvalidAddress):
        registry.create(EndpointSpec(key="x", kind=Kind.VSPHERE, uri=uri))


def _versions(*names: str) -> bytes:
    listed = "".join(f"<version>{name}</version>" for name in names[1:])
    return (
        f'<namespaces version="1.0"><namespace><name>urn:vim25</name><version>{names[0]}</version>'
        f"<priorVersions>{listed}</priorVersions></namespace></namespaces>"
    ).encode()


def test_the_newest_version_that_both_know_is_spoken() -> None:
    assert best_version(_versions("99.0.0.0", "8.0.1.0", "7.0")) == "vim.version.v8_0_1_0"
    assert best_version(_versions("6.7", "6.5")) == "vim.version.version12"  # pyvmomi's name for 6.7
    with pytest.raises(NotSupported, match=r"99\.0"):
        best_version(_versions("99.0"))
    for nonsense in (b"<html>", b"<html></html>", b"", b"<namespaces/>"):
        with pytest.raises(Unreachable):
            best_version(nonsense)


def test_one_login_and_few_connections_serve_many_calls(vcenter: FakeVcenter, session: Session) -> None:
    keys = {session.call(_key) for _ in range(5)}
    with ThreadPoolExecutor(4) as pool:
        keys |= set(pool.map(lambda _: session.call(_key), range(20)))
    assert len(keys) == 1
    assert vcenter.calls("Login") == 1
    assert vcenter.calls("RetrieveServiceContent") <= 4


def test_a_login_that_was_forgotten_is_renewed_once_for_all(vcenter: FakeVcenter, session: Session) -> None:
    first = session.call(_key)
    barrier = threading.Barrier(4)

    def read(_: int) -> str:
        barrier.wait(10)
        return session.call(lambda link: str(link.content.rootFolder.name) and _key(link))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))  # four connections
        vcenter.faults.expire_sessions()
        keys = set(pool.map(read, range(4)))
    assert len(keys) == 1
    assert keys != {first}
    assert vcenter.calls("Login") == 2


def test_a_login_that_is_forgotten_at_once_again_is_told(vcenter: FakeVcenter, session: Session) -> None:
    calls = 0

    def never(link: Link) -> None:
        nonlocal calls
        calls += 1
        raise vim.fault.NotAuthenticated

    with pytest.raises(AuthenticationFailed, match="nobody is logged in"):
        session.call(never)
    assert calls == 2
    assert session.call(_now)


def test_a_task_is_begun_once_however_often_logins_are_lost(vcenter: FakeVcenter, session: Session) -> None:
    reference = vcenter.vm("vm-0001").instance_uuid

    def stop(link: Link) -> None:
        found = find_vm(link, reference)
        with vcenter.faults.holding("PowerOffVM_Task"):
            task = found.vm.PowerOffVM_Task()
            vcenter.faults.expire_sessions()
            assert tasks.info(link, task).state == vim.TaskInfo.State.running
            vcenter.faults.expire_sessions()
        tasks.wait(link, task)

    session.call(stop)
    assert vcenter.calls("PowerOffVM_Task") == 1
    assert vcenter.vm("vm-0001").power == "poweredOff"


def test_a_task_that_takes_long_is_left_going_in_words(vcenter: FakeVcenter, session: Session) -> None:
    reference = vcenter.vm("vm-0001").instance_uuid
    with vcenter.faults.holding("PowerOffVM_Task"):
        with pytest.raises(TimedOut, match="goes on"):
            session.call(lambda link: tasks.wait(link, find_vm(link, reference).vm.PowerOffVM_Task(), 0.2))
        with pytest.raises(Busy):
            session.call(lambda link: find_vm(link, reference).vm.ResetVM_Task())
        other = vcenter.vm("vm-0002").instance_uuid
        session.call(lambda link: tasks.settle(link, find_vm(link, other).vm.PowerOffVM_Task(), 0.2))
    eventually(lambda: vcenter.vm("vm-0001").power == "poweredOff")


def test_a_wrong_password_is_not_tried_again_and_again(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec(secret="wrong")) as hypervisor:
        for _ in range(10):
            with pytest.raises(AuthenticationFailed):
                hypervisor.hosts()
    assert vcenter.calls("Login") <= 2


def test_many_that_wait_for_a_login_that_fails_do_not_all_try(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec(secret="wrong")) as hypervisor, ThreadPoolExecutor(8) as pool:
        failed = [pool.submit(hypervisor.hosts) for _ in range(8)]
        assert {type(one.exception(20)) for one in failed} == {AuthenticationFailed}
    assert vcenter.calls("Login") <= 2


def test_a_password_that_was_changed_meanwhile_is_not_tried_again_and_again(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec()) as hypervisor:
        hypervisor.hosts()
        vcenter.service.password = "another"
        vcenter.faults.expire_sessions()
        logins = vcenter.calls("Login")
        for _ in range(10):
            with pytest.raises(AuthenticationFailed):
                hypervisor.vms()
        assert vcenter.calls("Login") <= logins + 2
        vcenter.service.password = vcenter.password
        eventually(lambda: _answers(hypervisor.vms))


def test_a_process_with_many_sockets_keeps_its_connections(vcenter: FakeVcenter, session: Session) -> None:
    """select() knows no descriptor above 1023; a web process with many consoles has them."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(4096, LIMITS[0]), LIMITS[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        session.call(_now)
        session.call(_now)
        assert vcenter.calls("RetrieveServiceContent") == 1
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)


def _in_time(spec: EndpointSpec, call: Callable[[], object]) -> HypervisorError:
    began = time.monotonic()
    with pytest.raises(Unreachable) as refused:
        call()
    assert time.monotonic() - began < spec.timeout_seconds + SLACK_SECONDS
    return refused.value


def test_a_frozen_vcenter_is_given_up_in_time_and_found_again(vcenter: FakeVcenter) -> None:
    spec = vcenter.spec(timeout_seconds=1.5)
    with opened(spec) as hypervisor, opened(replace(spec, key="fresh")) as fresh:
        eventually(lambda: _answers(hypervisor.hosts))
        vcenter.faults.freeze("vcenter")
        for one in (hypervisor, fresh):
            error = _in_time(spec, one.vms)
            assert isinstance(error, TimedOut)
            assert error.remedy
        vcenter.faults.thaw("vcenter")
        eventually(lambda: _answers(hypervisor.vms))
        eventually(lambda: _answers(fresh.vms))


def test_a_slow_answer_is_given_up_and_the_next_call_is_on_a_new_connection(vcenter: FakeVcenter) -> None:
    spec = vcenter.spec(timeout_seconds=1.5)
    with opened(spec) as hypervisor:
        eventually(lambda: _answers(hypervisor.hosts))
        vcenter.faults.latency(30, "RetrievePropertiesEx")
        assert isinstance(_in_time(spec, hypervisor.vms), TimedOut)
        vcenter.faults.latency(0, "RetrievePropertiesEx")
        eventually(lambda: _answers(hypervisor.vms))


def test_connections_that_vcenter_closed_meanwhile_are_not_used(vcenter: FakeVcenter, session: Session) -> None:
    assert session.call(_now)
    vcenter.faults.down("vcenter")
    with pytest.raises(Unreachable):
        session.call(_now)
    vcenter.faults.up("vcenter")
    eventually(lambda: _answers(lambda: session.call(_now)))
    assert session.call(_now)


def test_closing_ends_calls_under_way_and_logs_out(vcenter: FakeVcenter) -> None:
    session = Session(vcenter.spec(timeout_seconds=30.0))
    session.call(_now)
    vcenter.faults.latency(30, "CurrentTime")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.call, _now)
        eventually(lambda: vcenter.calls("CurrentTime") == 2)
        began = time.monotonic()
        session.close()
        error = waiting.exception(10)
    assert isinstance(error, Unreachable)
    assert time.monotonic() - began < 5
    with pytest.raises(Unreachable):
        session.call(_now)
    session.close()

    other = Session(vcenter.spec())
    other.call(lambda link: link.content.rootFolder.name)
    other.close()
    assert vcenter.calls("Logout") == 1


def test_a_defect_of_ours_surfaces_and_its_connection_is_not_kept(vcenter: FakeVcenter, session: Session) -> None:
    def wrong(link: Link) -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        session.call(wrong)
    assert session.call(_now)


def _answers(call: Callable[[], object]) -> bool:
    try:
        return bool(call())
    except HypervisorError:
        return False
