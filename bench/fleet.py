"""Rows of a large installation, for benchmarks: hosts, VMs, sessions and history, made in bulk."""

from __future__ import annotations

import random
import uuid
from datetime import datetime, timedelta

from cloudops.accounts.models import Membership, Project, Role, User
from cloudops.core.models import Event
from cloudops.hypervisors.port import Kind, PowerState
from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Offering, Tag, Vm
from cloudops.managers.models import ServerProcess
from consoles.models import ConsoleSession, ForeignConnection, Status
from consoles.reasons import ClosedReason

PROJECTS = 50
USERS = 200
HOSTS_PER_CLUSTER = 25


def make(*, hosts: int, vms: int, sessions: int, events: int, now: datetime, seed: int = 1) -> User:
    """Fills the empty database and returns an administrator. Half of ``sessions`` are open, half are history."""
    chance = random.Random(seed)
    admin = User.objects.create(username="admin", role=Role.ADMIN)
    users = User.objects.bulk_create(User(username=f"user-{n:03}", role=Role.TENANT) for n in range(USERS))
    projects = Project.objects.bulk_create(Project(name=f"project-{n:02}") for n in range(PROJECTS))
    Membership.objects.bulk_create(
        Membership(user=user, project=projects[n % PROJECTS]) for n, user in enumerate(users)
    )
    all_hosts = _hosts(hosts)
    offering = Offering.objects.create(name="medium", vcpus=2, memory_mib=4096)
    all_vms = Vm.objects.bulk_create(
        (
            Vm(
                ref=str(uuid.UUID(int=n)),
                name=f"vm-{n:05}",
                host=all_hosts[n % hosts],
                project=projects[n % PROJECTS],
                offering=offering,
                power_state=PowerState.RUNNING if n % 10 else PowerState.OFF,
                vcpus=2,
                memory_mib=4096,
                synced_at=now,
            )
            for n in range(vms)
        ),
        batch_size=2000,
    )
    _sessions(sessions, vms=all_vms, users=users, now=now, chance=chance)
    Event.objects.bulk_create(
        (
            Event(
                at=now - timedelta(seconds=events - n),
                kind=chance.choice(["console.opened", "console.closed", "vm.power_changed", "host.up"]),
                actor_kind="user",
                actor_name=users[n % USERS].username,
                actor_user_id=users[n % USERS].pk,
                subject_type="inventory.vm",
                subject_id=str(all_vms[n % vms].pk),
                subject_name=all_vms[n % vms].name,
                project_id=all_vms[n % vms].project_id,
            )
            for n in range(events)
        ),
        batch_size=2000,
    )
    return admin


def _hosts(count: int) -> list[Host]:
    clusters = Cluster.objects.bulk_create(
        Cluster(name=f"cluster-{n:02}", position=n) for n in range((count - 1) // HOSTS_PER_CLUSTER + 1)
    )
    tag = Tag.objects.create(name="generic")
    endpoints = Endpoint.objects.bulk_create(
        Endpoint(kind=Kind.LIBVIRT, uri=f"qemu+tcp://kvm-{n:03}.example.net/system") for n in range(count)
    )
    made = Host.objects.bulk_create(
        Host(
            endpoint=endpoint,
            cluster=clusters[n // HOSTS_PER_CLUSTER],
            ref=f"kvm-{n:03}",
            name=f"kvm-{n:03}",
            connection=Connection.UP if n % 50 else Connection.UNREACHABLE,
            error_detail="" if n % 50 else "TCP connect timed out",
            cpu_threads=64,
            cpu_mhz=2600,
            cpu_percent=float(n % 100),
            memory_mib=262_144,
            memory_free_mib=90_000,
        )
        for n, endpoint in enumerate(endpoints)
    )
    through = Host.tags.through
    through.objects.bulk_create(through(host_id=host.pk, tag_id=tag.pk) for host in made)
    return made


def _sessions(count: int, *, vms: list[Vm], users: list[User], now: datetime, chance: random.Random) -> None:
    process = ServerProcess.objects.create(
        role="web", server_name="bench", pid=1, version="0", started_at=now, renewed_at=now,
        lease_until=now + timedelta(days=1),
    )  # fmt: skip
    rows = []
    for n in range(count):
        vm = vms[(n * 7) % len(vms)]
        opened = now - timedelta(seconds=chance.randrange(10, 7000))
        over = n % 2 == 1
        rows.append(
            ConsoleSession(
                vm=vm,
                host_id=vm.host_id,
                user=users[n % len(users)],
                status=Status.CLOSED if over else Status.ACTIVE,
                secret_sha256=f"{n:064x}",
                redeem_by=opened + timedelta(seconds=60),
                process=process,
                created_at=opened,
                connected_at=opened,
                last_input_at=opened + timedelta(seconds=chance.randrange(10)),
                ended_at=now - timedelta(seconds=5) if over else None,
                closed_reason=ClosedReason.USER_CLOSED if over else "",
                client_address="192.0.2.7",
            )
        )
    ConsoleSession.objects.bulk_create(rows, batch_size=1000)
    ForeignConnection.objects.bulk_create(
        ForeignConnection(vm=vm, host_id=vm.host_id, label=f"192.0.2.9:{n}", first_seen_at=now, last_seen_at=now)
        for n, vm in enumerate(vms[: count // 50])
    )
