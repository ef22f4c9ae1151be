"""What a job makes of what nobody foresaw: errors while it plans, and hosts that are removed under it."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.core.models import Event
from cloudops.inventory import hosts
from placement import maintenance
from placement.maintenance import advancing
from placement.models import Maintenance
from tests.placement.maintenance.draining import Drains
from tests.placement.moving import BY


def test_an_error_while_planning_is_said_and_tried_again(world: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = world.build_host("a"), world.build_host("b")
    world.build_vm("vm0", a)
    world.ready()
    job = world.start(a)

    def surprise(*_: Any, **__: Any) -> None:
        raise ValueError("seven is no host")

    with monkeypatch.context() as patch:
        patch.setattr(advancing, "solve", surprise)
        with pytest.raises(ValueError, match="seven"):
            world.advance(job)
    job.refresh_from_db()
    assert job.blocked_reason == (
        "Something unexpected happened: ValueError: seven is no host; it is tried again in 30 s."
    )
    assert job.wake_at is not None
    assert (job.wake_at - world.now).total_seconds() == 30
    assert advancing.advance_due(now=world.now) == []
    world.step(30)
    job.refresh_from_db()
    assert job.blocked_reason == ""
    world.until_status(job, "holding")
    world.sound()


@pytest.mark.parametrize(("mode", "status"), [("drain", "completed"), ("maintenance", "cancelled")])
def test_a_job_whose_hosts_were_removed_ends_in_words(world: Drains, mode: str, status: str) -> None:
    a, _ = world.build_host("a"), world.build_host("b")
    world.build_vm("vm0", a)
    world.ready()
    job = world.start(a, mode=mode)
    with pytest.raises(hosts.HostInUse) as caught:
        hosts.remove_host(a, by=BY, now=world.now)
    assert "1 maintenance job" in caught.value.detail
    assert "jobs" not in caught.value.detail
    assert caught.value.numbers["maintenance_jobs"] == 1
    hosts.remove_host(a, by=BY, now=world.now, force=True)
    world.hosts.remove(a)
    for _ in range(3):
        world.step(6)
    job.refresh_from_db()
    assert (job.status, job.hosts.count(), job.wake_at) == (status, 0, None)
    assert job.blocked_reason == "All of its hosts were removed from the inventory."
    assert job.ended_at is not None
    assert Event.objects.filter(kind=f"maintenance.{status}", reason=job.blocked_reason).count() == 1


def test_a_host_whose_maintenance_is_over_can_be_removed(world: Drains) -> None:
    a, _ = world.build_host("a"), world.build_host("b")
    world.ready()
    job = world.start(a)
    world.until_status(job, "holding")
    maintenance.complete(job, by=BY, now=world.now)
    assert hosts.remove_host(a, by=BY, now=world.now) == 1
    world.hosts.remove(a)
    assert Maintenance.objects.get(pk=job.pk).status == "completed"
