"""The platform's own maintenance mode as a drain's end: asked for, waited for, refused, left; and without one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client

from cloudops.accounts.models import Role, User
from cloudops.core.models import Event
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import Busy, NoPermission, PowerState
from cloudops.hypervisors.simulated import MaintenanceFault
from cloudops.inventory import endpoints
from cloudops.inventory.models import Host
from placement import claims, decisions, maintenance, requests
from placement.errors import CapacityGone
from placement.maintenance import platform
from placement.maintenance.errors import NotEmptyYet
from placement.models import ClaimKind, Maintenance, MaintenanceHost, Platform
from placement.spec import Purpose
from tests.placement.maintenance.draining import Drains, hold
from tests.placement.moving import BY


def fleet(world: Drains, *, seconds: int | None = 5, vms: int = 2) -> list[Host]:
    """Three hosts, whose platform has a maintenance mode that takes so long; the first runs some VMs."""
    hosts = [world.build_host(f"esx{number}", maintenance_seconds=seconds) for number in range(1, 4)]
    for number in range(vms):
        world.build_vm(f"vm{number}", hosts[0])
    world.ready()
    return hosts


def inside(host: Host) -> bool:
    """What the platform itself says."""
    found = registry.call(endpoints.spec_of(host.endpoint), lambda hypervisor: hypervisor.hosts())
    return next(one.in_maintenance for one in found if one.ref == host.ref)


def row_of(job: Maintenance) -> MaintenanceHost:
    return job.hosts.select_related("host__endpoint").get()


def until_platform(world: Drains, job: Maintenance, state: str) -> MaintenanceHost:
    world.until(lambda: row_of(job).platform == state, seconds=700)
    return row_of(job)


def told(kind: str) -> int:
    return Event.objects.filter(kind=kind).count()


def test_the_platform_is_asked_once_the_host_is_empty_and_left_at_the_end(world: Drains) -> None:
    first, *_ = fleet(world)
    (words,) = maintenance.preview(host_ids=[first.pk], now=world.now).platform
    assert "Once esx1 is empty" in words
    job = world.start(first)
    world.until(lambda: row_of(job).status == "entering")
    assert not inside(first)
    assert [world.vm(name).host.name for name in ("vm0", "vm1")] != ["esx1", "esx1"]
    assert "puts it into its own maintenance mode" in row_of(job).platform_detail
    job.refresh_from_db()
    assert job.status == "draining"
    with pytest.raises(NotEmptyYet, match="puts it into its own maintenance mode"):
        maintenance.complete(job, by=BY, now=world.now)
    world.until_status(job, "holding")
    assert inside(first)
    first.refresh_from_db()
    assert (first.platform_maintenance, row_of(job).platform, hold(first)) == (True, Platform.ENTERED, "maintenance")
    maintenance.complete(job, by=BY, now=world.now)
    until_platform(world, job, Platform.LEFT)
    first.refresh_from_db()
    assert (inside(first), first.platform_maintenance, first.schedulable, hold(first)) == (False, False, True, "")
    assert (told("maintenance.platform_entered"), told("maintenance.platform_left")) == (1, 1)
    assert row_of(job).platform_wake_at is None
    world.sound()


def test_the_pages_and_the_api_tell_how_far_the_platform_is(world: Drains, client: Client) -> None:
    first, *_ = fleet(world, seconds=60)
    client.force_login(User.objects.create_user("ada", role=Role.ADMIN))
    preview = client.post("/maintenance/new/", {"hosts": str(first.pk), "mode": "maintenance"}).content.decode()
    preview += client.get(f"/maintenance/new/?host={first.pk}").content.decode()
    assert "is asked to put it into its own maintenance mode" in preview
    job = world.start(first)
    world.until(lambda: row_of(job).platform_asked_at is not None)
    page = client.get(f"/maintenance/{job.pk}/").content.decode()
    assert "entering maintenance mode" in page
    assert "puts it into its own maintenance mode" in page
    assert "entering maintenance mode" in client.get("/fleet/").content.decode()
    maintenance.cancel(job, by=BY, now=world.now)
    until_platform(world, job, Platform.LEFT)
    simulated.add_maintenance_fault(first.endpoint.uri, MaintenanceFault(NoPermission, "Host.Config.Maintenance."))
    job = world.start(first)
    world.until_status(job, "blocked")
    page = client.get(f"/maintenance/{job.pk}/").content.decode()
    assert "Complete as it is" in page
    assert "Host.Config.Maintenance." in page
    (told,) = client.get(f"/api/v1/maintenances/{job.pk}/").json()["hosts"]
    assert (told["status"], told["platform"]) == ("blocked", "refused")
    assert "Host.Config.Maintenance." in told["platform_detail"]
    assert told["platform_remedy"]


def test_without_one_a_drained_host_is_all_there_is(world: Drains) -> None:
    first, *_ = fleet(world, seconds=None)
    assert maintenance.preview(host_ids=[first.pk], now=world.now).platform == ()
    job = world.start(first)
    world.until_status(job, "holding")
    assert (row_of(job).platform, row_of(job).status) == (Platform.NONE, "held")
    maintenance.complete(job, by=BY, now=world.now)
    assert (row_of(job).platform, row_of(job).platform_wake_at) == (Platform.NONE, None)


def test_a_drain_does_not_ask_for_it(world: Drains) -> None:
    first, *_ = fleet(world)
    job = world.start(first, mode="drain")
    world.until_status(job, "completed")
    assert (row_of(job).platform, inside(first)) == (Platform.NONE, False)


def test_while_it_is_in_it_nothing_is_placed_there_whatever_cloudops_says(world: Drains) -> None:
    first, second, third = fleet(world, seconds=0)
    registry.call(endpoints.spec_of(third.endpoint), lambda hypervisor: hypervisor.enter_maintenance(third.ref))
    world.sync()
    third.refresh_from_db()
    assert third.platform_maintenance
    vm = world.vm("vm0")
    spec = requests.spec_for(vm, purpose=Purpose.MIGRATE)
    found = {one.host.name: one for one in decisions.candidates(vm, spec=spec, now=world.now)}
    assert (found["esx2"].fits, found["esx3"].fits) == (True, False)
    assert "is in its platform's own maintenance mode" in found["esx3"].reasons
    assert "Take esx3 out of maintenance mode" in " ".join(found["esx3"].remedies)
    with pytest.raises(CapacityGone, match="own maintenance mode"):
        claims.take(
            host_id=third.pk, vm=world.vm("vm1"), kind=ClaimKind.VM, vcpus=1, memory_mib=1, ignore_hold=True,
            ignore_schedulable=True, now=world.now,
        )  # fmt: skip
    job = world.start(first)
    world.until_status(job, "holding")
    assert {world.vm(name).host.name for name in ("vm0", "vm1")} == {"esx2"}
    assert second.name == "esx2"


def test_what_others_asked_for_is_left_to_them(world: Drains) -> None:
    first, *_ = fleet(world, seconds=0, vms=0)
    registry.call(endpoints.spec_of(first.endpoint), lambda hypervisor: hypervisor.enter_maintenance(first.ref))
    world.sync()
    job = world.start(first)
    world.until_status(job, "holding")
    assert row_of(job).platform == Platform.FOUND
    assert "already" in row_of(job).platform_detail
    maintenance.complete(job, by=BY, now=world.now)
    for _ in range(10):
        world.step()
    assert inside(first)


def test_vms_that_stay_by_choice_keep_the_platform_out_of_it(world: Drains) -> None:
    first, *_ = fleet(world)
    stays = world.vm("vm0")
    choices = {stays.pk: maintenance.VmChoice("skip")}
    (words,) = maintenance.preview(
        host_ids=[first.pk], options=maintenance.Options(choices=choices), now=world.now
    ).platform
    assert "vm0 runs on there by choice" in words
    job = world.start(first, choices=choices)
    world.until_status(job, "holding")
    assert row_of(job).platform == Platform.SKIPPED
    assert "vm0 runs on there by choice" in row_of(job).platform_detail
    for _ in range(6):
        world.step(5)
    assert not inside(first)
    maintenance.choose(world.move(job, "vm0"), choice="", by=BY, now=world.now)
    until_platform(world, job, Platform.ENTERED)
    world.until_status(job, "holding")
    assert world.vm("vm0").host != first


def test_a_refusal_blocks_with_its_words_and_is_tried_again_when_somebody_says_so(world: Drains) -> None:
    first, *_ = fleet(world, seconds=0)
    fault = MaintenanceFault(NoPermission, "Host.Config.Maintenance on esx1")
    simulated.add_maintenance_fault(first.endpoint.uri, fault)
    job = world.start(first)
    world.until_status(job, "blocked")
    assert "Host.Config.Maintenance on esx1" in job.blocked_reason
    assert NoPermission.remedy in job.blocked_reason
    assert (row_of(job).status, row_of(job).platform, hold(first)) == ("blocked", Platform.REFUSED, "draining")
    for _ in range(5):
        world.step(60)
    assert not inside(first)
    maintenance.retry(job, by=BY, now=world.now)
    world.until_status(job, "holding")
    assert inside(first)
    assert row_of(job).blocked_reason == ""


def test_what_refuses_does_not_keep_an_empty_host_from_being_completed(world: Drains) -> None:
    first, *_ = fleet(world, seconds=0)
    simulated.add_maintenance_fault(first.endpoint.uri, MaintenanceFault(count=100))
    job = world.start(first)
    world.until_status(job, "blocked")
    assert maintenance.report(job, now=world.now).refused == 1
    maintenance.complete(job, by=BY, now=world.now)
    until_platform(world, job, Platform.LEFT)
    first.refresh_from_db()
    assert (first.schedulable, hold(first), inside(first)) == (True, "", False)


def test_what_passes_is_asked_again_by_itself(world: Drains) -> None:
    first, *_ = fleet(world, seconds=0)
    simulated.add_maintenance_fault(first.endpoint.uri, MaintenanceFault(Busy, "Another task.", count=3))
    job = world.start(first)
    world.until(lambda: row_of(job).platform_attempts == 2)
    assert "Another task." in row_of(job).platform_detail
    assert row_of(job).status == "entering"
    world.until_status(job, "holding")
    assert inside(first)
    assert (row_of(job).platform_attempts, told("maintenance.platform_failed")) == (0, 1)


def test_cancel_on_the_way_takes_it_back(world: Drains) -> None:
    first, *_ = fleet(world, seconds=60)
    job = world.start(first)
    world.until(lambda: row_of(job).platform_asked_at is not None)
    maintenance.cancel(job, by=BY, now=world.now)
    assert (row_of(job).status, row_of(job).platform) == ("released", Platform.LEAVING)
    until_platform(world, job, Platform.LEFT)
    for _ in range(20):
        world.step(5)
    assert not inside(first)
    world.sound()


def test_leaving_goes_on_until_the_platform_answers(world: Drains) -> None:
    first, *_ = fleet(world, seconds=0)
    job = world.start(first)
    world.until_status(job, "holding")
    world.faults(first, unreachable=True)
    maintenance.complete(job, by=BY, now=world.now)
    for _ in range(10):
        world.step(5)
    row = row_of(job)
    assert (row.platform, row.platform_attempts > 1) == (Platform.LEAVING, True)
    assert "asked again" in row.platform_detail
    world.faults(first)
    until_platform(world, job, Platform.LEFT)
    assert not inside(first)


def test_a_worker_that_dies_leaves_rows_that_the_next_goes_on_from(
    world: Drains, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the platform is asked, after it was asked, and after it answered."""
    first, *_ = fleet(world, seconds=30)
    job = world.start(first)
    places = ["_call", "_later", "_end"]

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    def follow_on() -> None:
        for _ in range(100):
            platform.follow(row_of(job).pk, clock=world.clock)
            world.now += timedelta(seconds=1)

    world.until(lambda: row_of(job).status == "entering", each=0.25)
    for place in places:
        with monkeypatch.context() as patch:
            patch.setattr(platform, place, die)
            with pytest.raises(Killed):
                follow_on()
    world.until_status(job, "holding")
    assert inside(first)
    maintenance.cancel(job, by=BY, now=world.now)
    with monkeypatch.context() as patch:
        patch.setattr(platform, "_end", die)
        with pytest.raises(Killed):
            platform.follow(row_of(job).pk, clock=world.clock)
    until_platform(world, job, Platform.LEFT)
    assert not inside(first)


