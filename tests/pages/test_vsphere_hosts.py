"""A vCenter through the pages: its certificate is confirmed, its hosts come with clusters and tags, and what happens to
them is told in words. The vCenter is the fake that speaks its real protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.core.models import Event
from cloudops.hypervisors import registry
from cloudops.inventory import sync
from cloudops.inventory.models import Endpoint, Host
from tests.pages.reading import has_error
from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan

pytestmark = pytest.mark.django_db
HOSTS = [
    HostPlan("esx-01", "Gold", tags=("gold",)),
    HostPlan("esx-02", "Gold"),
    HostPlan("esx-03", "Silver"),
    HostPlan("esx-04", ""),
]


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    vms = [VmPlan(f"vm-{number}", HOSTS[number % 4].name) for number in range(6)]
    with FakeVcenter(hosts=HOSTS, vms=vms) as fake:
        yield fake
        registry.close_all()


def _form(vcenter: FakeVcenter, **changes: str) -> dict[str, str]:
    fields = {
        "kind": "vsphere",
        "uri": vcenter.uri,
        "username": vcenter.username,
        "secret": vcenter.password,
        "certificate_sha256": vcenter.fingerprint_sha256,
        "timeout_seconds": "10",
        "clusters_from": "platform",
        "migration_uri": "typed while another kind was chosen",
    }
    return fields | changes


def _read_again(vcenter: FakeVcenter) -> None:
    sync.sync_endpoint(Endpoint.objects.get(uri=vcenter.uri), now=timezone.now())


def _spaced(fingerprint: str) -> str:
    digits = fingerprint.upper()
    return ":".join(digits[at : at + 2] for at in range(0, 64, 2))


def _page(client: Client, host: Host) -> str:
    return client.get(f"/hosts/{host.pk}/").content.decode()


def test_the_certificate_is_shown_before_anything_is_sent(admin: Client, vcenter: FakeVcenter) -> None:
    pin = _spaced(vcenter.fingerprint_sha256)
    htmx = {"HX-Request": "true"}
    html = admin.post("/hosts/probe/", _form(vcenter, certificate_sha256=""), headers=htmx).content.decode()
    assert pin in html
    assert "No password was sent yet" in html
    assert "hx-swap-oob" not in html
    assert vcenter.calls("Login") == 0
    html = admin.post(
        "/hosts/probe/", _form(vcenter, certificate_sha256="", confirm_sha256=pin), headers=htmx
    ).content.decode()
    assert "It works" in html
    assert "4 hosts, 6 VMs" in html
    assert "in Gold" in html
    assert 'hx-swap-oob="true"' in html.split('name="certificate_sha256"')[1]
    refused = admin.post("/hosts/add/", _form(vcenter, certificate_sha256="")).content.decode()
    assert f'name="confirm_sha256" value="{pin}"' in refused
    assert not Endpoint.objects.filter(uri=vcenter.uri).exists()
    assert admin.post("/hosts/add/", _form(vcenter, certificate_sha256="", confirm_sha256=pin)).status_code == 302
    assert Endpoint.objects.get(uri=vcenter.uri).certificate_sha256 == pin


def test_what_is_wrong_is_said_beside_its_field(admin: Client, vcenter: FakeVcenter) -> None:
    html = admin.post("/hosts/add/", _form(vcenter, username="", secret="")).content.decode()
    assert has_error(html, "username")
    assert has_error(html, "secret")
    html = admin.post("/hosts/add/", _form(vcenter, certificate_sha256="ab:cd")).content.decode()
    assert has_error(html, "certificate_sha256")
    html = admin.post("/hosts/add/", _form(vcenter, clusters_from="chosen")).content.decode()
    assert has_error(html, "new_cluster")
    html = admin.post("/hosts/add/", _form(vcenter, secret="wrong")).content.decode()
    assert "hypervisor-authentication" in html
    assert not Endpoint.objects.filter(uri=vcenter.uri).exists()


def test_its_hosts_and_what_happens_to_them(admin: Client, vcenter: FakeVcenter) -> None:
    assert admin.post("/hosts/add/", _form(vcenter, tags="ours")).status_code == 302
    rows = {host.name: host for host in Host.objects.filter(endpoint__uri=vcenter.uri).select_related("cluster")}
    assert {name: row.cluster.name for name, row in rows.items()} == {
        "esx-01": "Gold", "esx-02": "Gold", "esx-03": "Silver", "esx-04": rows["esx-04"].cluster.name,
    }  # fmt: skip
    assert rows["esx-04"].cluster.name == vcenter.uri.removeprefix("https://")
    html = _page(admin, rows["esx-01"])
    assert "from vCenter" in html.split(">gold")[1][:60]
    assert 'value="ours"' in html
    assert "VNC listens on" not in html
    assert "Datastores" in html
    assert html.count("simulated</span>") == 1
    assert "simulated</span>" in admin.get("/fleet/").content.decode()
    edit = admin.get(f"/hosts/{rows['esx-01'].pk}/edit/").content.decode()
    assert 'name="vnc_listen_address"' not in edit
    assert 'name="migration_uri"' not in edit
    assert 'name="takes_clusters_over"' in edit.split("checked")[0]

    vcenter.world.connect(vcenter.host("esx-02"), "notResponding")
    with vcenter.world.lock:
        vcenter.host("esx-03").in_maintenance = True
        vcenter.world.changed(vcenter.host("esx-03"))
        vcenter.world.remove_host(vcenter.host("esx-04"))
    _read_again(vcenter)
    assert "host-not-connected" in _page(admin, rows["esx-02"])
    assert "maintenance mode" in _page(admin, rows["esx-03"])
    assert "host-not-reported" in _page(admin, rows["esx-04"])
    up = Host.objects.filter(endpoint__uri=vcenter.uri, connection="up")
    assert set(up.values_list("name", flat=True)) == {"esx-01", "esx-03"}

    assert admin.post(f"/hosts/{rows['esx-03'].pk}/remove/").status_code == 409
    assert admin.post(f"/hosts/{rows['esx-04'].pk}/remove/", {"force": "on"}).status_code == 302
    assert admin.post(f"/hosts/{rows['esx-03'].pk}/remove/", {"whole_endpoint": "on", "force": "on"}).status_code == 302
    assert not Endpoint.objects.filter(uri=vcenter.uri).exists()


def test_a_host_can_be_saved_as_it_is(admin: Client, vcenter: FakeVcenter) -> None:
    admin.post("/hosts/add/", _form(vcenter))
    host = Host.objects.get(name="esx-01")
    fields = {
        "name": "renamed", "uri": vcenter.uri, "username": vcenter.username, "timeout_seconds": 9, "secret": "",
        "certificate_sha256": vcenter.fingerprint_sha256, "takes_clusters_over": "on", "tags": "mine",
    }  # fmt: skip
    answer = admin.post(f"/hosts/{host.pk}/edit/", fields)
    assert answer.status_code == 302, answer.content.decode()[:3000]
    host = Host.objects.select_related("endpoint", "cluster").get(pk=host.pk)
    assert (host.name, host.cluster.name, host.endpoint.timeout_seconds) == ("renamed", "Gold", 9)
    assert host.endpoint.takes_clusters_over
    html = admin.post(f"/hosts/{host.pk}/edit/", fields | {"uri": "https://elsewhere"}).content.decode()
    assert has_error(html, "secret")
    assert Event.objects.filter(kind="host.changed", subject_id=str(host.pk)).count() == 1


def test_a_changed_certificate_is_accepted_on_purpose(admin: Client, vcenter: FakeVcenter) -> None:
    admin.post("/hosts/add/", _form(vcenter))
    before = _spaced(vcenter.fingerprint_sha256)
    registry.close_all()
    after = _spaced(vcenter.faults.swap_certificate("vcenter").replace(":", ""))
    _read_again(vcenter)
    host = Host.objects.get(name="esx-01")
    html = _page(admin, host)
    assert before in html
    assert after in html
    assert "hypervisor-certificate" in html
    tested = admin.post(f"/hosts/{host.pk}/test/", headers={"HX-Request": "true"}).content.decode()
    assert f'name="sha256" value="{after}"' in tested
    assert admin.post(f"/hosts/{host.pk}/certificate/", {"sha256": before}).status_code == 409
    assert admin.post(f"/hosts/{host.pk}/certificate/", {"sha256": after}).status_code == 302
    _read_again(vcenter)
    assert Host.objects.get(pk=host.pk).connection == "up"
    assert Event.objects.get(kind="host.certificate_accepted").data["changed"]["certificate_sha256"] == [before, after]
