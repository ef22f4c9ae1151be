"""A small installation to call the API of: projects, simulated hosts, VMs, consoles, and people of every kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from cloudops.accounts import tokens
from cloudops.accounts.models import Membership, Project, Role, User
from cloudops.core import crypto, operations
from cloudops.core.actors import system
from cloudops.core.models import Event, Operation
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import Kind, PowerState
from cloudops.inventory import endpoints
from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Offering, Tag, Vm
from cloudops.managers.models import ServerProcess
from consoles.models import ConsoleSession, ForeignConnection, ReleaseRequest, Status
from tests.api.fleet import add_placement
from tests.api.sizes import add_scaling
from tests.kept import Kept

PASSWORD = "correct horse battery staple"  # the cast's
PEOPLE = ("anonymous", "stranger", "tenant", "operator", "admin")


@dataclass
class World:
    """Rows by name, and a client per person."""

    now: datetime
    rows: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.rows[name]
        except KeyError:
            raise AttributeError(name) from None

    def client(self, person: str) -> APIClient:
        """A browser session of ``person``; ``anonymous`` has none."""
        client = APIClient()
        if person != "anonymous":
            client.force_login(self.rows[person])
        return client

    def token_client(self, person: str, *scopes: str) -> APIClient:
        """A script with an API token of ``person``."""
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {self.token(person, *scopes)}")
        return client

    def token(self, person: str, *scopes: str) -> str:
        """The secret of a new API token of ``person``."""
        made = tokens.create(
            user=self.rows[person], label="script", scopes=scopes, days=1, by=system("tests"), now=self.now
        )
        return made[1]

    def path(self, template: str) -> str:
        """``/vms/{vm}/`` with the row's id in it, below /api/v1."""
        return "/api/v1" + template.format(**{name: getattr(row, "pk", row) for name, row in self.rows.items()})


def _people(world: World) -> None:
    roles = {"admin": Role.ADMIN, "operator": Role.OPERATOR, "tenant": Role.TENANT, "stranger": Role.TENANT}
    for name, role in roles.items():
        world.rows[name] = User.objects.create_user(name, f"{name}@example.org", PASSWORD, role=role)
    world.rows["member"] = User.objects.create_user("member", "member@example.org", PASSWORD)
    world.rows["spare"] = User.objects.create_user("spare", "spare@example.org", PASSWORD)
    for project, names in {"apollo": ("tenant", "member"), "zephyr": ("stranger",), "empty": ()}.items():
        world.rows[project] = Project.objects.create(name=project)
        for name in names:
            membership = Membership.objects.create(project=world.rows[project], user=world.rows[name])
            world.rows[f"{name}_membership"] = membership
    for name in ("tenant", "stranger", "operator", "admin"):
        world.rows[f"{name}_token"] = tokens.create(
            user=world.rows[name], label="old", scopes=[], days=1, by=system("tests"), now=world.now
        )[0]


def _fleet(world: World) -> None:
    world.rows["tag"] = Tag.objects.create(name="ssd")
    world.rows["cluster"] = Cluster.objects.create(name="linux-a")
    world.rows["unused_cluster"] = Cluster.objects.create(name="linux-b", position=1)
    world.rows["endpoint"] = Endpoint.objects.create(kind=Kind.SIMULATED, uri="simulated://api?hosts=1&vms=3&seed=1")
    world.rows["host"] = Host.objects.create(
        endpoint=world.endpoint,
        cluster=world.cluster,
        ref="h1",
        name="kvm-01",
        connection=Connection.UP,
        cpu_threads=8,
        memory_mib=16_384,
    )
    world.host.tags.add(world.tag)
    world.rows["far_host"] = Host.objects.create(
        endpoint=world.endpoint, cluster=world.cluster, ref="h2", name="kvm-02", connection=Connection.UP
    )
    world.rows["offering"] = Offering.objects.create(name="small", vcpus=1, memory_mib=512)
    world.rows["hidden_offering"] = Offering.objects.create(name="old", vcpus=2, memory_mib=512, enabled=False)
    for name, project in (("web", "apollo"), ("other", "zephyr"), ("loose", None)):
        world.rows[name] = Vm.objects.create(
            ref=f"ref-{name}",
            name=name,
            host=world.far_host if name == "other" else world.host,
            project=world.rows.get(project or ""),
            power_state=PowerState.RUNNING,
            vcpus=1,
            memory_mib=256,
        )


