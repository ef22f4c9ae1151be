"""What a drain does with VMs that cannot simply move: off, paused, pinned, busy; and what people choose for them."""

from __future__ import annotations

import pytest

from cloudops.core import operations
from cloudops.core.models import Operation
from cloudops.hypervisors.port import PowerAction, PowerState
from cloudops.inventory.power import power
from placement import maintenance
from placement.maintenance import words
from placement.maintenance.errors import MoveOver, StopNotRepeated
from placement.maintenance.options import Choice, VmChoice
from placement.models import Claim, VmMigration
from placement.power_claims import NoRoomToStart
from tests.placement.maintenance.draining import Drains, three
from tests.placement.moving import BY


def test_vms_that_are_off_stay_and_it_is_said(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    world.build_vm("off", first, state=PowerState.OFF)
    world.ready()
    job = world.start(first)
    world.until_status(job, "holding")
    row = world.move(job, "off")
    assert (row.status, row.reason_code) == ("skipped", words.POWERED_OFF)
    assert "cannot be started" in row.reason
    with pytest.raises(NoRoomToStart):
        power(world.vm("off"), action=PowerAction.START, by=BY, now=world.now)


def test_vms_that_are_off_are_moved_when_asked(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    world.build_vm("off", first, state=PowerState.OFF)
    world.ready()
    job = world.start(first, move_powered_off=True)
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "moved", "off": "moved"}
    assert world.vm("off").host != first
    assert not Claim.objects.filter(vm=world.vm("off")).exists()


def test_paused_vms_move_and_stay_paused(world: Drains) -> None:
    first, *_ = three(world, vms=0)
    world.build_vm("paused", first, state=PowerState.PAUSED)
    world.ready()
    job = world.start(first)
    world.step()
    world.run(VmMigration.objects.get())  # one runner sees it through: what is paused has to be looked at for a while
    world.until_status(job, "holding")
    assert world.vm("paused").power_state == "paused"
    assert world.vm("paused").host != first


def test_an_operation_at_work_is_waited_for(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    operation = power(world.vm("vm0"), action=PowerAction.REBOOT, by=BY, now=world.now)
    job = world.start(first)
    for _ in range(6):
        world.step()
    row = world.move(job, "vm0")
    assert (row.status, row.reason_code) == ("waiting", words.OPERATION_RUNNING)
    assert operation.title in row.reason
    world.run_power()
    world.until_status(job, "holding")
    assert world.move(job, "vm0").reason == ""


def test_a_pinned_vm_blocks_until_somebody_chooses(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    vm = world.vm("vm0")
    vm.pinned = True
    vm.save(update_fields=["pinned"])
    job = world.start(first)
    world.until_status(job, "blocked")
    row = world.move(job, "vm0")
    assert (row.status, row.reason_code) == ("blocked", words.PINNED)
    assert [one["choice"] for one in row.remedies] == ["move-pinned", "skip", "stop"]
    assert "vm0" in job.blocked_reason
    maintenance.choose(row, choice=Choice.MOVE_PINNED, by=BY, now=world.now)
    world.until_status(job, "holding")
    assert world.move(job, "vm0").status == "moved"


def test_unpinning_unblocks_by_itself(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    vm.pinned = True
    vm.save(update_fields=["pinned"])
    job = world.start(first)
    world.until_status(job, "blocked")
    vm.pinned = False
    vm.save(update_fields=["pinned"])
    world.until_status(job, "holding")


def test_a_skipped_vm_goes_on_running_there(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first, choices={world.vm("vm0").pk: VmChoice(Choice.SKIP)})
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "skipped", "vm1": "moved"}
    assert world.really_on(world.vm("vm0")) == ["kvm1"]
    assert "goes on running" in world.move(job, "vm0").reason


def test_a_vm_is_stopped_only_by_choice(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first, choices={world.vm("vm0").pk: VmChoice(Choice.STOP)})
    world.step()
    assert world.move(job, "vm0").status == "stopping"
    world.run_power()
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "stopped", "vm1": "moved"}


def test_a_vm_that_did_not_shut_down_may_be_asked_again(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    job = world.start(first, choices={vm.pk: VmChoice(Choice.STOP)})
    world.step()
    asked = Operation.objects.filter(kind="vm.power")
    with pytest.raises(MoveOver):
        maintenance.ask_again(world.move(job, "vm0"), by=BY, now=world.now)
    operations.begin(asked.get(), by=BY, now=world.now)
    operations.fail(asked.get(), by=BY, now=world.now, code="guest-did-not-react", detail="still running", remedy="-")
    world.until(lambda: world.statuses(job) == {"vm0": "blocked"}, seconds=30)
    maintenance.ask_again(world.move(job, "vm0"), by=BY, now=world.now)
    world.step()
    assert [one.params["action"] for one in asked] == ["shutdown", "shutdown"]
    world.run_power()
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "stopped"}


def test_only_a_stop_that_is_chosen_again_powers_a_vm_off(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    job = world.start(first, choices={vm.pk: VmChoice(Choice.STOP)})
    world.step()
    asked = Operation.objects.filter(kind="vm.power")
    operations.begin(asked.get(), by=BY, now=world.now)
    operations.fail(asked.get(), by=BY, now=world.now, code="guest-did-not-react", detail="still running", remedy="-")
    world.until(lambda: world.statuses(job) == {"vm0": "blocked"}, seconds=30)
    row = world.move(job, "vm0")
    assert (row.status, row.reason_code, row.choice) == ("blocked", "stop-failed", "")
    assert "stop this VM once more" in row.remedy
    assert [one["label"] for one in row.remedies] == ["Move it instead", "Leave it there", "Power it off"]
    assert maintenance.retry(job, by=BY, now=world.now) == 0
    with pytest.raises(StopNotRepeated):
        maintenance.retry(job, move=row, by=BY, now=world.now)
    for _ in range(4):
        world.step(30)
    assert world.statuses(job) == {"vm0": "blocked"}
    assert [one.params["action"] for one in asked] == ["shutdown"]
    maintenance.choose(row, choice=Choice.STOP, by=BY, now=world.now)
    world.step()
    assert [one.params["action"] for one in asked.order_by("created_at")] == ["shutdown", "stop"]
    world.run_power()
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "stopped"}


def test_after_a_stop_in_vain_a_remedy_moves_the_vm_and_stops_nothing(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    job = world.start(first, choices={world.vm("vm0").pk: VmChoice(Choice.STOP)})
    world.step()
    asked = Operation.objects.get(kind="vm.power")
    operations.begin(asked, by=BY, now=world.now)
    operations.fail(asked, by=BY, now=world.now, code="guest-did-not-react", detail="still running", remedy="-")
    world.until(lambda: world.statuses(job) == {"vm0": "blocked"}, seconds=30)
    maintenance.choose(world.move(job, "vm0"), choice=Choice.ACROSS, by=BY, now=world.now)
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "moved"}
    assert Operation.objects.filter(kind="vm.power").count() == 1


def test_the_chosen_host_is_taken(world: Drains) -> None:
    first, _, third = three(world, vms=3)
    job = world.start(first, choices={world.vm("vm1").pk: VmChoice(Choice.HOST, third.pk)})
    world.until_status(job, "holding")
    assert world.vm("vm1").host == third


def test_an_unknown_power_state_blocks_until_it_is_known(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    vm.power_state = "unknown"
    vm.save(update_fields=["power_state"])
    job = world.start(first)
    world.until_status(job, "blocked")
    assert world.move(job, "vm0").reason_code == words.STATE_UNKNOWN
    world.sync(first)
    world.until_status(job, "holding")
