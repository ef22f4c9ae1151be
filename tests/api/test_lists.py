"""Lists: a bounded number of queries, stable pages both ways, and filters that say what they mean."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Membership, Project, User
from cloudops.core import crypto, runtime
from cloudops.core.models import Event, Operation
from cloudops.hypervisors.port import Kind
from cloudops.inventory.models import Cluster, Endpoint, Host, Offering, Tag, Template, Vm
from cloudops.managers.models import ServerProcess
from consoles.models import ConsoleSession, ForeignConnection, ReleaseRequest, Status
from placement.models import AffinityGroup, Decision, Maintenance, MaintenanceHost, MaintenanceMove, VmMigration
from tests.api.conftest import World, make_session


def _host(world: World, n: int) -> Host:
    endpoint = Endpoint.objects.create(kind=Kind.SIMULATED, uri=f"simulated://more-{n}")
    host = Host.objects.create(endpoint=endpoint, cluster=world.cluster, ref=f"r{n}", name=f"more-{n:03}")
    host.tags.add(world.tag)
    return host


def _vm(world: World, n: int) -> Vm:
    return Vm.objects.create(ref=f"m{n}", name=f"more-{n:03}", host=world.host, project=world.apollo)


def _membership(world: World, n: int) -> Membership:
    project = Project.objects.create(name=f"more-{n}")
    return Membership.objects.create(project=project, user=world.tenant)


def _offering(world: World, n: int) -> Offering:
    offering = Offering.objects.create(name=f"more-{n}", vcpus=1, memory_mib=512)
    offering.host_tags.add(world.tag)
    return offering


def _request(world: World, n: int) -> ReleaseRequest:
    user = User.objects.create_user(f"asker-{n}")
    if n % 2:
        Membership.objects.create(project=world.apollo, user=user)
    return ReleaseRequest.objects.create(session=world.session, requested_by=user, created_at=world.now)


def _operation(world: World, n: int) -> Operation:
    return Operation.objects.create(
        kind="vm.power", title="x", subject_type="t", subject_id=str(n), requested_by_id=1, created_at=world.now
    )


def _foreign(world: World, n: int) -> ForeignConnection:
    times = {"first_seen_at": world.now, "last_seen_at": world.now}
    return ForeignConnection.objects.create(vm=world.web, host=world.host, label=f"c{n}", **times)


def _process(world: World, n: int) -> ServerProcess:
    times = dict.fromkeys(("started_at", "renewed_at", "lease_until"), world.now)
    return ServerProcess.objects.create(role="web", server_name=f"s{n}", pid=n, version="1", **times)


def _session(world: World, n: int) -> ConsoleSession:
    return make_session(world, user=User.objects.create_user(f"holder-{n}"), vm=_vm(world, n))


def _token(world: World, n: int) -> Any:
    times = {"created_at": world.now, "expires_at": world.now + timedelta(days=1)}
    return world.tenant.api_tokens.create(label=str(n), secret_sha256=crypto.digest(str(n)), **times)


def _template(world: World, n: int) -> Template:
    template = Template.objects.create(name=f"more-{n}")
    template.host_tags.add(world.tag)
    return template


def _decision(world: World, n: int) -> Decision:
    row = Decision.objects.get(pk=world.decision.pk)
    row.pk, row.vm = uuid.uuid4(), _vm(world, n)
    row.save(force_insert=True)
    return row


def _group(world: World, n: int) -> AffinityGroup:
    group = AffinityGroup.objects.create(name=f"more-{n}", kind="together", created_at=world.now)
    group.vms.set([world.web, world.other])
    return group


def _migration(world: World, n: int) -> VmMigration:
    operation = _operation(world, n + 1_000)
    hosts = {"source": world.host, "target": world.far_host}
    return VmMigration.objects.create(operation=operation, vm=_vm(world, n), **hosts, mode="live", created_at=world.now)


def _job(world: World, n: int) -> Maintenance:
    job = Maintenance.objects.create(title=f"more-{n}", requested_by_name="x", created_at=world.now)
    MaintenanceHost.objects.create(maintenance=job, host=_host(world, n))
    MaintenanceMove.objects.create(maintenance=job, vm=_vm(world, n), source=world.host, updated_at=world.now)
    return job


def _move(world: World, n: int) -> MaintenanceMove:
    values = {"status": "blocked", "updated_at": world.now, "target": world.far_host}
    return MaintenanceMove.objects.create(maintenance=world.job, vm=_vm(world, n), source=world.drained_host, **values)


LISTS: list[tuple[str, str, Callable[[World, int], Any]]] = [
    ("/hosts/", "admin", _host),
    ("/vms/", "admin", _vm),
    ("/vms/", "tenant", _vm),
    ("/clusters/", "admin", lambda world, n: Cluster.objects.create(name=f"more-{n}")),
    ("/tags/", "admin", lambda world, n: Tag.objects.create(name=f"more-{n}")),
    ("/offerings/", "tenant", _offering),
    ("/users/", "admin", lambda world, n: User.objects.create_user(f"more-{n}")),
    ("/projects/", "tenant", _membership),
    ("/memberships/", "admin", _membership),
    ("/tokens/", "tenant", _token),
    ("/events/", "admin", lambda world, n: Event.objects.create(at=world.now, kind="x", actor_kind="user")),
    ("/operations/", "admin", _operation),
    ("/servers/", "admin", _process),
    ("/console-sessions/", "admin", _session),
    ("/console-sessions/", "tenant", _session),
    ("/release-requests/", "tenant", _request),
    ("/foreign-connections/", "admin", _foreign),
    ("/hosts/{host}/console-sessions/", "admin", _session),
    ("/console-usage/", "admin", _host),
    ("/me/", "tenant", _membership),
    ("/templates/", "admin", _template),
    ("/decisions/", "admin", _decision),
    ("/decisions/", "tenant", _decision),
    ("/affinity-groups/", "admin", _group),
    ("/capacity/", "admin", _host),
    ("/capacity/hosts/", "admin", _host),
    ("/capacity/drift/", "admin", _vm),
    ("/cluster-policies/", "admin", lambda world, n: Cluster.objects.create(name=f"more-{n}")),
    ("/migrations/", "admin", _migration),
    ("/maintenances/", "admin", _job),
    ("/maintenances/{job}/", "admin", _move),
    ("/maintenances/{job}/moves/", "admin", _move),
]


@pytest.mark.parametrize(("path", "person", "make"), LISTS, ids=[f"{path} {person}" for path, person, _ in LISTS])
@pytest.mark.usefixtures("steady_mirror")
def test_fifty_rows_cost_as_many_queries_as_five(
    world: World, path: str, person: str, make: Callable[[World, int], Any]
) -> None:
    client = world.client(person)
    runtime.current()  # the first reader makes the row
    for n in range(5):
        make(world, n)
    few = _queries(client, world.path(path))
    for n in range(5, 50):
        make(world, n)
    many = _queries(client, world.path(path))
    assert len(many) == len(few), "\n".join(many)
    assert len(many) <= 12


def _queries(client: Any, path: str) -> list[str]:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        response = client.get(path)
    assert response.status_code == 200
    return [query["sql"] for query in captured]


def _all_pages(client: Any, url: str, link: str = "next") -> list[list[Any]]:
    pages: list[list[Any]] = []
    while url:
        answer = client.get(url).json()
        pages.append([row["id"] for row in answer["results"]])
        url = answer[link]
        assert len(pages) < 100
    return pages


def test_pages_follow_each_other_and_lead_back(world: World) -> None:
    for n in range(30):
        Vm.objects.create(ref=f"t{n}", name="same name" if n % 2 else f"vm-{n}", host=world.host, project=world.apollo)
    client = world.client("admin")
    everything = _all_pages(client, "/api/v1/vms/?page_size=500")
    assert len(everything) == 1
    pages = _all_pages(client, "/api/v1/vms/?page_size=7")
    assert [pk for page in pages for pk in page] == everything[0]
    assert {len(page) for page in pages[:-1]} == {7}
    last = _last(client, "/api/v1/vms/?page_size=7")
    back = _all_pages(client, last, "previous")
    assert [pk for page in reversed(back) for pk in page] == everything[0]


def _last(client: Any, url: str) -> str:
    while following := client.get(url).json()["next"]:
        url = following
    return url


def test_a_row_that_comes_in_between_shifts_nothing(world: World) -> None:
    client = world.client("admin")
    for n in range(6):
        Event.objects.create(at=world.now, kind=f"k{n}", actor_kind="user", actor_name="x")
    first = client.get("/api/v1/events/?page_size=3").json()
    Event.objects.create(at=world.now, kind="new", actor_kind="user", actor_name="x")
    second = client.get(first["next"]).json()
    ids = [row["id"] for row in first["results"] + second["results"]]
    assert ids == sorted(set(ids), reverse=True)
    assert [row["kind"] for row in second["results"]] == ["k2", "k1", "k0"]


def test_links_keep_the_filters(world: World) -> None:
    client = world.client("admin")
    for n in range(4):
        Event.objects.create(at=world.now, kind=f"audit.{n}", actor_kind="user", actor_name="x")
    first = client.get("/api/v1/events/?kind_prefix=audit.&page_size=3").json()
    assert [row["kind"] for row in client.get(first["next"]).json()["results"]] == ["audit.0"]
    assert first["previous"] is None


def _names(world: World, person: str, path: str, name: str = "name") -> set[Any]:
    response = world.client(person).get(world.path(path))
    assert response.status_code == 200, response.content
    return {row[name] for row in response.json()["results"]}


def test_vm_filters(world: World) -> None:
    web = world.web.name
    assert _names(world, "admin", "/vms/?name=web") == {web}
    assert _names(world, "admin", "/vms/?search=WE") == {web}
    assert _names(world, "admin", "/vms/?host={far_host}") == {"other"}
    assert _names(world, "admin", "/vms/?project={zephyr}") == {"other"}
    assert _names(world, "admin", "/vms/?assigned=false") == {"loose"}
    assert _names(world, "admin", "/vms/?cluster={unused_cluster}") == set()
    assert _names(world, "admin", "/vms/?power_state=off") == set()
    assert _names(world, "admin", "/vms/?missing=true") == set()
    Vm.objects.filter(name="web").update(missing_since=world.now, offering=world.hidden_offering, power_state="off")
    assert _names(world, "admin", "/vms/?missing=true") == {web}
    assert _names(world, "admin", "/vms/?offering={hidden_offering}") == {web}
    assert _names(world, "admin", "/vms/?power_state=off") == {web}
    assert _names(world, "tenant", "/vms/?project={zephyr}") == set()


def test_host_filters(world: World) -> None:
    assert _names(world, "admin", "/hosts/?tag=ssd") == {"kvm-01"}
    assert _names(world, "admin", "/hosts/?name=kvm-02") == {"kvm-02"}
    assert _names(world, "admin", "/hosts/?search=02") == {"kvm-02"}
    assert _names(world, "admin", "/hosts/?kind=libvirt") == set()
    assert _names(world, "admin", "/hosts/?connection=up&schedulable=true") == {"kvm-01", "kvm-02"}
    assert _names(world, "admin", "/hosts/?cluster={unused_cluster}") == set()


def test_session_filters(world: World) -> None:
    ids = {str(world.session.pk), str(world.member_session.pk)}
    fresh = make_session(world, user=world.admin, vm=world.other, last_input_at=world.now)
    ended = make_session(
        world, user=world.admin, vm=world.other, status=Status.CLOSED, ended_at=world.now, closed_reason="idle"
    )
    assert _names(world, "admin", "/console-sessions/?idle_seconds_over=300", "id") == ids
    assert _names(world, "admin", "/console-sessions/?current=true", "id") == {*ids, str(fresh.pk)}
    assert _names(world, "admin", "/console-sessions/?current=false", "id") == {str(ended.pk)}
    assert _names(world, "admin", "/console-sessions/?status=closed", "id") == {str(ended.pk)}
    assert _names(world, "admin", "/console-sessions/?host={far_host}", "id") == {str(fresh.pk), str(ended.pk)}
    assert _names(world, "admin", "/console-sessions/?project={apollo}", "id") == ids
    assert _names(world, "admin", "/console-sessions/?vm={other}&current=true", "id") == {str(fresh.pk)}
    assert _names(world, "admin", "/console-sessions/?user={tenant}", "id") == {str(world.session.pk)}
    assert _names(world, "stranger", "/console-sessions/", "id") == {str(fresh.pk), str(ended.pk)}


def test_event_filters(world: World) -> None:
    Event.objects.all().delete()
    for n, kind in enumerate(("console.opened", "console.closed", "host.added")):
        Event.objects.create(
            at=world.now + timedelta(minutes=n), kind=kind, actor_kind="user", actor_name=f"a{n}", subject_id=f"s{n}"
        )
    assert _names(world, "admin", "/events/?kind_prefix=console.", "kind") == {"console.opened", "console.closed"}
    assert _names(world, "admin", "/events/?kind=host.added", "kind") == {"host.added"}
    assert _names(world, "admin", "/events/?search=a1", "kind") == {"console.closed"}
    assert _names(world, "admin", "/events/?subject_id=s2", "kind") == {"host.added"}
    later = (world.now + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert _names(world, "admin", f"/events/?since={later}", "kind") == {"console.closed", "host.added"}
    assert _names(world, "admin", f"/events/?until={later}", "kind") == {"console.opened"}
    assert _names(world, "tenant", "/events/", "kind") == set()
    assert _names(world, "admin", "/events/?since=3339-11-16T13:30:34.8%2B21:27", "kind") == set()


def test_tenants_learn_no_host_ids_and_no_other_peoples_addresses(world: World) -> None:
    tenant, admin = world.client("tenant"), world.client("admin")
    path = world.path("/console-sessions/{member_session}/")
    assert tenant.get(path).json()["host"] == {"id": None, "name": "kvm-01"}
    assert tenant.get(path).json()["client_address"] == ""
    assert admin.get(path).json()["client_address"] == "192.0.2.7"
    assert admin.get(path).json()["host"] == {"id": str(world.host.pk), "name": "kvm-01"}
    own = tenant.get(world.path("/console-sessions/{session}/")).json()
    assert own["client_address"] == "192.0.2.7"
    assert own["idle_seconds"] >= 600
