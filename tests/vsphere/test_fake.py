"""The fake vCenter, asked by unmodified pyVmomi: logging in, inventory, updates, power, privileges, tags."""

from __future__ import annotations

import http.client
import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vsphere.client import (
    done,
    ended,
    eventually,
    find_host,
    find_vm,
    log_in,
    log_out,
    logged_in,
    pinned,
    raises,
    view_filter,
)
from tests.vsphere.fake import ClusterPlan, FakeVcenter, HostPlan, VmPlan
from tests.vsphere.fake.types import vim, vmodl

PC = vmodl.query.PropertyCollector
EVERYTHING = {
    vim.VirtualMachine: ["name", "config", "runtime", "summary", "guest", "datastore", "network", "resourceConfig"],
    vim.HostSystem: ["name", "parent", "runtime", "hardware", "config", "summary", "vm", "datastore", "network"],
    vim.ClusterComputeResource: ["name", "host", "summary", "configurationEx", "resourcePool"],
    vim.Datastore: ["name", "summary", "host", "vm"],
    vim.Network: ["name", "summary", "host"],
}


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    with FakeVcenter(hosts=2, vms=4, task_seconds=0.02) as running:
        yield running


@pytest.fixture
def instance(vcenter: FakeVcenter) -> Iterator[Any]:
    with logged_in(vcenter) as found:
        yield found


def values(content: Any) -> dict[str, Any]:
    return {one.name: one.val for one in content.propSet}


def collected(instance: Any, wanted: dict[Any, Any], size: int | None = None) -> list[Any]:
    collector = instance.content.propertyCollector
    page = collector.RetrievePropertiesEx([view_filter(instance, wanted)], PC.RetrieveOptions(maxObjects=size))
    found = list(page.objects)
    while page.token:
        page = collector.ContinueRetrievePropertiesEx(page.token)
        found += page.objects
    return found


def test_it_says_what_it_is_and_refuses_a_wrong_password(vcenter: FakeVcenter) -> None:
    with raises(vim.fault.InvalidLogin):
        log_in(vcenter, password="guessed")
    with logged_in(vcenter) as instance:
        about = instance.content.about
        assert "simulator" in about.name
        assert about.apiType == "VirtualCenter"
        assert instance._stub.version == "vim.version.v8_0_2_0"


def test_inventory_is_complete_and_comes_in_pages(vcenter: FakeVcenter, instance: Any) -> None:
    whole = collected(instance, EVERYTHING)
    paged = collected(instance, EVERYTHING, size=2)
    assert [one.obj for one in paged] == [one.obj for one in whole]
    assert len(whole) == 2 + 4 + 1 + 1 + 1
    vm = next(values(one) for one in whole if values(one)["name"] == "vm-0001")
    assert vm["config"].hardware.memoryMB == 4096
    assert vm["config"].maxMksConnections == 40
    assert vm["config"].hotPlugMemoryLimit == 65536
    assert vm["runtime"].numMksConnections == 0
    host = next(values(one) for one in whole if values(one)["name"].startswith("esx-01"))
    assert host["hardware"].cpuInfo.numCpuThreads == 32
    assert host["parent"].name == "Cluster A"
    assert vm["runtime"].host.name == host["name"]
    assert len(host["vm"]) == 2
    assert vcenter.calls("ContinueRetrievePropertiesEx") == 4


def test_a_property_that_does_not_exist_is_refused(instance: Any) -> None:
    with raises(vmodl.query.InvalidProperty):
        collected(instance, {vim.VirtualMachine: ["config.shoeSize"]})
    with raises(vmodl.query.InvalidProperty):
        collected(instance, {vim.VirtualMachine: ["shoes"]})


def test_two_hundred_hosts_without_a_page_size_come_a_hundred_at_a_time() -> None:
    plans = [VmPlan(f"vm-{number}", disks_gib=()) for number in range(250)]
    with FakeVcenter(hosts=1, vms=plans) as vcenter, logged_in(vcenter) as instance:
        assert len(collected(instance, {vim.VirtualMachine: ["name"]})) == 250
        assert vcenter.calls("ContinueRetrievePropertiesEx") == 2


class Watching:
    """A filter of its own and the version it has."""

    def __init__(self, instance: Any, wanted: dict[Any, Any]) -> None:
        self.collector = instance.content.propertyCollector.CreatePropertyCollector()
        self.collector.CreateFilter(view_filter(instance, wanted), False)
        self.version = ""

    def next(self, seconds: int = 10, objects: int | None = None) -> list[tuple[str, Any, dict[str, Any]]]:
        options = PC.WaitOptions(maxWaitSeconds=seconds, maxObjectUpdates=objects)
        found = self.collector.WaitForUpdatesEx(self.version, options)
        if found is None:
            return []
        self.version, self.truncated = found.version, found.truncated
        return [
            (one.kind, one.obj, {change.name: change.val for change in one.changeSet})
            for part in found.filterSet
            for one in part.objectSet
        ]


