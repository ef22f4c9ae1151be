"""An installation of any size, made of rows: hosts, VMs, sessions, people. Also fills a database to look at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from cloudops.accounts.models import Membership, Project, Role, User
from cloudops.core.actors import system
from cloudops.core.models import Event, Operation, subject_of
from cloudops.hypervisors.port import Kind, PowerState
from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Offering, Tag, Template, Vm
from cloudops.managers.models import ServerProcess
from consoles.models import ConsoleSession, ForeignConnection
from consoles.reasons import ClosedReason
from placement import capacity, claims, decisions, groups
from placement.models import AffinityGroup, Decision, Maintenance, MaintenanceHost, MaintenanceMove, VmMigration
from placement.requests import spec_for
from placement.spec import Purpose

PASSWORD = "correct horse battery staple"


@dataclass
class Installation:
    """What was made. ``tenant`` is a member of ``project``; ``stranger`` of nothing."""

    admin: User
    operator: User
    tenant: User
    stranger: User
    project: Project
    clusters: list[Cluster]
    hosts: list[Host]
    vms: list[Vm]
    sessions: list[ConsoleSession]
    process: ServerProcess
    offering: Offering
    operation: Operation
    template: Template
    group: AffinityGroup
    decision: Decision
    job: Maintenance
    move: MaintenanceMove
    migration: VmMigration


def _user(name: str, role: str, password: str) -> User:
    found = User.objects.filter(username=name).first()
    return found or User.objects.create_user(name, f"{name}@example.net", password or None, role=role)


def build(
    now: datetime,
    *,
    hosts: int = 3,
    vms_per_host: int = 4,
    sessions: int = 6,
    people: int = 0,
    password: str = PASSWORD,
) -> Installation:
    """Rows for an installation of two hosts or more; every second VM belongs to the tenant's project."""
    cast = {name: _user(name, role, password) for name, role in _CAST.items()}
    project = Project.objects.create(name="apollo", description="The landing page and its database.")
    Membership.objects.create(project=project, user=cast["tina"])
    others = Project.objects.bulk_create([Project(name=f"project-{number:03}") for number in range(people)])
    members = User.objects.bulk_create([User(username=f"person-{number:03}") for number in range(people)])
    Membership.objects.bulk_create([Membership(project=p, user=u) for p, u in zip(others, members, strict=True)])
    offering = Offering.objects.create(name="small", vcpus=1, memory_mib=1024)
    Offering.objects.bulk_create([Offering(name=f"size-{n}", vcpus=n, memory_mib=1024 * n) for n in range(2, 6)])
    clusters = Cluster.objects.bulk_create([Cluster(name=f"linux-{x}", position=i) for i, x in enumerate("ab")])
    made = _hosts(now, clusters, hosts)
    vms = _vms(now, made, vms_per_host, project, offering)
    process = ServerProcess.objects.create(
        role="web", server_name="m1", pid=4242, version="0.1.0", started_at=now - timedelta(hours=3),
        renewed_at=now, lease_until=now + timedelta(hours=12),
    )  # fmt: skip
    opened = _sessions(now, vms, [cast["tina"], cast["olga"], cast["anna"], *members[:40]], process, sessions)
    operation = _happenings(now, made, vms, cast["anna"], project)
    template, group, decision = _placed(now, vms)
    job, move = _maintained(now, made, vms)
    return Installation(
        cast["anna"], cast["olga"], cast["tina"], cast["stan"],
        project, clusters, made, vms, opened, process, offering, operation, template, group, decision,
        job, move, _moving(now, made, vms),
    )  # fmt: skip


def _placed(now: datetime, vms: list[Vm]) -> tuple[Template, AffinityGroup, Decision]:
    """Room on every host, claims of what runs, a template, a group, and a decision about the first VM."""
    by = system("seed")
    capacity.refresh(now=now)
    claims.adopt(vms=[vm for vm in vms if vm.is_running], now=now)
    template = Template.objects.create(name="debian-12", description="Debian 12 cloud image")
    template.host_tags.set(Tag.objects.all())
    Vm.objects.filter(pk__in=[vm.pk for vm in vms[::3]]).update(template=template)
    group = groups.create(name="web", kind="apart", vms=vms[:4], by=by, now=now)
    vm = Vm.objects.select_related("host__endpoint", "offering", "template").get(pk=vms[0].pk)
    asked = spec_for(vm, purpose=Purpose.MIGRATE, now=now)
    decision = decisions.dry_run(asked, by=by, now=now, store=True, vm=vm).decision
    assert decision is not None
    return template, group, decision


