"""The vSphere driver keeps the contract of all drivers, against the fake vCenter and a fake standalone ESXi host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudops.hypervisors.port import PowerState
from tests.hypervisors.contract import HypervisorContract, Subject, opened
from tests.vsphere.fake import FakeVcenter, VmPlan

PLACE = "vcenter"
VMS = (VmPlan("on"), VmPlan("off", powered_on=False))


@pytest.fixture(params=["vcenter", "esxi"], scope="module")
def vcenter(request: pytest.FixtureRequest) -> Iterator[FakeVcenter]:
    standalone = request.param == "esxi"
    with FakeVcenter(hosts=1 if standalone else 2, vms=VMS, standalone=standalone) as vcenter:
        yield vcenter


class TestVsphere(HypervisorContract):
    @pytest.fixture
    def subject(self, vcenter: FakeVcenter) -> Iterator[Subject]:
        spec = vcenter.spec(timeout_seconds=15.0)
        with opened(spec) as hypervisor:
            vms = hypervisor.vms()
        yield Subject(
            spec=spec,
            running=next(vm.ref for vm in vms if vm.power_state is PowerState.RUNNING),
            stopped=next(vm.ref for vm in vms if vm.power_state is PowerState.OFF),
            hang=lambda: vcenter.faults.freeze(PLACE),
            unhang=lambda: vcenter.faults.thaw(PLACE),
            disconnect=lambda: vcenter.faults.down(PLACE),
            reconnect=lambda: vcenter.faults.up(PLACE),
        )
        vcenter.faults.clear()
