"""A small installation for console tests: one host, two VMs, a project, and people with different rights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cloudops.accounts.models import Membership, Project, Role, User
from cloudops.core import runtime
from cloudops.core.actors import Actor, ActorKind, system
from cloudops.core.models import Event
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Vm
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from consoles import attach, limits, sessions
from consoles.attach import Attached
from consoles.models import ConsoleSession
from consoles.sessions import Opened

_numbers = itertools.count(1)


def actor(user: User, address: str = "198.51.100.7") -> Actor:
    return Actor(ActorKind.USER, user.get_username(), user.pk, address)


@dataclass
class World:
    """Rows to work with; verbs take the clock from ``now``."""

    host: Host
    vm: Vm
    other_vm: Vm
    project: Project
    tenant: User
    second: User
    stranger: User
    admin: User
    process: ServerProcess
    secrets: dict[Any, str] = field(default_factory=dict)

    def open(self, now: datetime, *, user: User | None = None, vm: Vm | None = None, view_only: bool = False) -> Opened:
        person = user or self.tenant
        row = Vm.objects.select_related("host__endpoint", "project").get(pk=(vm or self.vm).pk)
        return sessions.open_session(vm=row, user=person, view_only=view_only, by=actor(person), now=now)

    def redeem(self, opened: Opened, now: datetime, **more: Any) -> Attached:
        values: dict[str, Any] = {"process_id": self.process.pk, "user": None, "address": "198.51.100.7"} | more
        return attach.redeem(secret=opened.secret, now=now, **values)

    def resume(self, secret: str, now: datetime, **more: Any) -> Attached:
        values: dict[str, Any] = {"process_id": self.process.pk, "user": None, "address": "198.51.100.7"} | more
        return attach.resume(resume_secret=secret, now=now, **values)

    def connect(self, now: datetime, **more: Any) -> Attached:
        """Open, redeem, activate: a console that works."""
        attached = self.redeem(self.open(now, **more), now)
        port = next(_numbers) + 20_000
        attach.activate(session=attached.session, relay_address=("192.0.2.1", port), now=now)
        return attached

    def renew(self, now: datetime) -> bool:
        return processes.renew(process=self.process, now=now)

    def in_use(self, now: datetime) -> int:
        return limits.usage_of_host(self.host, now=now).in_use

    def counts(self, now: datetime) -> tuple[int, int, int]:
        """Slots in use of host, VM and tenant."""
        return (
            self.in_use(now),
            limits.usage_of_vm(self.vm, now=now).in_use,
            limits.usage_of_user(self.tenant, now=now).in_use,
        )

    def settings(self, **values: int | bool) -> None:
        runtime.change(by=system("test"), now=self.process.started_at, **values)

    def add_vm(self, name: str, *, host: Host | None = None, **values: Any) -> Vm:
        fields: dict[str, Any] = {"power_state": PowerState.RUNNING, "project": self.project} | values
        return Vm.objects.create(ref=f"ref-{name}", name=name, host=host or self.host, **fields)

    def add_host(self, name: str) -> Host:
        return add_host(name)

    def add_process(self, now: datetime) -> ServerProcess:
        return add_process(now)


def add_host(name: str) -> Host:
    endpoint = Endpoint.objects.create(kind="simulated", uri=f"simulated://{name}?hosts=1&vms=2&seed=1")
    cluster, _ = Cluster.objects.get_or_create(name="linux")
    return Host.objects.create(endpoint=endpoint, cluster=cluster, ref=name, name=name, connection=Connection.UP)


def add_process(now: datetime) -> ServerProcess:
    role = ServerProcess.Role.WEB
    return processes.register(role=role, server_name="test", pid=next(_numbers), version="1", now=now)


def add_user(name: str, role: str = Role.TENANT, **values: Any) -> User:
    return User.objects.create_user(username=name, password=None, role=role, **values)


def build(now: datetime) -> World:
    """Creates all of it. The tenant and the second user are members of the VMs' project; the stranger is of another."""
    host = add_host("alpha-host")
    project = Project.objects.create(name="blue")
    elsewhere = Project.objects.create(name="red")
    tenant, second, stranger = add_user("tessa"), add_user("sam"), add_user("strange")
    for user in (tenant, second):
        Membership.objects.create(project=project, user=user)
    Membership.objects.create(project=elsewhere, user=stranger)
    running = {"host": host, "project": project, "power_state": PowerState.RUNNING}
    vm = Vm.objects.create(ref="ref-alpha", name="alpha", **running)
    other = Vm.objects.create(ref="ref-beta", name="beta", **running)
    admin = add_user("ada", Role.ADMIN)
    return World(host, vm, other, project, tenant, second, stranger, admin, add_process(now))


def fresh(session: ConsoleSession) -> ConsoleSession:
    return ConsoleSession.objects.select_related("vm", "process", "user").get(pk=session.pk)


def kinds_of(session: ConsoleSession) -> list[str]:
    """The audit trail of a session, oldest first."""
    rows = Event.objects.filter(subject_id=str(session.pk)).order_by("id")
    return list(rows.values_list("kind", flat=True))