def test_updates_tell_only_what_changed(vcenter: FakeVcenter, instance: Any) -> None:
    watch = Watching(instance, {vim.VirtualMachine: ["name", "runtime.powerState"], vim.HostSystem: ["name"]})
    assert [kind for kind, _, _ in watch.next()] == ["enter"] * 6
    assert watch.next(seconds=0) == []
    vm = find_vm(instance, vcenter, "vm-0002")
    done(vm.PowerOffVM_Task())
    assert watch.next() == [("modify", vm, {"runtime.powerState": "poweredOff"})]
    vcenter.world.add_vm(VmPlan("newcomer"))
    assert [(kind, one["name"]) for kind, _, one in watch.next()] == [("enter", "newcomer")]
    vcenter.world.remove_vm(vcenter.vm("vm-0002"))
    assert watch.next() == [("leave", vm, {})]


def test_updates_wake_who_waits(vcenter: FakeVcenter, instance: Any) -> None:
    watch = Watching(instance, {vim.HostSystem: ["runtime.connectionState"]})
    watch.next()
    host = vcenter.host("esx-01.lab.example.org")
    later = threading.Timer(0.2, vcenter.world.connect, (host, "notResponding"))
    later.start()
    ((_, _, change),) = watch.next()
    assert change == {"runtime.connectionState": "notResponding"}
    later.join()


def test_truncated_stale_and_replayed_updates(vcenter: FakeVcenter, instance: Any) -> None:
    watch = Watching(instance, {vim.VirtualMachine: ["name"]})
    vcenter.faults.truncate_updates(3)
    assert len(watch.next()) == 3
    assert watch.truncated
    before = watch.version
    rest = watch.next()
    assert len(rest) == 1
    assert not watch.truncated
    watch.version = before
    assert watch.next() == rest, "an answer that its client lost comes again"
    vcenter.faults.stale_version()
    with raises(vmodl.query.InvalidCollectorVersion):
        watch.next()
    watch.version = "4711"
    with raises(vmodl.query.InvalidCollectorVersion):
        watch.next()
    vcenter.faults.clear()
    watch.version = ""
    assert len(watch.next()) == 4


def test_sessions_get_lost(vcenter: FakeVcenter, instance: Any) -> None:
    watch = Watching(instance, {vim.VirtualMachine: ["name"]})
    watch.next()
    vcenter.faults.lose_session_in_update()
    with raises(vim.fault.NotAuthenticated):
        watch.next()
    with raises(vim.fault.NotAuthenticated):
        collected(instance, {vim.VirtualMachine: ["name"]})
    with logged_in(vcenter) as other:
        vcenter.faults.expire_sessions()
        with raises(vim.fault.NotAuthenticated):
            collected(other, {vim.VirtualMachine: ["name"]})


def test_power_and_the_guest(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "vm-0001")
    with raises(vim.fault.InvalidPowerState):
        vm.PowerOnVM_Task()
    done(vm.SuspendVM_Task())
    assert vm.runtime.powerState == "suspended"
    done(vm.PowerOnVM_Task())
    done(vm.ResetVM_Task())
    vm.RebootGuest()
    vm.ShutdownGuest()
    assert vm.runtime.powerState == "poweredOff"
    with raises(vim.fault.InvalidPowerState):
        vm.ShutdownGuest()
    done(vm.PowerOnVM_Task())
    vcenter.vm("vm-0001").tools_running = False
    with raises(vim.fault.ToolsUnavailable):
        vm.ShutdownGuest()


def test_one_task_at_a_time_and_cancelling(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "vm-0001")
    with vcenter.faults.holding("PowerOffVM_Task"):
        task = vm.PowerOffVM_Task()
        eventually(lambda: task.info.progress == 40)
        with raises(vim.fault.TaskInProgress):
            vm.ResetVM_Task()
        task.CancelTask()
    assert isinstance(ended(task).error, vmodl.fault.RequestCanceled)
    assert vm.runtime.powerState == "poweredOn"
    vcenter.faults.fail_task("PowerOffVM_Task", "vim.fault.GenericVmConfigFault", "words of the vendor")
    info = ended(vm.PowerOffVM_Task())
    assert isinstance(info.error, vim.fault.GenericVmConfigFault)
    assert info.error.msg == "words of the vendor"


def test_missing_privileges_are_refused_and_can_be_asked(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "vm-0001")
    vcenter.faults.deny("VirtualMachine.Interact.PowerOff", "vm-0001")
    with raises(vim.fault.NoPermission) as caught:
        vm.PowerOffVM_Task()
    assert caught.value.privilegeId == "VirtualMachine.Interact.PowerOff"
    assert caught.value.object == vm
    done(find_vm(instance, vcenter, "vm-0002").PowerOffVM_Task())
    rights, key = instance.content.authorizationManager, instance.content.sessionManager.currentSession.key
    asked = ["VirtualMachine.Interact.PowerOff", "System.View"]
    (row,) = rights.HasPrivilegeOnEntities([vm], key, asked)
    assert [(one.privId, one.isGranted) for one in row.privAvailability] == [(asked[0], False), (asked[1], True)]
    vcenter.faults.deny("Host.Config.Maintenance", "Cluster A")
    host = find_host(instance, "esx-01.lab.example.org")
    (row,) = rights.HasUserPrivilegeOnEntities([host], vcenter.username, ["Host.Config.Maintenance"])
    assert not row.privAvailability[0].isGranted, "what a cluster lacks its hosts lack"
    with raises(vmodl.fault.InvalidArgument):
        rights.HasPrivilegeOnEntities([vm], key, ["VirtualMachine.Interact.Poweroff"])


