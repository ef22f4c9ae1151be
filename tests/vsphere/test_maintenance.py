"""The hosts' own maintenance mode through the driver: begun and remembered, told once how it failed, ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudops.hypervisors.port import Hypervisor, HypervisorError, InvalidState, NoPermission
from cloudops.hypervisors.vsphere import maintenance
from tests.hypervisors.contract import eventually, opened
from tests.vsphere.fake import ClusterPlan, FakeVcenter, HostPlan, VmPlan

ENTER = "EnterMaintenanceMode_Task"


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    hosts = [HostPlan("esx-1"), HostPlan("esx-2"), HostPlan("empty")]
    vms = [VmPlan("runs", "esx-1"), VmPlan("off", "esx-2", powered_on=False)]
    with FakeVcenter(hosts=hosts, vms=vms, task_seconds=0.05) as vcenter:
        yield vcenter


@pytest.fixture
def driver(vcenter: FakeVcenter) -> Iterator[Hypervisor]:
    with opened(vcenter.spec(timeout_seconds=5.0)) as hypervisor:
        yield hypervisor


def inside(driver: Hypervisor, ref: str) -> bool:
    return next(host.in_maintenance for host in driver.hosts() if host.ref == ref)


def test_an_empty_host_is_in_it_and_out_again_however_often_it_is_asked(
    vcenter: FakeVcenter, driver: Hypervisor
) -> None:
    for name in ("empty", "esx-2"):  # what is off may stay
        ref = vcenter.host(name).mo_id
        for _ in range(2):
            driver.enter_maintenance(ref)
            eventually(lambda ref=ref: inside(driver, ref))  # type: ignore[misc]
        for _ in range(2):
            driver.leave_maintenance(ref)
            eventually(lambda ref=ref: not inside(driver, ref))  # type: ignore[misc]
    assert vcenter.calls(ENTER) == 2
    assert vcenter.calls("ExitMaintenanceMode_Task") == 2


def test_what_runs_there_is_waited_for_by_one_task(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    host = vcenter.host("esx-1")
    for _ in range(3):
        driver.enter_maintenance(host.mo_id)
    with opened(vcenter.spec()) as successor:  # a process that comes after the one that began it
        successor.enter_maintenance(host.mo_id)
    assert vcenter.calls(ENTER) == 1
    assert not inside(driver, host.mo_id)
    with vcenter.world.lock:
        vcenter.world.place(vcenter.vm("runs"), vcenter.host("empty"))
    eventually(lambda: inside(driver, host.mo_id))


def test_leaving_on_the_way_cancels(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    host = vcenter.host("esx-1")
    driver.enter_maintenance(host.mo_id)
    with opened(vcenter.spec()) as successor:
        successor.leave_maintenance(host.mo_id)
    eventually(lambda: host.entering == 0)
    with vcenter.world.lock:
        vcenter.world.place(vcenter.vm("runs"), vcenter.host("empty"))
    driver.leave_maintenance(host.mo_id)
    assert not inside(driver, host.mo_id)
    assert vcenter.calls("ExitMaintenanceMode_Task") == 0


def test_somebody_who_cancels_it_in_vsphere_is_told_once(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    host = vcenter.host("esx-1")
    driver.enter_maintenance(host.mo_id)
    with opened(vcenter.spec()) as somebody:
        somebody.leave_maintenance(host.mo_id)
    with pytest.raises(InvalidState, match="Somebody cancelled it"):
        driver.enter_maintenance(host.mo_id)
    driver.enter_maintenance(host.mo_id)
    assert vcenter.calls(ENTER) == 2


def test_its_time_limit_names_what_still_runs(
    vcenter: FakeVcenter, driver: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "ENTER_SECONDS", 1)
    monkeypatch.setattr(maintenance, "SETTLE_SECONDS", 4.0)
    with pytest.raises(InvalidState, match=r"within 1 s\. 1 VMs still run there: runs") as refusal:
        driver.enter_maintenance(vcenter.host("esx-1").mo_id)
    assert "Move or stop" in refusal.value.remedy


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("vim.fault.InvalidState", "vm-invalid-state"),
        ("vmodl.fault.RequestCanceled", "vm-invalid-state"),
        ("vim.fault.ResourceInUse", "vm-busy"),
        ("vmodl.fault.HostNotConnected", "host-not-connected"),
        ("vmodl.fault.SystemError", "hypervisor-error"),
    ],
)
def test_what_vsphere_refuses_is_a_typed_error_and_can_be_asked_again(
    vcenter: FakeVcenter, driver: Hypervisor, fault: str, code: str
) -> None:
    ref = vcenter.host("empty").mo_id
    vcenter.faults.fail_task(ENTER, fault, "In vSphere's own words.")
    with pytest.raises(HypervisorError) as refusal:
        driver.enter_maintenance(ref)
    assert refusal.value.code == code
    assert refusal.value.detail
    assert refusal.value.remedy
    vcenter.faults.fail_task(ENTER, "")
    driver.enter_maintenance(ref)
    eventually(lambda: inside(driver, ref))


def test_a_missing_privilege_and_lost_hosts(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    host = vcenter.host("empty")
    vcenter.faults.deny("Host.Config.Maintenance")
    with pytest.raises(NoPermission, match=r"Host\.Config\.Maintenance"):
        driver.enter_maintenance(host.mo_id)
    vcenter.faults.allow("Host.Config.Maintenance")
    with vcenter.world.lock:
        vcenter.world.connect(host, "notResponding")
    with pytest.raises(InvalidState, match="does not respond"):
        driver.enter_maintenance(host.mo_id)
    with pytest.raises(HypervisorError, match="knows no host"):
        driver.enter_maintenance("host-9999")


def test_with_drs_the_platform_moves_what_others_left(driver: Hypervisor) -> None:
    hosts = [HostPlan("esx-1"), HostPlan("esx-2")]
    plan = {"hosts": hosts, "vms": [VmPlan("runs", "esx-1")], "clusters": [ClusterPlan("Cluster A", drs=True)]}
    with FakeVcenter(**plan, task_seconds=0.05) as vcenter, opened(vcenter.spec()) as hypervisor:  # type: ignore[arg-type]
        ref = vcenter.host("esx-1").mo_id
        hypervisor.enter_maintenance(ref)
        eventually(lambda: inside(hypervisor, ref))
        assert vcenter.vm("runs").host.name == "esx-2"
