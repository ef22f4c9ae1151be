"""VMs: assigned, pictured, and powered by an operation whose success is what the hypervisor reports afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks
from redis.exceptions import ConnectionError as RedisConnectionError

from cloudops.accounts.models import Project
from cloudops.core import operations
from cloudops.core.errors import Conflict
from cloudops.core.models import Event, Operation
from cloudops.hypervisors.port import Busy, PowerAction, PowerState, Unreachable, VmNotRunning
from cloudops.inventory import offerings, power, signals, sync, tasks, vms
from cloudops.inventory.models import Connection, Host, Vm
from tests.conftest import Clock
from tests.inventory.conftest import Fakes, Heard
from tests.inventory.fake import ADMIN, NOW, FakeHypervisor, make_endpoint, vm_facts

pytestmark = pytest.mark.django_db
Capture = DjangoCaptureOnCommitCallbacks
URI = "qemu+tcp://kvm1/system"


@pytest.fixture
def vm(fakes: Fakes) -> Vm:
    endpoint = make_endpoint(URI)
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1), vm_facts(2, power_state=PowerState.OFF)])
    sync.sync_endpoint(endpoint, now=NOW)
    return again("vm-1")


def again(ref: str) -> Vm:
    return Vm.objects.select_related("host__endpoint", "project").get(ref=ref)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(power, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(power, "_CONFIRM_SECONDS", {})
    monkeypatch.setattr(power, "_CONFIRM_SECONDS_ELSE", 0.05)
    monkeypatch.setattr(power, "HEARTBEAT_SECONDS", 0.02)


class TestAssign:
    def test_it_is_audited_and_rights_are_to_be_checked_again(
        self, vm: Vm, heard: Heard, django_capture_on_commit_callbacks: Capture
    ) -> None:
        shop, bank = Project.objects.create(name="shop"), Project.objects.create(name="bank")
        with django_capture_on_commit_callbacks(execute=True):
            assert vms.assign(Vm.objects.all(), project=shop, by=ADMIN, now=NOW) == 2
            assert vms.assign([vm], project=bank, by=ADMIN, now=NOW) == 1
            assert vms.assign([vm], project=bank, by=ADMIN, now=NOW) == 0
            assert vms.assign([vm], project=None, by=ADMIN, now=NOW) == 1
        lines = Event.objects.filter(kind="vm.assigned", subject_id=str(vm.pk)).order_by("id")
        assert [(e.from_state, e.to_state, e.project_id) for e in lines] == [
            ("", "shop", shop.pk),
            ("shop", "bank", bank.pk),
            ("bank", "", bank.pk),
        ]
        assert [len(message["vm_ids"]) for message in heard["vm_access_changed"]] == [2, 1, 1]
        assert again("vm-1").project is None

    def test_an_offering_is_noted(self, vm: Vm) -> None:
        small = offerings.create(name="small", vcpus=1, memory_mib=512, by=ADMIN, now=NOW)
        vms.set_offering(vm, offering=small, by=ADMIN, now=NOW)
        vms.set_offering(vm, offering=small, by=ADMIN, now=NOW)
        assert Event.objects.get(kind="vm.offering_set").to_state == "small"


class TestPower:
    def test_a_worker_does_it_and_reads_it_back(
        self, vm: Vm, fakes: Fakes, django_capture_on_commit_callbacks: Capture
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True):
            operation = vms.power(vm, action=PowerAction.STOP, by=ADMIN, now=timezone.now())
        operation.refresh_from_db()
        assert (operation.status, operation.progress_percent, operation.result) == (
            "succeeded",
            100,
            {"power_state": "off"},
        )
        assert [step["status"] for step in operation.steps] == ["done", "done"]
        assert fakes[URI].asked == [("vm-1", PowerAction.STOP)]
        assert again("vm-1").power_state == PowerState.OFF
        assert operation.title == "Power off guest1"
        assert Event.objects.filter(kind="operation.vm.power", actor_name="alice").count() == 1

    def test_what_the_hypervisor_refuses_is_told_with_its_remedy(
        self, vm: Vm, fakes: Fakes, django_capture_on_commit_callbacks: Capture
    ) -> None:
        fakes[URI].error = Busy("a migration is under way")
        with django_capture_on_commit_callbacks(execute=True):
            operation = vms.power(vm, action=PowerAction.STOP, by=ADMIN, now=timezone.now())
        operation.refresh_from_db()
        assert (operation.status, operation.error_code, operation.error_detail, operation.error_remedy) == (
            "failed",
            "vm-busy",
            "a migration is under way",
            Busy.remedy,
        )
        assert [step["status"] for step in operation.steps] == ["failed", "pending"]

    @pytest.mark.usefixtures("quick")
    def test_a_guest_that_does_not_react_is_a_failure_not_a_success(
        self, vm: Vm, fakes: Fakes, django_capture_on_commit_callbacks: Capture
    ) -> None:
        fakes[URI].obeys = False
        with django_capture_on_commit_callbacks(execute=True):
            operation = vms.power(vm, action=PowerAction.SHUTDOWN, by=ADMIN, now=timezone.now())
        operation.refresh_from_db()
        assert (operation.status, operation.error_code) == ("failed", "guest-did-not-react")
        assert "power it off" in operation.error_remedy
        assert [step["status"] for step in operation.steps] == ["done", "failed"]

    def test_two_at_once_on_one_vm_are_refused(self, vm: Vm) -> None:
        vms.power(vm, action=PowerAction.STOP, by=ADMIN, now=NOW)
        with pytest.raises(operations.OperationRunning) as refusal:
            vms.power(vm, action=PowerAction.REBOOT, by=ADMIN, now=NOW)
        assert refusal.value.numbers["operation"] == str(Operation.objects.get().pk)

    def test_a_start_may_be_refused_from_above_and_leaves_nothing(self, vm: Vm) -> None:
        asked: list[Any] = []

        def refuse(**what: Any) -> None:
            asked.append(what)
            raise Conflict("The host is being emptied.")

        signals.vm_starting.connect(refuse)
        try:
            with pytest.raises(Conflict, match="being emptied"):
                power.power(again("vm-2"), action=PowerAction.START, by=ADMIN, now=NOW)
            power.power(vm, action=PowerAction.PAUSE, by=ADMIN, now=NOW)
        finally:
            signals.vm_starting.disconnect(refuse)
        assert [(what["vm"].ref, what["by"], what["operation"].kind) for what in asked] == [("vm-2", ADMIN, "vm.power")]
        assert [row.subject_id for row in Operation.objects.all()] == [str(vm.pk)]

    def test_states_and_hosts_that_do_not_allow_it(self, vm: Vm) -> None:
        off = again("vm-2")
        with pytest.raises(power.PowerActionImpossible) as refusal:
            vms.power(off, action=PowerAction.STOP, by=ADMIN, now=NOW)
        assert refusal.value.numbers == {"power_state": "off", "action": "stop"}
        Host.objects.update(connection=Connection.UNREACHABLE, error_detail="frozen")
        with pytest.raises(power.HostNotUp, match="frozen"):
            vms.power(again("vm-1"), action=PowerAction.STOP, by=ADMIN, now=NOW)
        assert not Operation.objects.exists()

    def test_without_a_queue_nothing_is_left_pending(
        self, vm: Vm, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Capture
    ) -> None:
        monkeypatch.setattr(power, "enqueue", lambda *_: False)
        with django_capture_on_commit_callbacks(execute=True):
            operation = vms.power(vm, action=PowerAction.STOP, by=ADMIN, now=NOW)
        operation.refresh_from_db()
        assert (operation.status, operation.error_code) == ("failed", "queue-unavailable")

    def test_a_task_that_is_delivered_twice_acts_once(self, vm: Vm, fakes: Fakes) -> None:
        operation = vms.power(vm, action=PowerAction.STOP, by=ADMIN, now=NOW)
        tasks.run_power(str(operation.pk))
        tasks.run_power(str(operation.pk))
        assert len(fakes[URI].asked) == 1

    def test_a_vm_that_was_removed_meanwhile(self, vm: Vm) -> None:
        operation = vms.power(vm, action=PowerAction.STOP, by=ADMIN, now=NOW)
        vm.delete()
        tasks.run_power(str(operation.pk))
        operation.refresh_from_db()
        assert operation.error_code == "vm-gone"

    def test_blocked_actions_say_why(self, vm: Vm) -> None:
        assert set(power.blocked_actions(vm)) == {PowerAction.START, PowerAction.RESUME}
        off = power.blocked_actions(again("vm-2"))
        assert set(off) == set(PowerAction) - {PowerAction.START}
        assert off[PowerAction.STOP] == "The VM is off."
        vm.missing_since = NOW
        assert set(power.blocked_actions(vm)) == set(PowerAction)
        vm.missing_since, vm.power_state = None, PowerState.UNKNOWN
        assert set(power.blocked_actions(vm).values()) == {"Its power state is not known yet."}


class TestScreenshot:
    def test_it_is_kept_for_a_moment(self, vm: Vm, fakes: Fakes) -> None:
        assert vms.screenshot(vm).data == vms.screenshot(vm).data == b"picture 1"
        cache.clear()
        assert vms.screenshot(vm).data == b"picture 2"

    def test_a_dead_cache_costs_a_call_not_the_picture(
        self, vm: Vm, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RedisConnectionError("refused")

        for name in ("get", "set"):
            monkeypatch.setattr(cache, name, fail)
        assert [vms.screenshot(vm).data, vms.screenshot(vm).data] == [b"picture 1", b"picture 2"]

    def test_the_hypervisors_refusal_comes_through(self, vm: Vm, fakes: Fakes) -> None:
        fakes[URI].error = VmNotRunning("off")
        with pytest.raises(VmNotRunning):
            vms.screenshot(vm)


def test_refresh_reads_one_vm_now(vm: Vm, fakes: Fakes, clock: Clock) -> None:
    fakes[URI].set_power("vm-1", PowerState.PAUSED)
    assert vms.refresh(vm, now=clock.now).power_state == PowerState.PAUSED
    fakes[URI].error = Unreachable("refused")
    with pytest.raises(Unreachable):
        vms.refresh(vm, now=clock.now)


@pytest.fixture(autouse=True)
def _no_cached_pictures() -> Iterator[None]:
    yield
    cache.clear()