def test_the_next_maintenance_of_a_host_waits_until_the_last_has_left(world: Drains) -> None:
    """What is seen meanwhile is not taken for somebody else's."""
    first, *_ = fleet(world, seconds=0, vms=0)
    job = world.start(first)
    world.until_status(job, "holding")
    simulated.add_maintenance_fault(first.endpoint.uri, MaintenanceFault(Busy, "not now", leave=True, count=2))
    maintenance.complete(job, by=BY, now=world.now)
    again = world.start(first)
    world.until(lambda: "An earlier maintenance" in row_of(again).platform_detail)
    world.until_status(again, "holding")
    assert (row_of(job).platform, row_of(again).platform) == (Platform.LEFT, Platform.ENTERED)
    assert inside(first)


def test_a_vm_that_comes_meanwhile_is_moved_first(world: Drains) -> None:
    first, *_ = fleet(world, seconds=60)
    job = world.start(first)
    world.until(lambda: row_of(job).platform_asked_at is not None)
    world.build_vm("late", first, state=PowerState.RUNNING)
    world.sync()
    world.until(lambda: row_of(job).status == "draining")
    assert row_of(job).platform in {Platform.LEAVING, Platform.LEFT}
    world.until_status(job, "holding", seconds=900)
    assert world.vm("late").host != first
    assert inside(first)