def make_session(world: World, *, user: User, vm: Vm, **fields: Any) -> ConsoleSession:
    """An open console, idle for ten minutes."""
    values: dict[str, Any] = {
        "status": Status.ACTIVE,
        "process": world.process,
        "connected_at": world.now - timedelta(minutes=20),
        "last_input_at": world.now - timedelta(minutes=10),
        "created_at": world.now - timedelta(minutes=20),
        "redeem_by": world.now - timedelta(minutes=19),
        "client_address": "192.0.2.7",
        **fields,
    }
    return ConsoleSession.objects.create(
        vm=vm, host=vm.host, user=user, secret_sha256=crypto.digest(crypto.new_secret()), **values
    )


def _consoles(world: World) -> None:
    world.rows["process"] = ServerProcess.objects.create(
        role=ServerProcess.Role.WEB,
        server_name="web-1",
        pid=7,
        version="1",
        started_at=world.now,
        renewed_at=world.now,
        lease_until=world.now + timedelta(hours=1),
    )
    world.rows["session"] = make_session(world, user=world.tenant, vm=world.web)
    world.rows["member_session"] = make_session(world, user=world.member, vm=world.web)
    world.rows["request"] = ReleaseRequest.objects.create(
        session=world.session, requested_by=world.member, message="Please", created_at=world.now
    )
    world.rows["foreign"] = ForeignConnection.objects.create(
        vm=world.web,
        host=world.host,
        label="10.0.0.9:5555",
        client_host="10.0.0.9",
        client_port=5555,
        first_seen_at=world.now,
        last_seen_at=world.now,
    )
    times = {"first_seen_at": world.now, "last_seen_at": world.now - timedelta(days=1)}  # too old to count
    world.rows["unnamed"] = ForeignConnection.objects.create(
        vm=world.web, host=world.host, label="unnamed 1", is_named=False, **times
    )


def _simulated(world: World) -> None:
    """A VM that the simulated hypervisor really has, in the tenant's project."""
    facts = registry.call(endpoints.spec_of(world.endpoint), lambda hypervisor: hypervisor.vms())
    fact = next(item for item in facts if item.power_state is PowerState.RUNNING)
    world.rows["simulated"] = Vm.objects.create(
        ref=fact.ref, name=fact.name, host=world.host, project=world.apollo, power_state=fact.power_state
    )
    Host.objects.filter(pk=world.host.pk).update(ref=fact.host_ref)
    world.host.refresh_from_db()


def _build_rows() -> tuple[datetime, dict[str, Any]]:
    made = build()
    return made.now, made.rows


kept = Kept(_build_rows)


@pytest.fixture
def world(db: None) -> World:
    """See the module's docstring."""
    return World(*kept())


@pytest.fixture
def transactional_world(transactional_db: None) -> World:
    """The same, really committed: for servers in other threads."""
    return build()


def build() -> World:
    world = World(timezone.now())
    _people(world)
    _fleet(world)
    _consoles(world)
    _simulated(world)
    world.rows["operation"] = operations.start(
        kind="vm.power", title="Start web", subject=world.web, steps=["Start"], by=system("tests"), now=world.now
    )
    Operation.objects.filter(pk=world.operation.pk).update(
        status="failed", error_code="x", error_detail="It failed.", error_remedy="Mend it.", ended_at=world.now
    )
    world.rows["event"] = Event.objects.create(
        at=world.now, kind="console.opened", actor_kind="user", actor_name="tenant", actor_user_id=world.tenant.pk
    )
    add_placement(world)
    add_scaling(world)
    return world