def test_an_object_that_is_gone_is_not_found(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "vm-0001")
    vcenter.world.remove_vm(vcenter.vm("vm-0001"))
    with raises(vmodl.fault.ManagedObjectNotFound):
        vm.PowerOffVM_Task()


def rest(vcenter: FakeVcenter, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    line = http.client.HTTPSConnection(
        vcenter.address, vcenter.port, context=pinned(vcenter.certificate_pem), timeout=10
    )
    try:
        line.request(verb, path, json.dumps(body) if body is not None else None, headers)
        answer = line.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        line.close()


def test_tags_come_over_rest() -> None:
    plan = [HostPlan("esx-1", tags=["gpu", "ssd"]), HostPlan("esx-2")]
    with FakeVcenter(hosts=plan, vms=0) as vcenter:
        assert rest(vcenter, "GET", "/api/cis/tagging/tag")[0] == 401
        token = b64encode(f"{vcenter.username}:{vcenter.password}".encode()).decode()
        status, key = rest(vcenter, "POST", "/api/session", Authorization=f"Basic {token}")
        assert status == 201
        headers = {"vmware-api-session-id": key}
        ids = [{"type": "HostSystem", "id": vcenter.host(name).mo_id} for name in ("esx-1", "esx-2")]
        path = "/api/cis/tagging/tag-association?action=list-attached-tags-on-objects"
        _, attached = rest(vcenter, "POST", path, {"object_ids": ids}, **headers)
        names = [
            [rest(vcenter, "GET", f"/api/cis/tagging/tag/{tag}", **headers)[1]["name"] for tag in one["tag_ids"]]
            for one in attached
        ]
        assert names == [["gpu", "ssd"], []]
        assert rest(vcenter, "DELETE", "/api/session", **headers)[0] == 204


def test_older_and_smaller_platforms() -> None:
    with FakeVcenter(hosts=1, vms=1, api_version="6.7") as vcenter, logged_in(vcenter) as instance:
        vm = find_vm(instance, vcenter, "vm-0001")
        with raises(vmodl.fault.MethodNotFound):
            vm.QueryConnections()
        ticket = vm.AcquireTicket("webmks")
        assert ticket.sslThumbprint
        assert not ticket.certThumbprintList
        assert rest(vcenter, "POST", "/api/session")[0] == 404
    with FakeVcenter(hosts=[HostPlan("esx-1")], vms=2, standalone=True) as vcenter, logged_in(vcenter) as instance:
        content = instance.content
        assert content.about.apiType == "HostAgent"
        assert content.vmProvisioningChecker is None
        (host,) = [one.obj for one in collected(instance, {vim.HostSystem: ["name"]})]
        assert host._moId == "ha-host"
        vm = find_vm(instance, vcenter, "vm-0001")
        with raises(vmodl.fault.NotSupported):
            vm.MigrateVM_Task(host=host, priority="defaultPriority")


def test_clusters_say_evc_and_drs() -> None:
    clusters = [ClusterPlan("Old", evc_mode="intel-haswell", drs=True)]
    hosts = [HostPlan("esx-1", "Old"), HostPlan("esx-2", "")]
    with FakeVcenter(hosts, 0, clusters=clusters) as vcenter, logged_in(vcenter) as instance:
        (cluster,) = collected(instance, {vim.ClusterComputeResource: ["summary", "configurationEx.drsConfig.enabled"]})
        assert values(cluster)["summary"].currentEVCModeKey == "intel-haswell"
        assert values(cluster)["configurationEx.drsConfig.enabled"] is True
        assert find_host(instance, "esx-1").summary.currentEVCModeKey == "intel-haswell"
        assert type(find_host(instance, "esx-2").parent) is vim.ComputeResource


def test_a_fault_of_a_call_and_latency(vcenter: FakeVcenter, instance: Any) -> None:
    vcenter.faults.fail_call("CurrentTime", "vmodl.fault.SystemError", "sick")
    with raises(vmodl.fault.SystemError):
        instance.CurrentTime()
    assert instance.CurrentTime()
    vcenter.faults.latency(0.3, "CurrentTime")
    asked_at = time.monotonic()
    instance.CurrentTime()
    assert time.monotonic() - asked_at >= 0.3


def test_logging_out_ends_the_session(vcenter: FakeVcenter) -> None:
    instance = log_in(vcenter)
    known = len(vcenter.world.objects)
    view_filter(instance, {vim.VirtualMachine: ["name"]})
    assert len(vcenter.service.sessions) == 1
    assert len(vcenter.world.objects) == known + 1
    log_out(instance)
    assert not vcenter.service.sessions
    assert len(vcenter.world.objects) == known, "its views end with it"
