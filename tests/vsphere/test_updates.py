"""The update loop: what changes is told once, and gaps of every kind end with CONNECTED, upon which one reads anew."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pyVmomi import vim, vmodl

from cloudops.hypervisors.backoff import FIRST_DELAY_SECONDS
from cloudops.hypervisors.port import EventKind, Hypervisor, HypervisorEvent, PowerAction, PowerState, Unreachable
from cloudops.hypervisors.vsphere.changes import Changes
from cloudops.hypervisors.vsphere.driver import VsphereHypervisor
from tests.hypervisors.contract import Events, eventually, opened
from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan

Collector = vmodl.query.PropertyCollector
Update = Collector.ObjectUpdate


@pytest.fixture
def hypervisor(vcenter: FakeVcenter) -> Iterator[Hypervisor]:
    with opened(vcenter.spec(timeout_seconds=6.0)) as hypervisor:
        yield hypervisor


@pytest.fixture
def events(hypervisor: Hypervisor) -> Events:
    events = Events()
    hypervisor.subscribe(events)
    events.wait(EventKind.CONNECTED)
    assert [event.kind for event in events.seen] == [EventKind.CONNECTED]
    return events


def _ref(vcenter: FakeVcenter, name: str = "vm-0001") -> str:
    return vcenter.vm(name).instance_uuid


def test_vms_that_come_change_and_go(vcenter: FakeVcenter, hypervisor: Hypervisor, events: Events) -> None:
    hypervisor.power(_ref(vcenter), PowerAction.STOP)
    events.wait(EventKind.VM_CHANGED, _ref(vcenter), PowerState.OFF)
    with vcenter.world.lock:
        fresh = vcenter.world.add_vm(VmPlan("fresh", "esx-01.lab.example.org"))
    events.wait(EventKind.VM_CHANGED, fresh.instance_uuid)
    since = len(events.seen)
    with vcenter.world.lock:
        fresh.memory_mib = 8192
        vcenter.world.changed(fresh)
    events.wait(EventKind.VM_CHANGED, fresh.instance_uuid, since=since)
    assert not events.has(EventKind.VM_CHANGED, fresh.instance_uuid, PowerState.RUNNING, since)
    with vcenter.world.lock:
        vcenter.world.remove_vm(fresh)
    events.wait(EventKind.VM_REMOVED, fresh.instance_uuid)


def test_consoles_are_told_apart_from_other_changes(vcenter: FakeVcenter, events: Events) -> None:
    vm = vcenter.vm("vm-0001")
    since = len(events.seen)
    with vcenter.world.lock:
        vm.connections = 1
        vcenter.world.changed(vm)
    events.wait(EventKind.CONSOLE_CHANGED, vm.instance_uuid, since=since)
    assert not events.has(EventKind.VM_CHANGED, vm.instance_uuid, since=since)


def test_hosts_that_come_go_and_are_lost(vcenter: FakeVcenter, events: Events) -> None:
    for change in (
        lambda: vcenter.add_host(HostPlan("esx-09.lab.example.org")),
        lambda: vcenter.world.connect(vcenter.host("esx-02.lab.example.org"), "notResponding"),
        lambda: vcenter.world.connect(vcenter.host("esx-02.lab.example.org"), "connected"),
    ):
        since = len(events.seen)
        change()
        events.wait(EventKind.HOSTS_CHANGED, since=since)
    assert not events.has(EventKind.DISCONNECTED)


def test_a_vm_that_moves_is_told(vcenter: FakeVcenter, events: Events) -> None:
    vm = vcenter.vm("vm-0001")
    with vcenter.world.lock:
        vcenter.world.place(vm, vcenter.host("esx-02.lab.example.org"))
    events.wait(EventKind.VM_CHANGED, vm.instance_uuid)


def test_a_lost_login_in_the_midst_is_renewed_and_nothing_is_missed(
    vcenter: FakeVcenter, hypervisor: Hypervisor, events: Events
) -> None:
    since = len(events.seen)
    vcenter.faults.lose_session_in_update()
    events.wait(EventKind.CONNECTED, since=since)  # after what may be a gap: read anew
    hypervisor.power(_ref(vcenter), PowerAction.STOP)
    events.wait(EventKind.VM_CHANGED, _ref(vcenter), PowerState.OFF)
    vcenter.faults.expire_sessions()
    hypervisor.power(_ref(vcenter), PowerAction.START)
    eventually(lambda: hypervisor.vm(_ref(vcenter)).power_state is PowerState.RUNNING)
    assert not events.has(EventKind.DISCONNECTED)


def test_a_stale_version_begins_anew(vcenter: FakeVcenter, hypervisor: Hypervisor, events: Events) -> None:
    since = len(events.seen)
    vcenter.faults.stale_version()
    events.wait(EventKind.CONNECTED, since=since)
    hypervisor.power(_ref(vcenter), PowerAction.STOP)
    events.wait(EventKind.VM_CHANGED, _ref(vcenter), PowerState.OFF)
    assert not events.has(EventKind.DISCONNECTED)


def test_truncated_updates_are_put_together(vcenter: FakeVcenter) -> None:
    vcenter.faults.truncate_updates(1)
    with opened(vcenter.spec(timeout_seconds=6.0)) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        assert [event.kind for event in events.seen] == [EventKind.CONNECTED]
        with vcenter.world.lock:
            for name in ("vm-0001", "vm-0002", "vm-0003"):
                vcenter.vm(name).cpus = 3
            vcenter.world.changed(*(vcenter.vm(name) for name in ("vm-0001", "vm-0002", "vm-0003")))
        for name in ("vm-0001", "vm-0002", "vm-0003"):
            events.wait(EventKind.VM_CHANGED, _ref(vcenter, name))


def test_a_vcenter_that_goes_and_comes_back(vcenter: FakeVcenter) -> None:
    hypervisor = VsphereHypervisor(vcenter.spec(timeout_seconds=6.0))
    events = Events()
    hypervisor.subscribe(events)
    events.wait(EventKind.CONNECTED)
    since = len(events.seen)
    vcenter.faults.down("vcenter")
    events.wait(EventKind.DISCONNECTED, since=since)
    eventually(lambda: hypervisor._session.backoff.wait_seconds > FIRST_DELAY_SECONDS)  # it was tried again, in vain
    assert sum(event.kind is EventKind.DISCONNECTED for event in events.seen) == 1
    lost = next(event for event in events.seen if event.kind is EventKind.DISCONNECTED)
    assert lost.detail
    vcenter.faults.up("vcenter")
    events.wait(EventKind.CONNECTED, since=since)
    hypervisor.power(_ref(vcenter), PowerAction.STOP)
    events.wait(EventKind.VM_CHANGED, _ref(vcenter), PowerState.OFF)
    hypervisor.close()


def test_a_vcenter_that_freezes_is_noticed(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec(timeout_seconds=1.5)) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        vcenter.faults.freeze("vcenter")
        events.wait(EventKind.DISCONNECTED)
        vcenter.faults.thaw("vcenter")
        since = len(events.seen)
        events.wait(EventKind.CONNECTED, since=since)


def test_quiet_times_are_no_gaps(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec(timeout_seconds=3.0)) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        asked = vcenter.calls("WaitForUpdatesEx")
        eventually(lambda: vcenter.calls("WaitForUpdatesEx") >= asked + 2)
        assert [event.kind for event in events.seen] == [EventKind.CONNECTED]


def test_the_second_subscriber_is_told_how_things_stand_and_both_hear(
    vcenter: FakeVcenter, hypervisor: Hypervisor, events: Events
) -> None:
    second = Events()
    cancel = hypervisor.subscribe(second)
    second.wait(EventKind.CONNECTED)
    hypervisor.power(_ref(vcenter), PowerAction.STOP)
    for one in (events, second):
        one.wait(EventKind.VM_CHANGED, _ref(vcenter), PowerState.OFF)
    cancel()


def test_nobody_listens_nobody_asks(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec(timeout_seconds=2.0)) as hypervisor:
        for _ in range(2):  # and it begins again
            events = Events()
            cancel = hypervisor.subscribe(events)
            events.wait(EventKind.CONNECTED)
            cancel()
        eventually(lambda: vcenter.calls("DestroyPropertyCollector") == vcenter.calls("CreatePropertyCollector"))
        eventually(lambda: vcenter.calls("DestroyView") == vcenter.calls("CreateContainerView"))


def test_a_vcenter_with_nothing_in_it_is_connected_too() -> None:
    with FakeVcenter(hosts=0, vms=0) as empty, opened(empty.spec()) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        empty.add_host(HostPlan("first.example.org"))
        events.wait(EventKind.HOSTS_CHANGED)


def test_closing_ends_the_wait_at_once(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec(timeout_seconds=60.0)) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        began = time.monotonic()
        hypervisor.close()
        assert time.monotonic() - began < 5
        with pytest.raises(Unreachable):
            hypervisor.subscribe(events)


def _update(kind: str, mo_id: str, **values: object) -> Update:
    names = {key.replace("__", "."): value for key, value in values.items()}
    changes = [Collector.Change(name=name, op="assign", val=value) for name, value in names.items()]
    return Update(kind=kind, obj=vim.VirtualMachine(mo_id), changeSet=changes)


def _take(changes: Changes, *updates: Update, truncated: bool = False) -> list[HypervisorEvent]:
    filled = [Collector.FilterUpdate(objectSet=list(updates))]
    return changes.take(Collector.UpdateSet(version="1", filterSet=filled, truncated=truncated))


def test_update_sets_by_hand() -> None:
    changes = Changes()
    assert (
        _take(
            changes,
            _update("enter", "vm-1", config__instanceUuid="u1", runtime__powerState="poweredOn"),
            truncated=True,
        )
        == []
    )
    assert [changes.is_complete] == [False]
    assert _take(changes, _update("enter", "vm-2", config__instanceUuid="u2")) == []
    assert changes.is_complete
    (said,) = _take(changes, _update("modify", "vm-1", runtime__powerState="poweredOff"))
    assert (said.kind, said.vm_ref, said.power_state) == (EventKind.VM_CHANGED, "u1", PowerState.OFF)
    assert _take(changes, _update("modify", "vm-1", runtime__powerState="poweredOff")) == []  # nothing new
    both = _take(changes, _update("modify", "vm-1", name="x", runtime__numMksConnections=2))
    assert {event.kind for event in both} == {EventKind.CONSOLE_CHANGED, EventKind.VM_CHANGED}
    (gone,) = _take(changes, _update("modify", "vm-2", config__template=True))
    assert (gone.kind, gone.vm_ref) == (EventKind.VM_REMOVED, "u2")
    assert _take(changes, _update("modify", "vm-2", name="template")) == []
    assert _take(changes, _update("leave", "vm-9"), _update("enter", "vm-8", name="no UUID yet")) == []
    (late,) = _take(changes, _update("modify", "vm-8", config__instanceUuid="u8"))
    assert (late.kind, late.vm_ref) == (EventKind.VM_CHANGED, "u8")
    (left,) = _take(changes, _update("leave", "vm-8"))
    assert (left.kind, left.vm_ref) == (EventKind.VM_REMOVED, "u8")
