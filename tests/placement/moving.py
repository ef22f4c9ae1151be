"""A small installation of simulated hosts, each with an endpoint of its own, whose time a test lets go by."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from django.db import transaction

from cloudops.core import runtime
from cloudops.core.actors import Actor, ActorKind
from cloudops.core.models import Operation, RuntimeSettings
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import DiskFacts, DiskKind, PowerState, VmFacts
from cloudops.hypervisors.simulated import Faults, MigrationFault, SimulatedHost
from cloudops.inventory import endpoints, sync
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from placement import capacity, migration_run, mirror, power_claims, vm_migrations
from placement.models import Claim, HostCapacity, VmMigration

BY = Actor(ActorKind.USER, "ada", user_id=None, address="192.0.2.7")
MEMORY_MIB = 2_048
_numbers = itertools.count(1)


@contextmanager
def machine_example(clock: Callable[[], datetime], *queues: ModuleType) -> Iterator[None]:
    """One example of a state machine: hypervisors go by ``clock``, nobody serves the queues that the modules ``queues``
    fill, and at its end nothing of it is left in the database."""
    mirror.forget()
    try:
        with transaction.atomic(), pytest.MonkeyPatch.context() as patch:
            for module in queues:
                patch.setattr(module, "enqueue", lambda *_, **__: True)
            simulated.set_clock(lambda: clock().timestamp())
            yield
            transaction.set_rollback(True)
    finally:
        simulated.set_clock(None)
        registry.close_all()
        mirror.forget()


@dataclass
class Moving:
    """``now`` is the time of the installation and of its hypervisors; :meth:`pause` lets it go by."""

    now: datetime
    hosts: list[Host] = field(default_factory=list)
    before_pause: Callable[[], None] | None = None
    name: str = field(default_factory=lambda: f"moving{next(_numbers)}")

    def clock(self) -> datetime:
        return self.now

    def pause(self, seconds: float) -> None:
        """What the runner waits with: time goes by at once."""
        if self.before_pause is not None:
            self.before_pause()
        self.now += timedelta(seconds=seconds)

    def add_host(self, number: int, *, memory_mib: int = 65_536, rate: int = 512) -> Host:
        """One more host behind an endpoint of its own; a VM of 2 GiB takes 4 s to move."""
        uri = f"simulated://{self.name}-{number}?hosts=1&vms=0&migrate_mib_per_second={rate}"
        simulated.reset(uri)
        endpoint = Endpoint.objects.create(kind="simulated", uri=uri, timeout_seconds=1)
        cluster = Cluster.objects.get_or_create(name="Rack 1")[0]
        facts = registry.call(endpoints.spec_of(endpoint), lambda hypervisor: hypervisor.hosts()[0])
        ref = facts.ref
        one = SimulatedHost(ref, f"kvm{number}", 32, 2_400, "EPYC", memory_mib)
        simulated.put_host(uri, one)
        host = Host.objects.create(endpoint=endpoint, cluster=cluster, ref=ref, name=f"kvm{number}")
        self.hosts.append(host)
        self.sync(host)
        return host

    def add_vm(self, name: str, host: Host, *, state: PowerState = PowerState.RUNNING, **more: Any) -> Vm:
        """A VM on shared storage, known to the inventory."""
        ref = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{name}"))
        disks = (DiskFacts("vda", f"san/{name}", DiskKind.SHARED, "san"),)
        values: dict[str, Any] = {"disks": disks, "networks": ("lan",), **more}
        simulated.put_vm(host.endpoint.uri, VmFacts(ref, name, host.ref, state, 2, MEMORY_MIB, **values))
        self.sync(host)
        return Vm.objects.get(ref=ref)

    def sync(self, *hosts: Host) -> None:
        """Reads hosts again, as the inventory does from time to time."""
        for host in hosts or self.hosts:
            sync.sync_endpoint(host.endpoint, now=self.now)
            host.refresh_from_db()
        capacity.refresh(now=self.now)
        power_claims.follow_all(now=self.now)

    def migrate(self, vm: Vm, to: Host | None, **options: Any) -> VmMigration:
        """Asks for it; nobody runs it yet."""
        said = vm_migrations.Options.of(settings_now(), **options)
        vm.refresh_from_db()
        operation = vm_migrations.migrate(vm, to=to, options=said, by=BY, now=self.now)
        return VmMigration.objects.select_related("operation", "vm").get(pk=operation.pk)

    def run(self, migration: VmMigration, pause: Callable[[float], object] | None = None) -> Operation:
        """One runner, until it lets go; the operation as it is then."""
        operation = Operation.objects.get(pk=migration.pk)
        migration_run.run(operation, clock=self.clock, pause=pause or self.pause)
        migration.refresh_from_db()
        operation.refresh_from_db()
        return operation

    def run_for(self, migration: VmMigration, seconds: float) -> Operation:
        """A runner that is killed after so long: it simply is no more."""
        end = self.now + timedelta(seconds=seconds)

        def pause(wait: float) -> None:
            self.pause(wait)
            if self.now >= end:
                raise Killed

        try:
            return self.run(migration, pause)
        except Killed:
            migration.refresh_from_db()
            return Operation.objects.get(pk=migration.pk)

    def where(self, vm: Vm) -> dict[str, str]:
        """Power state by host, asked of the hypervisors that answer."""
        found = {}
        for host in self.hosts:
            facts = sync.read_vm(host.endpoint, vm.ref)
            if facts is not None:
                found[host.name] = str(facts.power_state)
        return found

    def claims(self, vm: Vm) -> set[tuple[str, str]]:
        """Host and kind of each."""
        rows = Claim.objects.filter(vm=vm).values_list("host__host__name", "kind")
        return {(str(name), str(kind)) for name, kind in rows}

    def faults(self, host: Host, **faults: Any) -> None:
        simulated.set_faults(host.endpoint.uri, Faults(**faults))

    def fault(self, host: Host, **fault: Any) -> None:
        simulated.add_migration_fault(host.endpoint.uri, MigrationFault(**fault))


class Killed(BaseException):
    """What kill -9 is to a runner: nothing of it runs any more."""


def settings_now() -> RuntimeSettings:
    return runtime.current()


def claims_add_up() -> None:
    """Every host's sums are those of its claims."""
    for row in HostCapacity.objects.prefetch_related("claims"):
        claims = list(row.claims.all())
        assert row.vcpu_claimed == sum(one.vcpus for one in claims)
        assert row.memory_claimed_mib == sum(one.memory_mib for one in claims)


def steps(operation: Operation) -> list[str]:
    """The state of each of its steps."""
    return [step["status"] for step in operation.steps]
