"""Several threads, one database: one resize per VM, one runner per resize, no room and no quota given twice.

script/test runs this on SQLite and on PostgreSQL, where the threads really work side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from django.utils import timezone

from cloudops.accounts.models import Project
from cloudops.core.errors import TransitionConflict
from cloudops.core.models import Operation
from cloudops.hypervisors import registry
from placement import mirror, vm_migrations
from placement.models import Claim, ClaimKind, HostCapacity, VmMigration
from scaling import resize_run, resizes
from scaling.models import Resize
from scaling.values import Reach
from tests.placement.moving import claims_add_up
from tests.racing import together
from tests.scaling.world import BY, Scaling

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
THREADS = 4


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scaling]:
    """Hosts by the real clock; nobody serves the queues."""
    monkeypatch.setattr(vm_migrations, "enqueue", lambda *_, **__: True)
    monkeypatch.setattr(resizes, "enqueue", lambda *_, **__: True)
    world = Scaling(now=timezone.now())
    yield world
    registry.close_all()
    mirror.forget()


def test_asked_by_many_at_once_it_is_one_resize_or_one_migration(busy: Scaling) -> None:
    first, second = busy.add_host(1), busy.add_host(2)
    vm, wanted = busy.add_sized("web", first), busy.wanted(2, 512)

    def work(number: int) -> str:
        if number % 2:
            vm_migrations.migrate(vm, to=second, by=BY, now=timezone.now())
            return "won"
        resizes.resize(vm, wanted=wanted, how=Reach.LIVE, by=BY, now=timezone.now())
        return "won"

    outcomes = together(work, THREADS)
    assert outcomes == {"won": 1, "operation-running": THREADS - 1}
    assert Operation.objects.count() == 1
    assert Resize.objects.count() + VmMigration.objects.count() == 1
    assert Claim.objects.exclude(kind=ClaimKind.VM).count() == 1
    claims_add_up()


def test_many_runners_one_at_work(busy: Scaling) -> None:
    vm = busy.add_sized("web", busy.add_host(1))
    row = busy.resize(vm, busy.wanted(3, 1_025))

    def work(_: int) -> str:
        try:
            operation = Operation.objects.get(pk=row.pk)
            resize_run.run(operation, clock=timezone.now, pause=lambda seconds: time.sleep(seconds / 10))
        except TransitionConflict:
            return "taken"
        return "ran"

    outcomes = together(work, THREADS)
    assert outcomes["ran"] == 1, outcomes
    ended = busy.fresh(row)
    assert (ended.outcome, ended.operation.status) == (Resize.Outcome.APPLIED, "succeeded")
    assert busy.claimed(vm) == {"vm": ("kvm1", 3, 1_026)}
    claims_add_up()


def test_no_room_is_given_twice(busy: Scaling) -> None:
    """Four VMs want to grow on a host with room for two of them."""
    host = busy.add_host(1, memory_mib=1_024 + THREADS * 256 + 2 * 256)
    vms = [busy.add_sized(f"vm{number}", host) for number in range(THREADS)]
    wanted = busy.wanted(1, 512)

    def work(number: int) -> str:
        resizes.resize(vms[number], wanted=wanted, how=Reach.LIVE, by=BY, now=timezone.now())
        return "started"

    outcomes = together(work, THREADS)
    assert outcomes["started"] == 2, outcomes
    assert set(outcomes) <= {"started", "no-room-to-grow", "size-not-reachable-so"}
    room = HostCapacity.objects.get(pk=host.pk)
    assert room.memory_claimed_mib == room.memory_capacity_mib
    claims_add_up()


def test_no_quota_is_given_twice(busy: Scaling) -> None:
    """Four VMs of a project want to grow, which has quota for one of them."""
    project = Project.objects.create(name="acme", quota_memory_mib=THREADS * 256 + 256)
    host = busy.add_host(1)
    vms = [busy.add_sized(f"vm{number}", host, project=project) for number in range(THREADS)]
    wanted = busy.wanted(1, 512)

    def work(number: int) -> str:
        resizes.resize(vms[number], wanted=wanted, how=Reach.LIVE, by=BY, now=timezone.now())
        return "started"

    outcomes = together(work, THREADS)
    assert outcomes["started"] == 1, outcomes
    assert set(outcomes) <= {"started", "quota-exceeded", "size-not-reachable-so"}
    assert Resize.objects.count() == 1
    claims_add_up()
