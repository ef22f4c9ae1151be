"""The driver against the fake: what is read, power, tags, hosts that vCenter has lost, a standalone ESXi host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloudops.hypervisors import registry
from cloudops.hypervisors.port import (
    CertificateMismatch,
    HostNotConnected,
    Hypervisor,
    HypervisorError,
    InvalidState,
    NotSupported,
    Overloaded,
    PowerAction,
    PowerState,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.vsphere import power
from cloudops.hypervisors.vsphere.lanes import MOST_PER_HOST
from tests.hypervisors.contract import eventually, opened
from tests.vsphere.fake import ClusterPlan, DatastorePlan, FakeVcenter, HostPlan, VmPlan

FIRST, SECOND = "esx-01.lab.example.org", "esx-02.lab.example.org"


@pytest.fixture
def hypervisor(vcenter: FakeVcenter) -> Iterator[Hypervisor]:
    with opened(vcenter.spec(timeout_seconds=15.0)) as hypervisor:
        yield hypervisor


def _ref(vcenter: FakeVcenter, name: str = "vm-0001") -> str:
    return vcenter.vm(name).instance_uuid


def test_hosts_are_read_with_cluster_storage_and_networks() -> None:
    hosts = [
        HostPlan(
            "a.example.org", "Berlin", cpu_threads=64, memory_mib=65536, datastores=("san", "own"), networks=("lan",)
        ),
        HostPlan("b.example.org", "", evc_mode="", networks=("lan", "dmz")),
    ]
    stores = [DatastorePlan("san"), DatastorePlan("own", shared=False)]
    plan = [ClusterPlan("Berlin", evc_mode="intel-skylake")]
    with FakeVcenter(hosts, [], clusters=plan, datastores=stores) as vcenter, opened(vcenter.spec()) as hypervisor:
        first, second = sorted(hypervisor.hosts(), key=lambda host: host.name)
    assert (first.name, first.cluster, first.cpu_threads, first.memory_mib) == ("a.example.org", "Berlin", 64, 65536)
    assert (first.datastores, first.networks) == (("san",), ("lan",))
    assert first.cpu_model == "intel-skylake"
    assert first.simulator
    assert first.ref.startswith("host-")
    assert (second.cluster, second.networks) == ("", ("dmz", "lan"))


def test_many_objects_come_in_pages() -> None:
    with FakeVcenter(hosts=3, vms=260) as vcenter, opened(vcenter.spec()) as hypervisor:
        vms = hypervisor.vms()
        assert len({vm.ref for vm in vms}) == 260
        assert vcenter.calls("ContinueRetrievePropertiesEx") >= 1
        assert {vm.host_ref for vm in vms} == {host.ref for host in hypervisor.hosts()}


def test_templates_are_no_vms() -> None:
    vms = [VmPlan("vm"), VmPlan("golden", powered_on=False, template=True)]
    with FakeVcenter(1, vms) as vcenter, opened(vcenter.spec()) as hypervisor:
        assert [vm.name for vm in hypervisor.vms()] == ["vm"]
        with pytest.raises(VmNotFound):
            hypervisor.vm(_ref(vcenter, "golden"))


def test_one_vm_costs_few_requests(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    hypervisor.vm(_ref(vcenter))
    before = sum(vcenter.service.calls.values())
    hypervisor.vm(_ref(vcenter))
    assert sum(vcenter.service.calls.values()) - before == 2


def test_tags_are_taken_from_vcenter(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    vcenter.host(FIRST).tags = ["GPU: A100", "ssd"]
    tags = {host.name: host.tags for host in hypervisor.hosts()}
    assert tags == {FIRST: ("gpu-a100", "ssd"), SECOND: ()}
    logins = vcenter.calls("/api/session")
    vcenter.host(SECOND).tags = ["ssd"]
    assert {host.name: host.tags for host in hypervisor.hosts()}[SECOND] == ("ssd",)
    assert vcenter.calls("/api/session") == logins
    vcenter.faults.expire_sessions()
    assert {host.name: host.tags for host in hypervisor.hosts()}[SECOND] == ("ssd",)
    assert vcenter.calls("/api/session") == logins + 1


def test_an_old_vcenter_tells_no_tags() -> None:
    with FakeVcenter(1, 1, api_version="6.7") as vcenter, opened(vcenter.spec()) as hypervisor:
        (host,) = hypervisor.hosts()
        assert host.tags is None
        assert hypervisor.vms()[0].max_consoles == 40


def test_a_standalone_host(vcenter: FakeVcenter) -> None:
    with FakeVcenter(1, 2, standalone=True) as esxi, opened(esxi.spec()) as hypervisor:
        (host,) = hypervisor.hosts()
        assert (host.cluster, host.tags) == ("", None)
        assert {vm.host_ref for vm in hypervisor.vms()} == {host.ref}
        hypervisor.power(_ref(esxi), PowerAction.STOP)
        eventually(lambda: hypervisor.vm(_ref(esxi)).power_state is PowerState.OFF)


@pytest.mark.parametrize("connection", ["notResponding", "disconnected"])
def test_a_host_that_vcenter_lost_is_told_at_once_and_harms_no_other(
    vcenter: FakeVcenter, hypervisor: Hypervisor, connection: str
) -> None:
    vcenter.world.connect(vcenter.host(FIRST), connection)
    hosts = {host.name: host for host in hypervisor.hosts()}
    assert hosts[FIRST].problem
    assert not hosts[SECOND].problem
    lost, fine = _ref(vcenter, "vm-0001"), _ref(vcenter, "vm-0002")
    assert hypervisor.vm(lost).power_state is PowerState.UNKNOWN
    for call in (
        lambda: hypervisor.console(lost),
        lambda: hypervisor.connections(lost),
        lambda: hypervisor.drop_connections(lost, ["x"]),
        lambda: hypervisor.screenshot(lost),
        lambda: hypervisor.power(lost, PowerAction.STOP),
        lambda: hypervisor.discard(lost),
    ):
        with pytest.raises(HostNotConnected, match=FIRST.replace(".", r"\.")) as refused:
            call()
        assert refused.value.remedy
    assert hypervisor.vm(fine).power_state is PowerState.RUNNING
    assert hypervisor.console(fine).url
    vcenter.world.connect(vcenter.host(FIRST), "connected")
    assert hypervisor.vm(lost).power_state is PowerState.RUNNING


@pytest.mark.fault
def test_a_host_that_answers_nothing_leaves_threads_to_the_others(vcenter: FakeVcenter) -> None:
    """vCenter still takes it for connected, and waits for it."""
    spec = vcenter.spec(key="lanes", timeout_seconds=5.0)
    slow, fine = _ref(vcenter, "vm-0001"), _ref(vcenter, "vm-0002")
    registry.call(spec, lambda driver: driver.hosts())
    vcenter.faults.latency(60, "QueryConnections")
    try:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(registry.call, spec, lambda driver: driver.connections(slow)) for _ in range(8)]
            eventually(lambda: vcenter.calls("QueryConnections") == MOST_PER_HOST)
            began = time.monotonic()
            assert registry.call(spec, lambda driver: driver.console(fine)).url
            assert time.monotonic() - began < spec.timeout_seconds
            errors = [one.exception(20) for one in waiting]
    finally:
        vcenter.faults.clear()
        registry.forget(spec.key)
    assert any(isinstance(error, Overloaded) and FIRST in str(error) for error in errors)
    assert all(isinstance(error, Unreachable) for error in errors)


def test_guests_are_asked_through_vmware_tools(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    vm = vcenter.vm("vm-0001")
    vm.tools_running = False
    for action in (PowerAction.SHUTDOWN, PowerAction.REBOOT):
        with pytest.raises(InvalidState) as refused:
            hypervisor.power(vm.instance_uuid, action)
        assert "VMware Tools" in refused.value.remedy
    vm.tools_running = True
    hypervisor.power(vm.instance_uuid, PowerAction.SHUTDOWN)
    eventually(lambda: hypervisor.vm(vm.instance_uuid).power_state is PowerState.OFF)


def test_a_suspended_vm_has_no_display_and_resumes(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    reference = _ref(vcenter)
    with pytest.raises(InvalidState):
        hypervisor.power(reference, PowerAction.RESUME)
    hypervisor.power(reference, PowerAction.PAUSE)
    assert hypervisor.vm(reference).power_state is PowerState.PAUSED
    with pytest.raises(VmNotRunning):
        hypervisor.console(reference)
    assert list(hypervisor.connections(reference)) == []
    hypervisor.power(reference, PowerAction.RESUME)
    assert hypervisor.vm(reference).power_state is PowerState.RUNNING


def test_a_start_that_fails_says_why_in_its_own_words(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    reference = _ref(vcenter)
    hypervisor.power(reference, PowerAction.STOP)
    vcenter.faults.fail_task("PowerOnVM_Task", "vim.fault.InsufficientMemoryResourcesFault", "No memory is left.")
    with pytest.raises(HypervisorError, match="No memory is left") as refused:
        hypervisor.power(reference, PowerAction.START)
    assert type(refused.value) is HypervisorError  # no word of a migration
    assert refused.value.platform_code == "InsufficientMemoryResourcesFault"
    assert "reservations" in refused.value.remedy


def test_a_power_change_that_takes_long_is_not_waited_for(
    vcenter: FakeVcenter, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "SETTLE_SECONDS", 0.2)
    with vcenter.faults.holding("PowerOffVM_Task"):
        hypervisor.power(_ref(vcenter), PowerAction.STOP)
        assert hypervisor.vm(_ref(vcenter)).power_state is PowerState.RUNNING
    eventually(lambda: hypervisor.vm(_ref(vcenter)).power_state is PowerState.OFF)


def test_only_what_is_off_is_discarded(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    reference = _ref(vcenter)
    with pytest.raises(InvalidState):
        hypervisor.discard(reference)
    hypervisor.power(reference, PowerAction.STOP)
    hypervisor.discard(reference)
    with pytest.raises(VmNotFound):
        hypervisor.vm(reference)
    with pytest.raises(VmNotFound):
        hypervisor.discard(reference)


def test_pictures_are_refused_in_words(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    with pytest.raises(NotSupported, match="folder") as refused:
        hypervisor.screenshot(_ref(vcenter))
    assert "console" in refused.value.remedy


def test_a_rest_api_that_fails_costs_only_the_tags(
    vcenter: FakeVcenter, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError("reset")

    with monkeypatch.context() as patched:
        patched.setattr("cloudops.hypervisors.vsphere.tags.TagReader._send", fail)
        assert {host.tags for host in hypervisor.hosts()} == {None}
    asked = vcenter.calls("/api/session")
    assert {host.tags for host in hypervisor.hosts()} == {None}  # left alone for a while
    assert vcenter.calls("/api/session") == asked


def test_a_rest_api_with_another_certificate_is_an_alarm(vcenter: FakeVcenter, hypervisor: Hypervisor) -> None:
    hypervisor.hosts()
    vcenter.faults.swap_certificate("vcenter")
    with pytest.raises(CertificateMismatch):
        hypervisor.hosts()