def _maintained(now: datetime, hosts: list[Host], vms: list[Vm]) -> tuple[Maintenance, MaintenanceMove]:
    """A job that was completed an hour ago, with VMs that were moved, and some that stayed."""
    started = now - timedelta(hours=2)
    job = Maintenance.objects.create(
        title=f"Maintenance of {hosts[-1].name}", reason="New firmware", status="completed", requested_by_name="anna",
        created_at=started, started_at=started, emptied_at=started, ended_at=now - timedelta(hours=1),
    )  # fmt: skip
    MaintenanceHost.objects.create(
        maintenance=job, host=hosts[-1], status="released", started_at=started, emptied_at=started, released_at=started
    )
    moves = [
        MaintenanceMove(
            maintenance=job, vm=vm, source=hosts[-1], target_id=vm.host_id, position=n,
            status="skipped" if n == 3 else "moved", updated_at=started,
        )
        for n, vm in enumerate(vms[:40])
    ]  # fmt: skip
    MaintenanceMove.objects.bulk_create(moves)
    return job, moves[0]


def _moving(now: datetime, hosts: list[Host], vms: list[Vm]) -> VmMigration:
    """Migrations that ended, well and not, and one under way: of the second VM, with a claim where it goes."""
    for n, vm in enumerate(vms[:40:2]):
        state = "failed" if n % 3 == 2 else "succeeded"
        _migration(now - timedelta(hours=1, minutes=n), hosts, vm, status=state)
    row = _migration(now - timedelta(seconds=20), hosts, vms[1], status="running")
    claims.take(
        host_id=row.target_id, vm=row.vm, kind="incoming", vcpus=1, memory_mib=1024, operation=row.operation,
        ignore_schedulable=True, now=now,
    )  # fmt: skip
    return row


def _migration(now: datetime, hosts: list[Host], vm: Vm, *, status: str) -> VmMigration:
    running = status == "running"
    target = next(host for host in hosts if host.pk != vm.host_id and host.connection == Connection.UP)
    operation = Operation.objects.create(
        kind="vm.migrate", title=f"Migrate {vm.name} to {target.name}", status=status, subject_type="inventory.vm",
        subject_id=str(vm.pk), subject_name=vm.name, requested_by_name="anna", created_at=now, started_at=now,
        steps=[{"name": "Copy memory", "status": "running" if running else "done", "detail": "", "at": None}],
        ended_at=None if running else now + timedelta(seconds=12),
        error_code="migration-timeout" if status == "failed" else "",
        error_detail="The migration took longer than allowed." if status == "failed" else "",
        error_remedy="Allow more time." if status == "failed" else "",
    )  # fmt: skip
    return VmMigration.objects.create(
        operation=operation, vm=vm, source_id=vm.host_id, target=target, mode="live",
        phase="copying" if running else "ended", created_at=now, copying_since=now,
        options={"downtime_milliseconds": 300},
        progress={
            "memory_total_mib": 2048, "memory_remaining_mib": 812, "memory_sent_mib": 1300, "percent": 60,
            "rate_mib_per_second": 118.2, "downtime_milliseconds": None, "elapsed_seconds": 11.0, "post_copy": False,
        },
        ended_at=None if running else now + timedelta(seconds=12),
    )  # fmt: skip


_CAST = {"anna": Role.ADMIN, "olga": Role.OPERATOR, "tina": Role.TENANT, "stan": Role.TENANT}


def _hosts(now: datetime, clusters: list[Cluster], count: int) -> list[Host]:
    kinds = [Kind.LIBVIRT, Kind.SIMULATED]
    endpoints = Endpoint.objects.bulk_create(
        [
            Endpoint(
                kind=kinds[n % 2], uri=f"qemu+tls://kvm-{n:03}/system" if n % 2 == 0 else f"simulated://sim-{n:03}"
            )
            for n in range(count)
        ]
    )
    tag = Tag.objects.create(name="ssd")
    rows = [
        Host(
            endpoint=endpoint,
            cluster=clusters[n % len(clusters)],
            ref="host",
            name=f"kvm-{n:03}",
            connection=Connection.UP if n % 7 != 2 else Connection.UNREACHABLE,
            connection_changed_at=now - timedelta(minutes=2 + n),
            error_code="hypervisor-unreachable" if n % 7 == 2 else "",
            error_detail=f"TCP connect to 10.0.0.{n}:16514 timed out after 5 s." if n % 7 == 2 else "",
            error_remedy="Check that the host is up and that no firewall is between." if n % 7 == 2 else "",
            schedulable=n % 5 != 4,
            cpu_threads=24,
            cpu_mhz=2900,
            cpu_model="Intel(R) Xeon(R) Gold 6226R",
            cpu_percent=10 + 17 * n % 80,
            memory_mib=131_072,
            memory_free_mib=120_000 - 16_000 * (n % 7),
            hypervisor_version="QEMU 7.2.22 / libvirt 9.0.0",
            console_limit_override=4 if n % 4 == 0 else None,
            synced_at=now - timedelta(seconds=20),
        )
        for n, endpoint in enumerate(endpoints)
    ]
    made = Host.objects.bulk_create(rows)
    Host.tags.through.objects.bulk_create([Host.tags.through(host=host, tag=tag) for host in made[::2]])
    return made


