"""The least that the account must be allowed: asked for, named where it lacks, and told what it is for."""

from __future__ import annotations

import pytest

from cloudops.hypervisors import registry
from cloudops.hypervisors.port import NoPermission, PowerAction, ProbeStep
from cloudops.hypervisors.vsphere.privileges import PRIVILEGES, Where, purpose
from tests.hypervisors.contract import opened
from tests.vsphere.fake import FakeVcenter
from tests.vsphere.fake.methods.rights import KNOWN

POWER_ON = "VirtualMachine.Interact.PowerOn"


def _step(vcenter: FakeVcenter) -> ProbeStep:
    (step,) = [one for one in registry.probe(vcenter.spec()) if "privileges" in one.name]
    return step


def test_every_privilege_exists_once_and_says_what_it_is_for() -> None:
    assert len({one.id for one in PRIVILEGES}) == len(PRIVILEGES)
    assert {one.id for one in PRIVILEGES} <= KNOWN
    for one in PRIVILEGES:
        assert one.why.startswith(("to ", "for "))
        assert purpose(one.id) == one.why
    assert {one.where for one in PRIVILEGES} == set(Where)
    assert purpose("Global.Licenses") == ""


def test_all_granted(vcenter: FakeVcenter) -> None:
    step = _step(vcenter)
    assert step.ok
    assert f"all {len(PRIVILEGES)}" in step.detail


def test_what_lacks_on_some_is_named_with_its_objects_and_its_use(vcenter: FakeVcenter) -> None:
    vcenter.faults.deny(POWER_ON, "vm-0002")
    vcenter.faults.deny("Host.Config.Maintenance")
    step = _step(vcenter)
    assert step.ok  # all else works
    assert f"{POWER_ON} on vm-0002 (to start" in step.detail
    assert "Host.Config.Maintenance on esx-01.lab.example.org, esx-02.lab.example.org (for the hosts'" in step.detail
    assert "vm-0001" not in step.detail


def test_many_that_lack_it_are_counted(vcenter: FakeVcenter) -> None:
    vcenter.faults.deny(POWER_ON)
    assert f"{POWER_ON} on vm-0001, vm-0002, vm-0003 and 1 more" in _step(vcenter).detail


def test_nothing_works_without_reading(vcenter: FakeVcenter) -> None:
    vcenter.faults.deny("System.Read")
    steps = registry.probe(vcenter.spec())
    assert not steps[-1].ok
    assert "System.Read" in steps[-1].detail
    assert steps[-1].remedy


def test_a_vsphere_that_does_not_tell_is_no_failure(vcenter: FakeVcenter) -> None:
    for fault in ("vmodl.fault.NotImplemented", "vim.fault.NoPermission", "vmodl.fault.InvalidArgument"):
        vcenter.faults.fail_call("HasPrivilegeOnEntities", fault)
        step = _step(vcenter)
        assert step.ok
        assert "does not tell" in step.detail


def test_a_refusal_names_privilege_object_and_use(vcenter: FakeVcenter) -> None:
    vcenter.faults.deny("VirtualMachine.Interact.PowerOff", "vm-0001")
    with opened(vcenter.spec()) as hypervisor:
        vms = {vm.name: vm.ref for vm in hypervisor.vms()}
        with pytest.raises(NoPermission, match=r"Interact\.PowerOff is missing on VirtualMachine vm-") as refused:
            hypervisor.power(vms["vm-0001"], PowerAction.STOP)
        hypervisor.power(vms["vm-0002"], PowerAction.STOP)
    assert "needed to stop VMs" in str(refused.value)
    assert refused.value.numbers == {"privileges": ["VirtualMachine.Interact.PowerOff"]}
    assert refused.value.platform_code == "NoPermission"
