"""Asking for a resize: what is refused, with which words and numbers, and that a refusal changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.accounts.models import Project, User
from cloudops.core import runtime
from cloudops.core.actors import Actor, ActorKind
from cloudops.core.errors import Refusal
from cloudops.core.models import Event, Operation
from cloudops.core.operations import OperationRunning
from cloudops.hypervisors.port import PowerAction, PowerState, TimedOut
from cloudops.inventory import power, signals
from cloudops.inventory.models import Vm
from cloudops.inventory.notices import ask
from cloudops.inventory.power import HostNotUp
from placement.errors import NoHostFits
from placement.models import Claim, Decision
from scaling import fingerprint, headroom, next_start, planning, resizes
from scaling.models import Resize, VmSize
from scaling.resize_errors import (
    NoRoomToGrow,
    NothingToChange,
    NothingWaits,
    NotReachable,
    NoWayToMove,
    PlanOutdated,
    QuotaExceeded,
    ResizeNotOver,
    ResizeOver,
    TooLateToCancel,
    VmNotResizable,
)
from scaling.values import Reach
from tests.placement.moving import claims_add_up
from tests.scaling.world import BY, Scaling, facts

pytestmark = pytest.mark.timeout(120)


def nothing_happened(world: Scaling, vm: Vm) -> None:
    assert not Resize.objects.exists()
    assert not Operation.objects.exists()
    assert set(world.claimed(vm)) <= {"vm"}
    claims_add_up()


def refused(world: Scaling, vm: Vm, kind: type[Refusal], *args: Any, **more: Any) -> Any:
    with pytest.raises(kind) as told:
        world.resize(vm, *args, **more)
    assert told.value.code
    assert told.value.remedy_text
    nothing_happened(world, vm)
    return told.value


def test_a_plan_that_is_not_true_any_more(world: Scaling) -> None:
    vm, wanted = world.add_sized("web", world.add_host(1)), world.wanted(2, 512)
    token = fingerprint.token(world.plan(vm, wanted))
    vm.dynamic_scaling = False
    vm.save()
    found = refused(world, vm, PlanOutdated, wanted, token=token)
    assert {one["name"] for one in found.numbers["changes"]} >= {"Live scaling of the VM"}
    vm.dynamic_scaling = True
    vm.save()
    assert world.resize(vm, wanted, token=token).pk


def test_tenants_read_no_host_in_what_changed(world: Scaling) -> None:
    first, second = world.add_host(1), world.add_host(2)
    vm, wanted = world.add_sized("web", first), world.wanted(2, 512)
    token = fingerprint.token(world.plan(vm, wanted))
    world.run(world.migrate(vm, second))
    tenant = User.objects.create(username="tess", role="tenant")
    by = Actor(ActorKind.USER, "tess", user_id=tenant.pk)
    with pytest.raises(PlanOutdated) as told:
        world.resize(vm, wanted, token=token, by=by)
    assert "kvm" not in f"{told.value.detail}{told.value.numbers}"
    with pytest.raises(PlanOutdated) as inside:
        world.resize(vm, wanted, token=token)
    assert "kvm2" in inside.value.detail


def test_a_way_that_is_none_is_refused_with_those_that_are(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=2, virtio_mib=256))
    found = refused(world, vm, NotReachable, world.wanted(3, 1_025))
    assert (found.numbers["reach"], found.numbers["ways"]) == ("restart", ["restart"])
    codes = {one["code"] for one in found.numbers["reasons"]}
    assert {"vcpu-ceiling", "memory-ceiling"} <= codes
    assert all(one["remedies"] for one in found.numbers["reasons"])
    assert "512" in found.detail
    assert "1,025" in found.detail
    assert "kvm" not in found.detail


def test_what_it_has_already(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), memory_mib=512)
    row = world.go(world.resize(vm, world.wanted(1, 512)))
    assert row.steps == []
    vm.refresh_from_db()
    assert vm.offering is not None
    with pytest.raises(NothingToChange):
        world.resize(vm, world.wanted(1, 512))


def test_beyond_the_quota(world: Scaling) -> None:
    project = Project.objects.create(name="acme", quota_vcpus=4, quota_memory_mib=2_048)
    host = world.add_host(1)
    vm = world.add_sized("web", host, project=project)
    world.add_sized("db", host, project=project, vcpus=3, memory_mib=512)
    refused(world, vm, NotReachable, world.wanted(2, 512))  # the plan says so
    project.quota_vcpus = 5
    project.save()
    assert world.go(world.resize(vm, world.wanted(2, 512))).outcome == Resize.Outcome.APPLIED


def test_the_quota_is_demanded_again_where_it_counts(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.objects.create(name="acme", quota_memory_mib=1_000)
    vm = world.add_sized("web", world.add_host(1), project=project)
    plan_now = planning.plan_now

    def and_then_somebody_else(*args: Any, **more: Any) -> Any:
        made = plan_now(*args, **more)
        Project.objects.update(quota_memory_mib=300)
        return made

    monkeypatch.setattr(resizes, "plan_now", and_then_somebody_else)
    found = refused(world, vm, QuotaExceeded, world.wanted(1, 512))
    assert found.numbers["beyond"]["memory_mib"] == {"wanted": 512, "used_by_others": 0, "quota": 300}


def test_room_that_went_since_the_plan(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.add_host(1, memory_mib=1_024 + 1_024)
    vm = world.add_sized("web", host)
    plan_now = planning.plan_now

    def and_then_somebody_else(*args: Any, **more: Any) -> Any:
        made = plan_now(*args, **more)
        world.add_sized("db", host, memory_mib=700)
        return made

    monkeypatch.setattr(resizes, "plan_now", and_then_somebody_else)
    found = refused(world, vm, NoRoomToGrow, world.wanted(1, 512))
    assert found.numbers["available"]["memory_mib"] == 68
    told = Event.objects.get(kind="vm.resize_refused")
    assert "kvm" not in told.reason


def test_a_host_that_hangs_is_asked_first(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    world.faults(host, hang=True)
    with pytest.raises(TimedOut):
        world.resize(vm, world.wanted(2, 512))
    nothing_happened(world, vm)
    world.faults(host)


def test_a_host_that_is_down_and_a_vm_that_is_gone(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    world.faults(host, unreachable=True)
    world.sync()
    found = refused(world, vm, HostNotUp, world.wanted(2, 512))
    assert "kvm" not in found.detail
    world.faults(host)
    world.sync()
    Vm.objects.filter(pk=vm.pk).update(missing_since=world.now)
    refused(world, vm, VmNotResizable, world.wanted(2, 512))


def test_one_operation_at_a_time_whoever_comes_first(world: Scaling) -> None:
    first, second = world.add_host(1), world.add_host(2)
    vm = world.add_sized("web", first)
    row = world.resize(vm, world.wanted(2, 512))
    for attempt in (
        lambda: world.resize(vm, world.wanted(3, 512)),
        lambda: world.migrate(vm, second),
        lambda: power.power(_joined(vm), action=PowerAction.STOP, by=BY, now=world.now),
        lambda: next_start.at_next_start(vm, wanted=world.wanted(4, 512), by=BY, now=world.now),
    ):
        with pytest.raises(OperationRunning):
            attempt()
    world.go(row)
    moving = world.migrate(vm, second)
    with pytest.raises(OperationRunning):
        world.resize(vm, world.wanted(3, 512))
    world.run(moving)
    assert world.resize(vm, world.wanted(3, 512)).pk


def _joined(vm: Vm) -> Vm:
    return Vm.objects.select_related("host__endpoint").get(pk=vm.pk)


def test_nowhere_to_move(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.add_host(1, memory_mib=1_024 + 512), world.add_host(2)
    vm = world.add_sized("web", first)
    plan_now = planning.plan_now

    def and_then_it_is_cordoned(*args: Any, **more: Any) -> Any:
        made = plan_now(*args, **more)
        type(second).objects.filter(pk=second.pk).update(schedulable=False)
        world.sync()
        return made

    monkeypatch.setattr(resizes, "plan_now", and_then_it_is_cordoned)
    refused(world, vm, NoHostFits, world.wanted(2, 1_024), Reach.MOVE)
    assert Decision.objects.filter(outcome="refused", vm=vm).count() == 1
    type(second).objects.filter(pk=second.pk).update(schedulable=True)
    world.sync()
    tenant = User.objects.create(username="tess", role="tenant")
    by = Actor(ActorKind.USER, "tess", user_id=tenant.pk)
    told = refused(world, vm, NoWayToMove, world.wanted(2, 1_024), Reach.MOVE, by=by)
    assert "kvm" not in f"{told.detail}{told.numbers}"
    assert Decision.objects.filter(outcome="refused", vm=vm).count() == 2


def test_only_a_resize_in_part_is_continued_and_only_one_at_work_cancelled(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1))
    row = world.resize(vm, world.wanted(2, 512))
    Resize.objects.filter(pk=row.pk).update(phase=Resize.Phase.CHANGING)
    with pytest.raises(TooLateToCancel):
        resizes.cancel(row, by=BY, now=world.now)
    Resize.objects.filter(pk=row.pk).update(phase=Resize.Phase.PREPARING)
    row = world.go(row)
    for verb in (resizes.continue_, resizes.roll_back):
        with pytest.raises(ResizeNotOver):
            verb(row, by=BY, now=world.now)
    with pytest.raises(ResizeOver):
        resizes.cancel(row, by=BY, now=world.now)


def test_cancelled_before_a_worker_came(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1))
    row = world.resize(vm, world.wanted(2, 512))
    resizes.cancel(row, by=BY, now=world.now)
    row = world.go(row)
    assert (row.outcome, row.operation.status) == (Resize.Outcome.NOTHING, "cancelled")
    assert world.truth(vm).vcpus == 1
    assert set(world.claimed(vm)) == {"vm"}


def test_nobody_comes_for_it_and_that_is_said(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[Any] = []

    def enqueue(*args: Any, **_: Any) -> bool:
        queued.append(args)
        return True

    monkeypatch.setattr(resizes, "enqueue", enqueue)
    row = world.resize(world.add_sized("web", world.add_host(1)), world.wanted(2, 512))
    world.pause(resizes.UNCLAIMED_SECONDS + 1)
    assert resizes.recover(now=world.now) == 1
    assert resizes.recover(now=world.now) == 0, "it is on its way"
    assert queued == [(resizes.TASK, str(row.pk))]
    assert "hypervisors" in str(world.fresh(row).operation.steps)


def test_at_its_next_start(world: Scaling) -> None:
    """In the definition at once; its own when it was started with it."""
    host = world.add_host(1)
    vm = world.add_sized("web", host, scaling=facts(256, most_vcpus=1, virtio_mib=0))
    wanted = world.wanted(3, 1_025)
    next_start.at_next_start(vm, wanted=wanted, by=BY, now=world.now)
    assert (world.truth(vm).vcpus, world.truth(vm).next_start.vcpus) == (1, 3)
    size = VmSize.objects.get(vm=vm)
    assert size.next_size is not None
    assert (size.vcpus, size.next_size["vcpus"], size.next_by_name) == (1, 3, "ada")
    world.sync()
    assert VmSize.objects.get(vm=vm).next_size is not None
    for action in (PowerAction.STOP, PowerAction.START):
        operation = power.power(_joined(vm), action=action, by=BY, now=world.now)
        power.run(operation, clock=world.clock)
        world.pause(1)
    world.sync()
    next_start.follow(now=world.now)
    size = VmSize.objects.get(vm=vm)
    vm.refresh_from_db()
    assert (size.vcpus, size.memory_mib, size.next_size) == (3, 1_025, None)
    assert vm.offering is not None
    assert world.claimed(vm) == {"vm": ("kvm1", 3, 1_025)}
    assert Event.objects.filter(kind="vm.resized").count() == 1


def test_what_waits_can_be_forgotten(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1))
    with pytest.raises(NothingWaits):
        next_start.forget_next(vm, by=BY, now=world.now)
    next_start.at_next_start(vm, wanted=world.wanted(3, 1_025), by=BY, now=world.now)
    next_start.forget_next(vm, by=BY, now=world.now)
    assert VmSize.objects.get(vm=vm).next_size is None
    shape = world.truth(vm).next_start
    assert (shape.vcpus, shape.memory_mib) == (1, 256)


def test_a_live_resize_replaces_what_waited(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1))
    next_start.at_next_start(vm, wanted=world.wanted(4, 1_800), by=BY, now=world.now)
    row = world.go(world.resize(vm, world.wanted(2, 512)))
    assert row.outcome == Resize.Outcome.APPLIED
    assert VmSize.objects.get(vm=vm).next_size is None
    assert (world.truth(vm).next_start.vcpus, world.truth(vm).next_start.memory_mib) == (2, 512)


def test_a_vm_and_a_host_that_are_needed_are_said_to_be(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    row = world.resize(vm, world.wanted(2, 512))
    assert {vm.pk} in list(ask(signals.vm_use, vm_ids=[vm.pk], now=world.now))
    assert any(answer.get("resizes") == 1 for answer in ask(signals.host_use, host_ids=[host.pk], now=world.now))
    signals.host_removing.send(sender=None, host_ids=[host.pk], now=world.now)
    operation = Operation.objects.get(pk=row.pk)
    assert (operation.status, operation.error_code) == ("failed", "host-removed")
    assert not Claim.objects.filter(operation=operation).exists()


def test_started_as_it_is_where_the_installation_says_so(world: Scaling) -> None:
    runtime.change(by=BY, now=world.now, scaling_prepare_at_start=False)
    vm = world.add_sized("web", world.add_host(1), state=PowerState.OFF, scaling=facts(256, most_vcpus=1, virtio_mib=0))
    power.run(power.power(_joined(vm), action=PowerAction.START, by=BY, now=world.now), clock=world.clock)
    assert world.truth(vm).facts.max_vcpus == 1


def test_prepared_when_cloudops_starts_it(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.add_host(1)
    plain = facts(256, most_vcpus=1, virtio_mib=0)
    vm = world.add_sized("web", host, state=PowerState.OFF, scaling=plain)
    other = world.add_sized("db", host, state=PowerState.OFF, scaling=plain, dynamic_scaling=False)
    for one in (vm, other):
        power.run(power.power(_joined(one), action=PowerAction.START, by=BY, now=world.now), clock=world.clock)
    assert (world.truth(vm).facts.max_vcpus, world.truth(vm).facts.max_memory_mib) == (4, 1_024)
    assert (world.truth(vm).vcpus, world.truth(vm).memory_mib) == (1, 256)
    assert world.truth(other).facts.max_vcpus == 1

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("headroom is broken")

    third = world.add_sized("app", host, state=PowerState.OFF, scaling=plain)
    monkeypatch.setattr(headroom, "define_headroom", broken)
    operation = power.power(_joined(third), action=PowerAction.START, by=BY, now=world.now)
    power.run(operation, clock=world.clock)
    assert world.truth(third).power_state is PowerState.RUNNING, "nothing hinders a start"
