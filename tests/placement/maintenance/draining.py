"""A small fleet of simulated hosts that maintenance jobs work on; the test is every worker and lets time go by."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudops.core.errors import Conflict
from cloudops.core.held import Lost
from cloudops.core.models import Operation
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import DiskFacts, DiskKind, PowerState, VmFacts
from cloudops.hypervisors.simulated import SimulatedHost
from cloudops.hypervisors.simulated.fleet import parse_uri
from cloudops.hypervisors.simulated.landscape import Landscape
from cloudops.inventory import endpoints, power, vms
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from placement import maintenance, migration_hold, migration_run, mirror, vm_migrations
from placement.maintenance import advancing, jobs, platform
from placement.models import Claim, HostCapacity, Maintenance, MaintenanceMove, VmMigration
from tests.placement.moving import BY, Moving, claims_add_up

RESERVE_MIB = 1_024
START = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)


@dataclass
class Drains(Moving):
    """``runners``: the migrations that a worker has in hand; to leave one out is to kill its worker."""

    seen_over: list[str] = field(default_factory=list)
    runners: dict[uuid.UUID, migration_run._Runner] = field(default_factory=dict)

    def build_host(
        self,
        name: str,
        *,
        gib: int = 64,
        cluster: str = "Rack 1",
        rate: int = 1_024,
        tags: Iterable[str] = (),
        maintenance_seconds: int | None = None,
    ) -> Host:
        """A host of so many GiB for VMs, behind an endpoint of its own; ``maintenance_seconds``: its platform has a
        maintenance mode of its own that takes so long."""
        uri = f"simulated://{self.name}-{name}?hosts=1&vms=0&migrate_mib_per_second={rate}"
        if maintenance_seconds is not None:
            uri += f"&maintenance_seconds={maintenance_seconds}"
        simulated.reset(uri)
        endpoint = Endpoint.objects.create(kind="simulated", uri=uri, timeout_seconds=1)
        ref = registry.call(endpoints.spec_of(endpoint), lambda hypervisor: hypervisor.hosts()[0].ref)
        simulated.put_host(uri, SimulatedHost(ref, name, 64, 2_400, "EPYC", gib * 1_024 + RESERVE_MIB))
        where = Cluster.objects.get_or_create(name=cluster)[0]
        host = Host.objects.create(endpoint=endpoint, cluster=where, ref=ref, name=name)
        if tags:
            host.tags.set(tag_rows.ensure(tags))
        self.hosts.append(host)
        return host

    def build_vm(
        self, name: str, host: Host, *, gib: int = 2, state: PowerState = PowerState.RUNNING, **more: Any
    ) -> str:
        """A VM on the hypervisor, which the inventory learns of with :meth:`ready`."""
        ref = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{name}"))
        disks = (DiskFacts("vda", f"san/{name}", DiskKind.SHARED, "san"),)
        values: dict[str, Any] = {"disks": disks, "networks": ("lan",), **more}
        simulated.put_vm(host.endpoint.uri, VmFacts(ref, name, host.ref, state, 1, gib * 1_024, **values))
        return ref

    def ready(self) -> None:
        """The inventory reads everything; claims follow."""
        mirror.forget()
        self.sync()

    def vm(self, name: str) -> Vm:
        return Vm.objects.select_related("host").get(name=name)

    def start(self, *hosts: Host, **options: Any) -> Maintenance:
        """A job on these hosts, by the test."""
        what = {key: options.pop(key) for key in ("reason", "title") if key in options}
        chosen = maintenance.Options(**options)
        return maintenance.start(host_ids=[host.pk for host in hosts], options=chosen, by=BY, now=self.now, **what)

    def advance(self, job: Maintenance) -> Maintenance:
        """One look at the job, and the job as it is then."""
        maintenance.advance(job.pk, clock=self.clock)
        job.refresh_from_db()
        return job

    def work(self) -> None:
        """Every worker does what it can do now: runners look once, power operations end, jobs that are due go on."""
        for row in VmMigration.objects.filter(ended_at__isnull=True).order_by("created_at", "pk"):
            try:
                if row.pk not in self.runners:
                    operation = Operation.objects.get(pk=row.pk)
                    self.runners[row.pk] = migration_run._Runner(migration_hold.take(operation, self.clock))
                self.run_on(row.pk)
            except Conflict:
                continue  # its runner was killed and its lease still holds
        for pk in advancing.advance_due(now=self.now):
            maintenance.advance(pk, clock=self.clock)
        for row_id in platform.due(now=self.now):
            platform.follow(row_id, clock=self.clock)

    def run_on(self, key: uuid.UUID) -> None:
        """One runner until it waits: what ``migration_run.run`` does, many side by side."""
        runner = self.runners[key]
        try:
            while runner.advance():
                if runner.wait_seconds:
                    return
        except Lost:
            pass  # another one has it
        self.runners.pop(key, None)

    def step(self, seconds: float = 0.5) -> None:
        """Time goes by, then everybody works; what must never be is looked for."""
        self.now += timedelta(seconds=seconds)
        self.work()
        self.look()

    def look(self) -> None:
        """No host promises more than it may."""
        for row in HostCapacity.objects.select_related("host"):
            if row.memory_claimed_mib > row.memory_capacity_mib or row.vcpu_claimed > row.vcpu_capacity:
                self.seen_over.append(f"{row.host.name} at {self.now:%H:%M:%S}")

    def until(self, done: Callable[[], bool], *, seconds: float = 600.0, each: float = 0.5) -> float:
        """Steps until ``done``; how many seconds that took. Fails when it takes longer than it may."""
        began = self.now
        while not done():
            assert (self.now - began).total_seconds() < seconds, self.story()
            self.step(each)
        return (self.now - began).total_seconds()

    def until_status(self, job: Maintenance, *statuses: str, seconds: float = 600.0) -> float:
        def there() -> bool:
            job.refresh_from_db()
            return job.status in statuses

        return self.until(there, seconds=seconds)

    def run_power(self) -> None:
        """The worker of power operations."""
        for operation in Operation.objects.filter(kind="vm.power", status="pending"):
            power.run(operation, clock=self.clock)

    def stop_in_guest(self, vm: Vm) -> None:
        """Shut down from inside."""
        simulated.put_vm(vm.host.endpoint.uri, _with(self.facts(vm), PowerState.OFF))

    def facts(self, vm: Vm) -> VmFacts:
        """What its hypervisor says, whether CloudOps reaches it or not."""
        found = [Landscape(parse_uri(host.endpoint.uri)).vm(vm.ref) for host in self.hosts]
        settled = [one for one in found if one is not None and one.power_state != PowerState.PAUSED]
        return settled[0] if settled else next(one for one in found if one is not None)

    def really_on(self, vm: Vm) -> list[str]:
        """Names of the hosts on which the VM runs, whoever can ask them."""
        found = []
        for host in self.hosts:
            facts = Landscape(parse_uri(host.endpoint.uri)).vm(vm.ref)
            if facts is not None and facts.power_state == PowerState.RUNNING:
                found.append(host.name)
        return found

    def moves(self, job: Maintenance) -> dict[str, MaintenanceMove]:
        """The job's rows by the VM's name."""
        rows = job.moves.select_related("vm__host", "target", "source", "operation")
        return {row.vm.name: row for row in rows}

    def move(self, job: Maintenance, name: str) -> MaintenanceMove:
        return self.moves(job)[name]

    def statuses(self, job: Maintenance) -> dict[str, str]:
        return {name: row.status for name, row in self.moves(job).items()}

    def story(self) -> str:
        """For a failure: where everything stands."""
        told = [f"{self.now:%H:%M:%S}"]
        for job in Maintenance.objects.all():
            told.append(f"{job.title}: {job.status} {job.blocked_reason!r} wake {job.wake_at}")
            rows = job.hosts.select_related("host")
            told += [f"  {row.host.name}: {row.status} {row.platform} {row.platform_detail}" for row in rows]
            for name, row in self.moves(job).items():
                target = row.target.name if row.target else "-"
                told.append(f"  {name} on {row.vm.host.name}: {row.status} -> {target} {row.reason_code} {row.reason}")
        for one in VmMigration.objects.filter(ended_at__isnull=True).select_related("vm", "operation"):
            told.append(f"  migration of {one.vm.name}: {one.phase} {one.operation.steps}")
        return "\n".join(told)

    def sound(self) -> None:
        """What holds at any moment: sums of claims, every claim has a living owner, nothing was over capacity."""
        claims_add_up()
        assert self.seen_over == []
        incoming = Claim.objects.exclude(kind="vm").exclude(operation__status__in=["pending", "running"])
        assert not incoming.exists()


def _with(facts: VmFacts, state: PowerState) -> VmFacts:
    return replace(facts, power_state=state)


@contextmanager
def quiet_queues() -> Iterator[None]:
    """Nothing is handed to Celery: the test is every worker."""
    places: list[tuple[Any, str, Any]] = []
    for module in (vm_migrations, jobs, advancing, platform, power, vms):
        if hasattr(module, "enqueue"):
            places.append((module, "enqueue", module.enqueue))
            module.enqueue = lambda *_, **__: True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, name, value in places:
            setattr(module, name, value)


@contextmanager
def fleet() -> Iterator[Drains]:
    """An empty fleet whose hypervisors go by its clock."""
    world = Drains(now=START)
    with quiet_queues():
        simulated.set_clock(lambda: world.now.timestamp())
        mirror.forget()
        try:
            yield world
        finally:
            simulated.set_clock(None)
            registry.close_all()
            mirror.forget()


def three(world: Drains, vms: int = 4, gib: int = 64) -> list[Host]:
    """Three hosts; the first runs some VMs of 2 GiB."""
    hosts = [world.build_host(f"kvm{number}", gib=gib) for number in range(1, 4)]
    for number in range(vms):
        world.build_vm(f"vm{number}", hosts[0])
    world.ready()
    return hosts


def hold(host: Host) -> str:
    return str(HostCapacity.objects.get(pk=host.pk).hold)
