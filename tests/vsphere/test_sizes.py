"""Sizes of ESXi VMs through CloudOps' own verbs: preflight by the rules of hot-add, live, with a restart, while off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudops.core.actors import Actor, ActorKind
from cloudops.core.models import Operation
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import NoPermission, PowerAction
from cloudops.inventory import clusters, power, sync
from cloudops.inventory.models import Endpoint, Host, Offering, OfferingKind, Vm
from placement import capacity, mirror, power_claims
from scaling import headroom, next_start, planning, resize_run, resizes, subjects
from scaling.models import Resize, VmSize
from scaling.values import Plan, Reach, Wanted
from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan
from tests.vsphere.rows import endpoint_on

BY = Actor(ActorKind.USER, "ada", user_id=None, address="192.0.2.7")


@dataclass
class Site:
    """An installation with one ESXi host; the test is every worker."""

    vcenter: FakeVcenter
    endpoint: Endpoint
    offering: Offering

    def vm(self, name: str) -> Vm:
        return Vm.objects.select_related("host__endpoint").get(name=name)

    def sync(self) -> None:
        sync.sync_endpoint(self.endpoint, now=timezone.now())
        capacity.refresh(now=timezone.now())
        power_claims.follow_all(now=timezone.now())

    def wanted(self, vcpus: int, memory_mib: int, **more: Any) -> Wanted:
        return subjects.wanted(self.offering, vcpus=vcpus, memory_mib=memory_mib, **more)

    def plan(self, name: str, vcpus: int, memory_mib: int) -> Plan:
        return planning.plan_now(self.vm(name), self.wanted(vcpus, memory_mib), now=timezone.now())[1]

    def codes(self, name: str, vcpus: int, memory_mib: int) -> tuple[Reach, set[str]]:
        plan = self.plan(name, vcpus, memory_mib)
        return plan.reach, {reason.code for reason in plan.reasons}

    def resize(self, name: str, vcpus: int, memory_mib: int, how: Reach) -> Resize:
        operation = resizes.resize(
            self.vm(name), wanted=self.wanted(vcpus, memory_mib), how=how, by=BY, now=timezone.now()
        )
        row = Resize.objects.get(pk=operation.pk)
        for _ in range(100):
            resize_run.run(Operation.objects.get(pk=row.pk), clock=timezone.now, pause=lambda _: time.sleep(0.05))
            row.refresh_from_db()
            if row.ended_at is not None:
                return row
        raise AssertionError(row.phase)

    def power(self, name: str, action: PowerAction) -> None:
        operation = power.power(self.vm(name), action=action, by=BY, now=timezone.now())
        power.run(operation, clock=timezone.now)
        self.sync()

    def follow(self) -> None:
        """The worker that looks after what waits for a start."""
        next_start.follow(now=timezone.now())
        for pk in VmSize.objects.filter(next_at__isnull=False).values_list("pk", flat=True):
            next_start.define_while_off(Vm.objects.get(pk=pk), now=timezone.now())
        self.sync()
        next_start.follow(now=timezone.now())


VMS = (
    VmPlan("grows", memory_mib=4096),
    VmPlan("small", memory_mib=2048),
    VmPlan("fixed", memory_mib=4096, cpu_hot_add=False, memory_hot_add=False),
    VmPlan("off", memory_mib=2048, powered_on=False),
)


@contextmanager
def _site() -> Iterator[Site]:
    with FakeVcenter(hosts=[HostPlan("esx-1", cpu_threads=64)], vms=VMS, task_seconds=0.02) as vcenter:
        endpoint = endpoint_on(vcenter)
        cluster = clusters.create(name="sizes", by=BY, now=timezone.now())
        Host.objects.create(endpoint=endpoint, cluster=cluster, ref=vcenter.host("esx-1").mo_id, name="esx-1")
        offering = Offering.objects.create(
            name="web",
            kind=OfferingKind.CUSTOM,
            vcpus=1,
            max_vcpus=16,
            memory_mib=512,
            max_memory_mib=65_536,
            dynamic_scaling=True,
        )
        found = Site(vcenter, endpoint, offering)
        mirror.forget()
        try:
            found.sync()
            Vm.objects.update(offering=offering)
            yield found
        finally:
            registry.close_all()
            mirror.forget()


@pytest.fixture
def site(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    nobody: Callable[..., bool] = lambda *_, **__: True  # noqa: E731
    for module in (resizes, power, next_start):
        monkeypatch.setattr(module, "enqueue", nobody)
    with _site() as found:
        yield found


def test_preflight_knows_the_rules_of_hot_add(site: Site) -> None:
    assert site.codes("grows", 4, 8192) == (Reach.LIVE, set())
    assert site.codes("grows", 4, 8190) == (Reach.LIVE, {"memory-rounded"})
    assert site.codes("grows", 1, 4096)[0] is Reach.RESTART
    assert site.codes("grows", 2, 2048) == (Reach.RESTART, {"no-live-shrink"})
    assert site.codes("small", 2, 3072) == (Reach.LIVE, set())
    reach, codes = site.codes("small", 2, 3076)
    assert reach is Reach.RESTART
    assert codes & {"linux-wall", "memory-ceiling"}
    assert site.codes("fixed", 2, 8192) == (Reach.RESTART, {"memory-hot-add-off"})
    assert site.codes("fixed", 4, 4096) == (Reach.RESTART, {"cpu-hot-add-off"})
    assert site.codes("off", 2, 1026) == (Reach.NOW, {"memory-rounded"})
    assert site.plan("off", 2, 1026).given.memory_mib == 1028
    assert site.plan("fixed", 1, 1026).given.memory_mib == 1028


def test_live_by_restart_and_while_off(site: Site) -> None:
    vm = site.vcenter.vm("grows")
    row = site.resize("grows", 4, 8192, Reach.LIVE)
    assert (row.outcome, vm.cpus, vm.memory_mib) == (Resize.Outcome.UNCONFIRMED, 4, 8192)
    row = site.resize("grows", 1, 1026, Reach.RESTART)
    assert (row.outcome, vm.cpus, vm.memory_mib, vm.power) == (Resize.Outcome.APPLIED, 1, 1028, "poweredOn"), (
        row.progress
    )
    row = site.resize("off", 3, 1024, Reach.NOW)
    assert (row.outcome in {"applied", "unconfirmed"}, site.vcenter.vm("off").cpus) == (True, 3), row.progress
    assert site.vcenter.vm("off").power == "poweredOff"


def test_a_restart_switches_hot_add_on_where_there_is_room_to_grow(site: Site) -> None:
    vm = site.vcenter.vm("fixed")
    row = site.resize("fixed", 3, 8192, Reach.RESTART)
    assert (row.outcome, vm.cpus, vm.memory_mib) == (Resize.Outcome.APPLIED, 3, 8192), row.progress
    assert (vm.cpu_hot_add, vm.memory_hot_add) == (True, True)
    site.sync()
    assert site.codes("fixed", 4, 16384) == (Reach.LIVE, set())


def test_prepared_for_live_scaling_it_is_switched_on_once_it_is_off(site: Site) -> None:
    vm = site.vcenter.vm("fixed")
    lack = headroom.lacks(planning.read(site.vm("fixed")))
    assert lack is not None
    assert "Memory hot add is switched off" in " ".join(lack.words)
    assert headroom.lacks(planning.read(site.vm("grows"))) is None
    row = headroom.prepare(site.vm("fixed"), by=BY, now=timezone.now())
    assert (row.next_headroom, vm.memory_hot_add) == (True, False)
    site.follow()
    assert not vm.memory_hot_add
    site.power("fixed", PowerAction.SHUTDOWN)  # by whomever
    site.follow()
    assert (vm.cpu_hot_add, vm.memory_hot_add, vm.power) == (True, True, "poweredOff")
    site.power("fixed", PowerAction.START)
    site.follow()
    assert not VmSize.objects.get(vm__name="fixed").next_headroom
    assert headroom.lacks(planning.read(site.vm("fixed"))) is None


def test_what_its_platform_refuses_while_it_is_off_is_not_asked_for_all_the_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(next_start, "enqueue", lambda task, vm, **_: asked.append((task, vm)))
    headroom.prepare(site.vm("fixed"), by=BY, now=timezone.now())
    site.power("fixed", PowerAction.STOP)
    for _ in range(5):
        next_start.follow(now=timezone.now())
    vm = site.vm("fixed")
    assert asked == [(next_start.TASK, str(vm.pk))]
    site.vcenter.faults.deny("VirtualMachine.Config.CPUCount", "fixed")
    with pytest.raises(NoPermission):
        next_start.define_while_off(vm, now=timezone.now())
    assert Operation.objects.filter(kind=next_start.KIND, status="failed").count() == 1
    next_start.follow(now=timezone.now() + timedelta(seconds=31))
    assert len(asked) == 2


def test_a_size_for_the_next_start_waits_until_it_is_off(site: Site) -> None:
    vm = site.vcenter.vm("fixed")
    wanted = site.wanted(4, 2048)
    next_start.at_next_start(site.vm("fixed"), wanted=wanted, by=BY, now=timezone.now())
    site.follow()
    assert (vm.cpus, vm.memory_mib) == (2, 4096)
    next_start.forget_next(site.vm("fixed"), by=BY, now=timezone.now())
    next_start.at_next_start(site.vm("fixed"), wanted=wanted, by=BY, now=timezone.now())
    site.power("fixed", PowerAction.STOP)
    assert site.vcenter.vm("fixed").power == "poweredOff"
    site.power("fixed", PowerAction.START)  # by CloudOps, before anybody saw it off
    assert (vm.cpus, vm.memory_mib, vm.power, vm.memory_hot_add) == (4, 2048, "poweredOn", True)
    site.follow()
    row = VmSize.objects.get(vm__name="fixed")
    assert (row.next_size, row.vcpus, row.memory_mib) == (None, 4, 2048)
    assert site.vcenter.calls("ReconfigVM_Task") == 1
