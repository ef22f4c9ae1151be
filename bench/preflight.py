"""How long it takes to tell of 1,000 VMs how each could get each of 50 offerings, in one process, on PostgreSQL.

The goal is a second for the whole matrix, rows read and all. There is no peer that tells this at all: the yardstick is
reading the same rows, and the fleet as placement sees it, without judging anything.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.dashboard import _configure
from bench.report import Goal, OtherLoad, Report, arguments
from cloudops.lab.services import PrivatePostgres, PrivateRedis

if TYPE_CHECKING:
    from cloudops.inventory.models import Host, Offering, Vm
    from scaling.matrix import Matrix

GOAL_MS = 1_000.0
HOSTS, VMS, OFFERINGS = 100, 1_000, 50
SEED = 1


def main() -> None:
    """Starts a private PostgreSQL, fills the database, and measures inside this process."""
    options = arguments(f"The matrix of {VMS:,} VMs and {OFFERINGS} offerings.")
    with tempfile.TemporaryDirectory(prefix="cloudops-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with PrivatePostgres(folder / "pg") as postgres, PrivateRedis(folder / "redis") as redis:
            _configure(postgres.url(), redis.url())
            others = OtherLoad()
            report = _measure(rounds=5 if options.quick else 25)
            report.notes.append(others.note())
    report.publish(options.json)


def _measure(*, rounds: int) -> Report:
    from django.db import connection
    from django.utils import timezone

    now = timezone.now()
    _fill(random.Random(SEED), now)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    report = Report("preflight", ["ours", "floor"], ["floor"])
    whole, goal = f"whole matrix, {VMS * OFFERINGS:,} verdicts", Goal(GOAL_MS, at_least=False)
    found: Matrix | None = None
    for number in range(rounds + 1):
        floor_ms, floor_cpu_ms, _, _ = _timed(lambda: _read(now))
        matrix_ms, matrix_cpu_ms, queries, found = _timed(lambda: _matrix(now))
        if number == 0:  # warms plans and caches
            continue
        row = report.row(whole, "ms", goal)
        row.add("ours", matrix_ms)
        row.add("floor", floor_ms)
        row = report.row("of that, CPU time of the process", "ms")
        row.add("ours", matrix_cpu_ms)
        row.add("floor", floor_cpu_ms)
        report.row("queries", "").add("ours", queries)
        made = found
        plans_ms, _, _, _ = _timed(lambda made=made: _plans(made, vms=20))
        report.row("one plan with every number and reason", "µs").add("ours", 1_000 * plans_ms / (20 * OFFERINGS))
    if found is None:
        raise AssertionError("there is at least one round")
    report.notes.append(
        f"medians of {rounds} rounds; {HOSTS} hosts; floor: the same rows and the fleet, nothing judged"
    )
    report.notes.append(_told(found))
    return report


def _timed(act: Any) -> tuple[float, float, int, Any]:
    """Milliseconds, those of them that this process computed, queries, and what it returned."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        started, computed = time.perf_counter(), time.process_time()
        answer = act()
        elapsed_ms = (time.perf_counter() - started) * 1000
        cpu_ms = (time.process_time() - computed) * 1000
    return elapsed_ms, cpu_ms, len(captured), answer


def _rows() -> tuple[list[Vm], list[Offering]]:
    from cloudops.inventory.models import Offering, Vm

    related = ("host__endpoint", "host__cluster", "project", "offering", "template")
    return list(Vm.objects.prefetch_related(*related)), list(Offering.objects.prefetch_related("host_tags"))


def _read(now: datetime) -> None:
    from cloudops.core import runtime
    from scaling.rooms import Rooms
    from scaling.subjects import subjects

    vms, _ = _rows()
    subjects(vms, settings=runtime.current(), now=now)
    Rooms.read(vms, now=now)


def _matrix(now: datetime) -> Matrix:
    from cloudops.core import runtime
    from scaling.matrix import matrix

    vms, offerings = _rows()
    return matrix(vms, offerings, settings=runtime.current(), now=now)


def _plans(found: Matrix, *, vms: int) -> None:
    rows, offerings = _rows()
    for vm in rows[:vms]:
        for offering in offerings:
            found.plan(vm, offering)


def _told(found: Matrix) -> str:
    sums: dict[str, int] = {}
    for counts in found.counts().values():
        for reach, count in counts.items():
            sums[reach.value] = sums.get(reach.value, 0) + count
    return "verdicts: " + ", ".join(f"{count:,} {reach}" for reach, count in sums.items())