def test_somebody_who_ends_it_outside_is_said(world: Drains) -> None:
    first, *_ = fleet(world, seconds=0)
    job = world.start(first)
    world.until_status(job, "holding")
    registry.call(endpoints.spec_of(first.endpoint), lambda hypervisor: hypervisor.leave_maintenance(first.ref))
    world.step(20)
    world.sync()
    world.step(10)
    assert "Somebody took it out" in row_of(job).platform_detail
    assert (row_of(job).status, hold(first)) == ("held", "maintenance")
    assert told("maintenance.platform_ended_outside") == 1


def test_hosts_in_turns_leave_it_one_by_one_and_vms_come_home(world: Drains) -> None:
    hosts = [world.build_host(f"esx{number}", gib=16, maintenance_seconds=2) for number in range(1, 4)]
    for number in range(3):
        world.build_vm(f"vm{number}", hosts[number])
    world.ready()
    job = world.start(*hosts, hosts_at_once=1)
    for host in hosts:
        world.until_status(job, "holding")
        assert [inside(one) for one in hosts] == [one == host for one in hosts]
        maintenance.release_host(job, host=host, by=BY, now=world.now)
        world.until(lambda one=host: not inside(one))  # type: ignore[misc]
        job.refresh_from_db()
    assert job.status == "completed"
    home = maintenance.bring_home(job, by=BY, now=world.now)
    world.until_status(home, "completed")
    world.sound()
