"""A vCenter through the API: refused until its certificate is confirmed, then all its hosts at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cloudops.hypervisors import registry
from cloudops.inventory import sync
from cloudops.inventory.models import Endpoint, Host
from tests.api.conftest import World
from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan

pytestmark = pytest.mark.django_db
HOSTS = [HostPlan("esx-01", "Gold", tags=("gold",)), HostPlan("esx-02", "Silver")]


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    with FakeVcenter(hosts=HOSTS, vms=[VmPlan("api-1", "esx-01", max_connections=7)]) as fake:
        yield fake
        registry.close_all()


def _body(vcenter: FakeVcenter, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "vsphere",
        "uri": vcenter.uri,
        "username": vcenter.username,
        "secret": vcenter.password,
        **changes,
    }


def test_added_by_the_fingerprint_that_the_refusal_names(world: World, vcenter: FakeVcenter) -> None:
    client = world.client("operator")
    tried = client.post("/api/v1/hosts/test-connection/", _body(vcenter)).json()
    assert (tried["ok"], tried["unconfirmed"]) == (False, True)
    assert tried["certificate"]["sha1"].count(":") == 19
    refused = client.post("/api/v1/hosts/", _body(vcenter))
    assert (refused.status_code, refused.json()["code"]) == (409, "certificate-unconfirmed")
    assert refused.json()["sha256"] == tried["certificate"]["sha256"]
    assert vcenter.calls("Login") == 0
    answer = client.post(
        "/api/v1/hosts/", _body(vcenter, certificate_sha256=refused.json()["sha256"], tags=["ours"]), format="json"
    )
    assert answer.status_code == 201, answer.content
    first, second = answer.json()["hosts"]
    assert (first["cluster"]["name"], second["cluster"]["name"]) == ("Gold", "Silver")
    assert (first["tags"], first["own_tags"], first["platform_tags"]) == (["gold", "ours"], ["ours"], ["gold"])
    assert first["simulated"]
    assert first["endpoint"]["takes_clusters_over"]
    assert first["endpoint"]["certificate_pinned_at"]
    vm = client.get("/api/v1/vms/?search=api-1").json()["results"][0]
    assert (vm["max_consoles"], vm["console_connections"]) == (7, 0)
    host = f"/api/v1/hosts/{first['id']}/"
    assert client.patch(host, {"migration_uri": "https://x"}).status_code == 400
    assert client.patch(host, {"cluster": str(world.cluster.pk)}).json()["fields"].keys() == {"cluster"}
    alone = client.delete(host)
    assert (alone.status_code, alone.json()["code"]) == (409, "host-shares-endpoint")
    assert client.delete(f"{host}?whole_endpoint=true").status_code == 204
    assert not Endpoint.objects.filter(uri=vcenter.uri).exists()


def test_problems_of_one_host_and_of_the_certificate(world: World, vcenter: FakeVcenter) -> None:
    client = world.client("operator")
    assert client.post(
        "/api/v1/hosts/", _body(vcenter, certificate_sha256=vcenter.fingerprint_sha256)
    ).status_code == 201  # fmt: skip
    endpoint = Endpoint.objects.get(uri=vcenter.uri)
    vcenter.world.connect(vcenter.host("esx-02"), "disconnected")
    with vcenter.world.lock:
        vcenter.host("esx-01").in_maintenance = True
        vcenter.world.changed(vcenter.host("esx-01"))
    sync.sync_endpoint(endpoint, now=timezone.now())
    rows = {row["name"]: row for row in client.get("/api/v1/hosts/?search=esx-").json()["results"]}
    assert (rows["esx-01"]["connection"], rows["esx-01"]["platform_maintenance"]) == ("up", True)
    narrowed = client.get(f"/api/v1/hosts/?endpoint={endpoint.pk}&platform_maintenance=true").json()["results"]
    assert [row["name"] for row in narrowed] == ["esx-01"]
    named = {row["name"]: row["taken_from"] for row in client.get("/api/v1/clusters/").json()["results"]}
    assert named["Gold"] == str(endpoint.pk)
    assert (rows["esx-02"]["connection"], rows["esx-02"]["error_code"]) == ("unreachable", "host-not-connected")
    registry.close_all()
    new = vcenter.faults.swap_certificate("vcenter")
    sync.sync_endpoint(endpoint, now=timezone.now())
    host = f"/api/v1/hosts/{rows['esx-01']['id']}/"
    offered = client.get(host).json()["endpoint"]["offered_certificate"]
    assert offered["sha256"].replace(":", "").lower() == new.replace(":", "").lower()
    tried = client.post(f"{host}test-connection/").json()
    assert (tried["ok"], tried["mismatch"]) == (False, True)
    assert (
        client.post(f"{host}accept-certificate/", {"sha256": "00" * 32}).json()["code"] == "certificate-changed-again"
    )
    assert client.post(f"{host}accept-certificate/", {"sha256": offered["sha256"]}).status_code == 204
    sync.sync_endpoint(Endpoint.objects.get(pk=endpoint.pk), now=timezone.now())
    assert client.get(host).json()["connection"] == "up"


def test_hosts_are_listed_in_as_many_queries_whatever_their_number(world: World) -> None:
    client = world.client("operator")

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert client.get("/api/v1/hosts/").status_code == 200
        return len(seen)

    queries()
    before = queries()
    endpoint = Endpoint.objects.create(kind="vsphere", uri="https://many")
    Host.objects.bulk_create(
        Host(endpoint=endpoint, cluster=world.cluster, ref=f"host-{n}", name=f"many-{n}") for n in range(20)
    )
    assert queries() == before
