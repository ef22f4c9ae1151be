"""The same fleets as rows of a private PostgreSQL: what planning takes with the fleet read from the database.

One endpoint has all hosts. A tag is an offering's, storage reach a shared disk on a datastore that only its cluster's
hosts have. Run in a process that has not set up Django yet.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.evacuation_fleet import Shape, planted
from bench.report import Goal, Report
from cloudops.lab.services import PrivatePostgres, PrivateRedis
from placement.planner.model import Kind, Problem, Vm

ROUNDS = 5


def measure(report: Report, shapes: dict[Shape, float]) -> None:
    """One row per shape; the value is the time allowed, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="cloudops-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with PrivatePostgres(folder / "pg") as postgres, PrivateRedis(folder / "redis") as redis:
            _configure(postgres.url(), redis.url())
            for shape, limit_ms in shapes.items():
                _measure(report, shape, limit_ms)


def _configure(database_url: str, redis_url: str) -> None:
    from cryptography.fernet import Fernet

    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "cloudops.settings",
        "CLOUDOPS_DATABASE_URL": database_url,
        "CLOUDOPS_REDIS_URL": redis_url,
        "CLOUDOPS_SECRET_KEY": secrets.token_urlsafe(64),
        "CLOUDOPS_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "CLOUDOPS_PUBLIC_URL": "http://testserver",
        "CLOUDOPS_LOG_LEVEL": "WARNING",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _measure(report: Report, shape: Shape, limit_ms: float) -> None:
    from django.db import connection
    from django.utils import timezone

    from cloudops.core import runtime
    from placement import mirror
    from placement.maintenance import solving
    from placement.maintenance.ground import Asked
    from placement.models import HostCapacity

    problem = planted(shape, 0)
    fill(problem)
    names = {host.name for host in problem.hosts if host.id in problem.sources}
    leaving = frozenset(HostCapacity.objects.filter(host__name__in=names).values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    took = report.row(f"{shape.name}: planning, database reads included", "ms", Goal(limit_ms, at_least=False))
    worked = report.row(f"{shape.name}: planning, database reads included, CPU time", "ms")
    mirror.forget()
    for number in range(ROUNDS + 1):
        began, busy = time.perf_counter(), time.process_time()
        solution = solving.solve(Asked(leaving=leaving), settings=runtime.current(), now=timezone.now())
        if number:  # the first one fills the process's fleet and its connections
            took.add(report.ours, (time.perf_counter() - began) * 1000)
            worked.add(report.ours, (time.process_time() - busy) * 1000)
    report.notes.append(
        f"{shape.name}, from rows: {len(solution.plan.moves)} moves, {len(solution.plan.stranded)} VMs stranded"
    )


def fill(problem: Problem) -> None:
    """Empties the database's fleet and writes this one."""
    from django.utils import timezone

    from cloudops.inventory.models import Cluster, Endpoint, Host, Offering, Tag
    from cloudops.inventory.models import Vm as VmRow
    from placement import capacity
    from placement.models import AffinityGroup, Claim, ClusterPolicy, HostCapacity

    models = (Claim, AffinityGroup, VmRow, HostCapacity, Host, Endpoint, ClusterPolicy, Cluster, Offering, Tag)
    for model in models:
        model._default_manager.all().delete()
    now = timezone.now()
    tags = {name: Tag.objects.create(name=name) for name in sorted({t for host in problem.hosts for t in host.tags})}
    hosts = _hosts(problem, tags)
    vms = _vms(problem, tags, hosts, now)
    _claims(problem, hosts, vms, now)
    _groups(problem, vms, now)
    capacity.refresh(now=now)


def _hosts(problem: Problem, tags: dict[str, Any]) -> dict[str, UUID]:
    """Their keys by the problem's ids; everything they have may be promised once."""
    from cloudops.inventory.models import Cluster, Connection, Endpoint, Host
    from placement.models import ClusterPolicy

    endpoint = Endpoint.objects.create(kind="simulated", uri="simulated://bench?hosts=1")
    clusters = {name: Cluster.objects.create(name=name) for name in sorted({host.cluster for host in problem.hosts})}
    ClusterPolicy.objects.bulk_create(
        ClusterPolicy(cluster=one, cpu_ratio=1, memory_ratio=1, cpu_reserve_threads=0, memory_reserve_mib=0)
        for one in clusters.values()
    )
    rows = {
        host.id: Host(
            endpoint=endpoint,
            cluster=clusters[host.cluster],
            ref=host.name,
            name=host.name,
            connection=Connection.UP,
            cpu_threads=host.vcpus,
            memory_mib=host.memory_mib,
            datastores=[host.cluster.replace("cluster", "store")],
        )
        for host in problem.hosts
    }
    Host.objects.bulk_create(rows.values())
    for host in problem.hosts:
        rows[host.id].tags.set([tags[name] for name in host.tags])
    return {name: row.pk for name, row in rows.items()}


def _vms(problem: Problem, tags: dict[str, Any], hosts: dict[str, UUID], now: datetime) -> dict[str, UUID]:
    """Their keys by the problem's ids."""
    from cloudops.hypervisors.port import PowerState
    from cloudops.inventory.models import Offering
    from cloudops.inventory.models import Vm as VmRow

    offerings = {name: Offering.objects.create(name=name, vcpus=1, memory_mib=1024) for name in tags}
    for name, offering in offerings.items():
        offering.host_tags.add(tags[name])
    rows = {
        vm.id: VmRow(
            ref=vm.id,
            name=vm.name,
            host_id=hosts[vm.host],
            power_state=PowerState.RUNNING,
            vcpus=vm.vcpus,
            memory_mib=vm.memory_mib,
            offering=next((offerings[rule.name] for rule in vm.rules if rule.kind == Kind.TAG), None),
            disks=_disks(vm),
            synced_at=now,
        )
        for vm in problem.vms
    }
    VmRow.objects.bulk_create(rows.values(), batch_size=2000)
    return {name: row.pk for name, row in rows.items()}


def _claims(problem: Problem, hosts: dict[str, UUID], vms: dict[str, UUID], now: datetime) -> None:
    from placement.models import Claim, ClaimKind, HostCapacity

    held = {host: [0, 0] for host in hosts}
    for vm in problem.vms:
        held[vm.host][0] += vm.vcpus
        held[vm.host][1] += vm.memory_mib
    HostCapacity.objects.bulk_create(
        HostCapacity(host_id=key, vcpu_claimed=held[name][0], memory_claimed_mib=held[name][1])
        for name, key in hosts.items()
    )
    Claim.objects.bulk_create(
        (
            Claim(
                host_id=hosts[vm.host],
                vm_id=vms[vm.id],
                kind=ClaimKind.VM,
                vcpus=vm.vcpus,
                memory_mib=vm.memory_mib,
                created_at=now,
            )
            for vm in problem.vms
        ),
        batch_size=2000,
    )


def _disks(vm: Vm) -> list[dict[str, object]]:
    stores = [rule.name for rule in vm.rules if rule.kind == Kind.DATASTORE]
    return [{"target": "vda", "source": "vda", "kind": "shared", "datastore": name} for name in stores]


def _groups(problem: Problem, vms: dict[str, UUID], now: datetime) -> None:
    from placement.models import AffinityGroup

    names = sorted({name for vm in problem.vms for name in vm.apart})
    groups = {name: AffinityGroup(name=name, kind=AffinityGroup.Kind.APART, created_at=now) for name in names}
    AffinityGroup.objects.bulk_create(groups.values())
    through = AffinityGroup.vms.through
    through.objects.bulk_create(
        through(affinitygroup=groups[name], vm_id=vms[vm.id]) for vm in problem.vms for name in vm.apart
    )