def _vms(now: datetime, hosts: list[Host], each: int, project: Project, offering: Offering) -> list[Vm]:
    states = [PowerState.RUNNING, PowerState.RUNNING, PowerState.RUNNING, PowerState.OFF, PowerState.PAUSED]
    rows = [
        Vm(
            host=host,
            ref=str(uuid4()),
            name=f"web-{index:03}-{n}" if n % 2 == 0 else f"db-{index:03}-{n}",
            project=project if n % 2 == 0 else None,
            offering=offering if n % 3 == 0 else None,
            power_state=states[n % len(states)],
            vcpus=1 + n % 4,
            memory_mib=1024 * (1 + n % 4),
            guest_os="Debian 12",
            synced_at=now,
        )
        for index, host in enumerate(hosts)
        for n in range(each)
    ]
    return Vm.objects.bulk_create(rows, batch_size=2000)


def _sessions(
    now: datetime, vms: list[Vm], users: list[User], process: ServerProcess, count: int
) -> list[ConsoleSession]:
    rows = [
        _session(now, vms[n * 7 % len(vms)], users[n % len(users)], process, n) for n in range(count)
    ]  # fmt: skip
    reasons = list(ClosedReason)
    for n in range(count):
        row = _session(
            now - timedelta(minutes=20 + 7 * n % 90), vms[n % len(vms)], users[n % len(users)], process, 1000 + n
        )
        row.status, row.ended_at = "closed", now - timedelta(minutes=5 + 3 * n % 60)
        row.closed_reason, row.closed_by = reasons[n % len(reasons)], "reaper"
        rows.append(row)
    if vms:
        ForeignConnection.objects.create(
            vm=vms[0], host_id=vms[0].host_id, label="192.0.2.9:50412", client_host="192.0.2.9", client_port=50412,
            first_seen_at=now - timedelta(minutes=9), last_seen_at=now,
        )  # fmt: skip
    return ConsoleSession.objects.bulk_create(rows, batch_size=2000)


def _session(now: datetime, vm: Vm, user: User, process: ServerProcess, n: int) -> ConsoleSession:
    pending = n % 9 == 8
    opened = now - timedelta(minutes=1 + 5 * n % 50)
    return ConsoleSession(
        vm=vm,
        host_id=vm.host_id,
        user=user,
        status="pending" if pending else "active",
        secret_sha256=uuid4().hex,
        redeem_by=now + timedelta(hours=12) if pending else opened,
        process=None if pending else process,
        created_at=opened,
        connected_at=None if pending else opened + timedelta(seconds=2),
        last_input_at=None if pending else now - timedelta(seconds=61 * n % 880),
        client_address=f"198.51.100.{n % 250}",
    )


def _happenings(now: datetime, hosts: list[Host], vms: list[Vm], admin: User, project: Project) -> Operation:
    vm, host = (vms[0] if vms else None), (hosts[0] if hosts else None)
    kinds = [
        ("vm.power_changed", vm, "off", "running"),
        ("host.up", host, "unreachable", "up"),
        ("vm.assigned", vm, "", ""),
    ]
    for n in range(60):
        kind, subject, before, after = kinds[n % 3]
        Event(
            at=now - timedelta(minutes=60 - n),
            kind=kind,
            severity="warning" if n % 5 == 0 else "info",
            actor_kind="user",
            actor_name=admin.username,
            actor_user_id=admin.pk,
            address="198.51.100.7",
            from_state=before,
            to_state=after,
            project_id=project.pk,
            data={"n": n} if n % 3 == 0 else {},
            **(subject_of(subject) if subject else {}),
        ).save()
    _operation(
        now, admin, None, status="failed", title="Stop db-000-1", subject_id=str(uuid4()), error="hypervisor-timeout"
    )
    return _operation(now, admin, project, status="running", title="Start web-000-0", subject_id=str(uuid4()))


def _operation(
    now: datetime, admin: User, project: Project | None, *, status: str, title: str, subject_id: str, error: str = ""
) -> Operation:
    return Operation.objects.create(
        kind="vm.power",
        title=title,
        status=status,
        subject_type="inventory.vm",
        subject_id=subject_id,
        subject_name=title.split()[1],
        project_id=project.pk if project else None,
        requested_by_id=admin.pk,
        requested_by_name=admin.username,
        progress_percent=50,
        steps=[
            {"name": "Ask the hypervisor", "status": "done", "detail": ""},
            {"name": "Wait for it", "status": "failed" if error else "running", "detail": "10 s"},
        ],
        created_at=now - timedelta(minutes=3),
        started_at=now - timedelta(minutes=3),
        heartbeat_at=now,
        ended_at=now - timedelta(minutes=2) if error else None,
        error_code=error,
        error_detail="The host did not answer within 10 s." if error else "",
        error_remedy="Look at its load and at its libvirtd log." if error else "",
    )