def _fill(chance: random.Random, now: datetime) -> None:
    """VMs of sizes and headroom that no two share, on hosts half of which have little room."""
    from cloudops.accounts.models import Project
    from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Tag, Vm
    from placement import capacity
    from placement.models import HostCapacity

    clusters = Cluster.objects.bulk_create(Cluster(name=f"cluster-{n}", position=n) for n in range(4))
    tags = Tag.objects.bulk_create(Tag(name=name) for name in ("generic", "ssd", "gpu"))
    uris = (f"qemu+tcp://kvm-{n:03}.example.net/system" for n in range(HOSTS))
    endpoints = Endpoint.objects.bulk_create(Endpoint(kind="libvirt", uri=uri) for uri in uris)
    hosts = Host.objects.bulk_create(
        Host(
            endpoint=endpoints[n],
            cluster=clusters[n % 4],
            ref=f"kvm-{n:03}",
            name=f"kvm-{n:03}",
            cpu_threads=64,
            cpu_mhz=2_600,
            memory_mib=262_144,
            connection=Connection.UP,
        )
        for n in range(HOSTS)
    )
    for host in hosts:
        host.tags.set(tags[: chance.randrange(1, 4)])
    projects = Project.objects.bulk_create(
        Project(name=f"project-{n}", quota_vcpus=240, quota_memory_mib=700_000) for n in range(20)
    )
    offerings = _offerings(chance, tags)
    Vm.objects.bulk_create((_vm(chance, n, hosts, projects, offerings) for n in range(VMS)), batch_size=500)
    capacity.refresh(now=now)
    for n, host in enumerate(hosts):
        full = chance.uniform(0.95, 1.0) if n % 2 else chance.uniform(0.2, 0.8)
        row = HostCapacity.objects.get(pk=host.pk)
        row.vcpu_claimed, row.memory_claimed_mib = int(row.vcpu_capacity * full), int(row.memory_capacity_mib * full)
        row.save(update_fields=["vcpu_claimed", "memory_claimed_mib"])


def _offerings(chance: random.Random, tags: list[Any]) -> list[Offering]:
    from cloudops.inventory.models import Offering

    kinds = ["fixed"] * 7 + ["custom"] * 2 + ["unconstrained"]
    made = []
    for n in range(OFFERINGS):
        kind, vcpus, memory_mib = kinds[n % 10], chance.randrange(1, 17), 128 * chance.randrange(2, 256)
        custom = kind == "custom"
        one = Offering.objects.create(
            name=f"offering-{n:02}",
            kind=kind,
            vcpus=vcpus,
            memory_mib=memory_mib,
            max_vcpus=vcpus * 2 if custom else None,
            max_memory_mib=memory_mib * 2 + 1 if custom else None,
            cpu_mhz=chance.choice((None, 500, 1_000, 2_000)),
            dynamic_scaling=n % 8 != 0,
        )
        one.host_tags.set(tags[: chance.choice((0, 0, 1, 2))])
        made.append(one)
    return made


def _vm(chance: random.Random, number: int, hosts: list[Host], projects: list[Any], offerings: list[Offering]) -> Vm:
    from cloudops.hypervisors.port import MemoryDevice, MemoryModel, PowerState, ScalingFacts
    from cloudops.inventory.models import Vm

    vcpus, boot = chance.randrange(1, 9), 2 * chance.randrange(128, 8_192)
    size = 2 * chance.randrange(512, 16_384)
    requested = 2 * chance.randrange(0, size // 2) if chance.random() < 0.5 else 0
    device = MemoryDevice("ua-virtiomem0", MemoryModel.VIRTIO_MEM, size, requested, requested, 2)
    facts = ScalingFacts(
        max_vcpus=vcpus * chance.randrange(1, 5),
        max_memory_mib=boot + size,
        memory_slots=chance.choice((0, 8)),
        boot_memory_mib=boot,
        balloon_mib=boot,
        has_balloon=True,
        dimm_limit_mib=boot + size + 8_192,
        memory_devices=(device,) if chance.random() < 0.7 else (),
    )
    return Vm(
        ref=str(uuid.UUID(int=number)),
        name=f"vm-{number:04}",
        host=hosts[number % len(hosts)],
        project=chance.choice(projects),
        offering=chance.choice(offerings),
        power_state=PowerState.RUNNING if number % 10 else PowerState.OFF,
        vcpus=vcpus,
        memory_mib=boot + sum(one.requested_mib for one in facts.memory_devices),
        scaling={**asdict(facts), "memory_devices": [asdict(one) for one in facts.memory_devices]},
    )


if __name__ == "__main__":
    main()
