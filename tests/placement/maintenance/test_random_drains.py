"""Seeded random drains with faults: nothing is stopped, nothing is stranded in silence, nothing moves twice at once,
and no host ever holds more than it may.

The suite runs some of them; ``CLOUDOPS_TEST_DRAINS=1000`` says how many instead, ``CLOUDOPS_TEST_DRAINS_FROM=500`` with
which seed to begin.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from django.db import transaction

from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import (
    DestinationUnreachable,
    DiskFacts,
    DiskKind,
    MigrationInterrupted,
    OutOfSpace,
    PowerState,
    VmFacts,
)
from cloudops.hypervisors.simulated import Faults, MigrationFault, SimulatedHost
from cloudops.hypervisors.simulated.fleet import parse_uri
from cloudops.hypervisors.simulated.landscape import Landscape
from cloudops.inventory.models import Connection, Host, Vm
from placement import maintenance, mirror, power_claims
from placement.maintenance import advancing
from placement.models import HostCapacity, Maintenance, MaintenanceMove, VmMigration
from tests.placement.maintenance.draining import RESERVE_MIB, START, Drains, fleet
from tests.placement.moving import BY, Killed

DRAINS = int(os.environ.get("CLOUDOPS_TEST_DRAINS", "40"))
FIRST = int(os.environ.get("CLOUDOPS_TEST_DRAINS_FROM", "0"))
HOSTS = 5
RATE = 8_192
STEP_SECONDS = 1.0
MOST_STEPS = 90
ERRORS = (MigrationInterrupted, DestinationUnreachable, OutOfSpace)


@dataclass
class Drain:
    """One seed's drain on the world's hosts."""

    world: Drains
    seed: int
    dice: random.Random = field(init=False)
    jobs: list[Maintenance] = field(default_factory=list)
    dead: set[Host] = field(default_factory=set)
    refs: set[str] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def lay_out(self) -> None:
        """VMs at random, between half and nearly full, some pinned, some off."""
        world, dice = self.world, self.dice
        for host in world.hosts:
            uri = host.endpoint.uri
            simulated.reset(uri)
            gib = dice.choice((16, 24, 32))
            simulated.put_host(uri, SimulatedHost(host.ref, host.name, 64, 2_400, "EPYC", gib * 1_024 + RESERVE_MIB))
            room = int(gib * dice.uniform(0.2, 0.8))
            while room >= 2:
                size = min(room, dice.choice((2, 4, 4, 8)))
                off = dice.random() < 0.05
                ref = f"{self.seed}-{host.name}-{room}"
                disks = (DiskFacts("vda", f"san/{ref}", DiskKind.SHARED, "san"),)
                state = PowerState.OFF if off else PowerState.RUNNING
                facts = VmFacts(ref, ref, host.ref, state, 1, size * 1_024, disks=disks, networks=("lan",))
                simulated.put_vm(uri, facts)
                if not off:
                    self.refs.add(ref)
                room -= size
        world.now = START
        world.seen_over.clear()
        world.runners.clear()
        mirror.forget()
        world.sync()
        for vm in Vm.objects.all():
            if dice.random() < 0.03:
                vm.pinned = True
                vm.save(update_fields=["pinned"])

    def start(self) -> None:
        hosts = self.dice.sample(self.world.hosts, 3)
        how = self.dice.random()
        if how < 0.6:
            self.jobs.append(self.world.start(hosts[0], mode=self.dice.choice(("maintenance", "maintenance", "drain"))))
        elif how < 0.8:
            self.jobs.append(self.world.start(hosts[0], hosts[1], hosts_at_once=self.dice.choice((1, 2))))
        else:
            self.jobs += [self.world.start(hosts[0]), self.world.start(hosts[1])]

    def trouble(self) -> None:
        """What may happen between two looks."""
        dice, world = self.dice, self.world
        host = dice.choice(world.hosts)
        kinds = ("calm", "fail", "dies", "revives", "cancelled", "worker", "runner")
        (what,) = dice.choices(kinds, weights=(66, 12, 3, 10, 0.5, 4, 4))
        if what == "fail":
            fault = MigrationFault(
                error=dice.choice(ERRORS),
                detail="as the dice fell",
                at_percent=dice.choice((None, 10, 50, 95)),
                direction=dice.choice(("from", "to")),
            )
            simulated.add_migration_fault(host.endpoint.uri, fault)
        elif what == "dies" and len(self.dead) < 2:
            self.dead.add(host)
            simulated.set_faults(host.endpoint.uri, Faults(unreachable=True))
            world.sync(host)
        elif what == "revives" and self.dead:
            self.revive(dice.choice(sorted(self.dead, key=lambda one: one.name)))
        elif what == "cancelled" and self.may_cancel():
            maintenance.cancel(dice.choice(self.jobs), by=BY, now=world.now)
        elif what == "worker":
            self.die()
        elif what == "runner" and world.runners:
            del world.runners[dice.choice(sorted(world.runners))]

    def may_cancel(self) -> bool:
        return not Maintenance.objects.filter(status="completed").exists()

    def revive(self, host: Host) -> None:
        self.dead.discard(host)
        simulated.set_faults(host.endpoint.uri, Faults())
        self.world.sync(host)

    def die(self) -> None:
        """A worker is killed in the middle of a look."""
        left = self.dice.randint(1, 4)

        def clock() -> datetime:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return self.world.now

        with contextlib.suppress(Killed):
            maintenance.advance(self.dice.choice(self.jobs).pk, clock=clock)

    def look(self) -> None:
        """On the hypervisors themselves, and in the claims."""
        running: Counter[str] = Counter()
        for host in self.world.hosts:
            landscape = Landscape(parse_uri(host.endpoint.uri))
            here = [vm for vm in landscape.vms() if vm.power_state == PowerState.RUNNING]
            running.update(vm.ref for vm in here)
            room = landscape.hosts()[host.ref].memory_mib - RESERVE_MIB
            assert sum(vm.memory_mib for vm in here) <= room, (self.seed, host.name, self.world.story())
        assert set(running) == self.refs, (self.seed, "stopped", self.refs - set(running), self.world.story())
        assert max(running.values()) == 1, (self.seed, "twice", self.world.story())
        self.world.look()
        assert self.world.seen_over == [], (self.seed, self.world.seen_over)

    def run(self) -> None:
        self.lay_out()
        self.start()
        for number in range(MOST_STEPS):
            if number < 25:
                self.trouble()
            elif self.dead:
                for host in sorted(self.dead, key=lambda one: one.name):
                    self.revive(host)
            self.world.now += timedelta(seconds=STEP_SECONDS)
            self.world.work()
            self.look()
            if number >= 25 and self.over():
                break
        self.judge()

    def over(self) -> bool:
        """Everybody is done, or says what is in the way, and nothing moves."""
        states = set(Maintenance.objects.exclude(mode="return").values_list("status", flat=True))
        moving = VmMigration.objects.filter(ended_at__isnull=True).exists()
        return states <= {"holding", "completed", "cancelled", "blocked"} and not moving

    def judge(self) -> None:
        """Whatever the end is, it is told: a job that holds is empty, one that does not says of each VM why."""
        assert self.over(), (self.seed, self.world.story())
        self.world.sound()
        for job in Maintenance.objects.all():
            self.told[job.status] += 1
            if job.status == "cancelled":
                continue
            for row in job.hosts.exclude(status__in=["waiting", "released"]).select_related("host"):
                left = Vm.objects.filter(host=row.host, power_state__in=["running", "paused"])
                if row.status == "held":
                    assert not left.exists(), (self.seed, row.host.name, self.world.story())
                else:
                    self.everyone_is_told_of(job, list(left))
            if job.status == "blocked":
                assert job.blocked_reason
        assert (
            not HostCapacity.objects.filter(hold="")
            .filter(host__maintenances__status__in=["draining", "blocked", "held"])
            .exists()
        )

    def everyone_is_told_of(self, job: Maintenance, left: list[Vm]) -> None:
        rows = {row.vm_id: row for row in MaintenanceMove.objects.filter(maintenance=job)}
        for vm in left:
            row = rows[vm.pk]
            assert (row.status, bool(row.reason), bool(row.remedies)) == ("blocked", True, True), (
                self.seed,
                vm.name,
                self.world.story(),
            )


@pytest.fixture
def hosts(db: None) -> Iterator[Drains]:
    with fleet() as world:
        for number in range(HOSTS):
            world.build_host(f"kvm{number}", rate=RATE, cluster=f"Rack {number % 2}")
        yield world


@pytest.mark.timeout(1_800)
def test_random_drains_lose_nothing(hosts: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advancing, "EXACT_SECONDS", 0.0)  # real seconds, which say more but find no more here
    told: Counter[str] = Counter()
    moved = 0
    for seed in range(FIRST, FIRST + DRAINS):
        with transaction.atomic():
            drain = Drain(hosts, seed)
            drain.run()
            told += drain.told
            moved += VmMigration.objects.count()
            transaction.set_rollback(True)
        Host.objects.update(connection=Connection.UNKNOWN)
    assert moved > 2 * DRAINS
    assert told["holding"] + told["completed"] > DRAINS / 2
    assert power_claims.follow_all(now=START) == 0
