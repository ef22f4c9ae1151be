"""Forms about hosts: what is right is done, what is wrong is said beside the field, and nothing typed is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.hypervisors import simulated
from cloudops.inventory.models import Host
from consoles.models import ConsoleSession
from tests.pages.installation import Installation
from tests.pages.reading import has_error

pytestmark = pytest.mark.django_db
URI = "simulated://pages?hosts=2&vms=3"


@pytest.fixture
def _clean_simulation() -> Iterator[None]:
    simulated.reset(URI)
    yield
    simulated.reset(URI)


def _host_form(**changes: str) -> dict[str, str]:
    fields = {
        "kind": "simulated",
        "uri": URI,
        "timeout_seconds": "5",
        "vnc_listen_address": "127.0.0.1",
        "new_cluster": "c",
    }
    return fields | changes


@pytest.mark.usefixtures("_clean_simulation")
class TestHosts:
    def test_a_host_is_added_with_its_cluster(self, admin: Client) -> None:
        response = admin.post("/hosts/add/", _host_form(new_cluster="fresh", tags="ssd, fast"))
        assert response.status_code == 302, response.content.decode()[:3000]
        made = Host.objects.filter(cluster__name="fresh")
        assert made.count() == 2
        assert {tag.name for tag in made[0].tags.all()} == {"ssd", "fast"}

    def test_a_uri_that_makes_no_sense_is_marked_and_kept(self, admin: Client) -> None:
        response = admin.post("/hosts/add/", _host_form(kind="libvirt", uri="not a uri", username="kept-name"))
        html = response.content.decode()
        assert response.status_code == 200
        assert has_error(html, "uri")
        assert "not a uri" in html
        assert "kept-name" in html
        assert not Host.objects.filter(endpoint__uri="not a uri").exists()

    def test_a_host_needs_a_cluster(self, admin: Client) -> None:
        html = admin.post("/hosts/add/", _host_form(new_cluster="")).content.decode()
        assert has_error(html, "new_cluster")

    def test_one_that_does_not_answer_is_added_when_asked_twice(self, admin: Client) -> None:
        simulated.set_faults(URI, simulated.Faults(unreachable=True))
        html = admin.post("/hosts/add/", _host_form()).content.decode()
        assert "Add it all the same" in html
        assert "hypervisor-unreachable" in html
        assert "problem-remedy" in html
        assert not Host.objects.filter(endpoint__uri=URI).exists()
        assert admin.post("/hosts/add/", _host_form(force="1")).status_code == 302
        assert Host.objects.filter(endpoint__uri=URI).exists()

    def test_the_connection_is_tested_before_saving(self, admin: Client) -> None:
        html = admin.post("/hosts/probe/", _host_form(), headers={"HX-Request": "true"}).content.decode()
        assert "It works" in html
        assert "2 hosts, 6 VMs" in html
        simulated.set_faults(URI, simulated.Faults(unreachable=True))
        html = admin.post("/hosts/probe/", _host_form(), headers={"HX-Request": "true"}).content.decode()
        assert "It does not work" in html
        assert "problem-remedy" in html

    def test_the_password_is_kept_replaced_and_forgotten_but_never_shown(self, admin: Client) -> None:
        admin.post("/hosts/add/", _host_form(secret="first-secret"))
        host = Host.objects.filter(endpoint__uri=URI)[0]
        form = _host_form(name=host.name, cluster=str(host.cluster_id))
        stored = host.endpoint.secret_encrypted
        assert stored
        assert admin.post(f"/hosts/{host.pk}/edit/", form | {"secret": ""}).status_code == 302
        host.endpoint.refresh_from_db()
        assert host.endpoint.secret_encrypted == stored
        html = admin.get(f"/hosts/{host.pk}/edit/").content.decode()
        assert "first-secret" not in html
        assert "A password is stored" in html
        admin.post(f"/hosts/{host.pk}/edit/", form | {"forget_secret": "on"})
        host.endpoint.refresh_from_db()
        assert host.endpoint.secret_encrypted == ""

    def test_changes_and_tags(self, admin: Client, installation: Installation) -> None:
        host = installation.hosts[1]
        form = {
            "name": "renamed", "cluster": host.cluster_id, "uri": host.endpoint.uri, "timeout_seconds": 7,
            "vnc_listen_address": "10.0.0.1", "management_address": "10.0.0.2", "console_limit_override": 12,
            "cpu_threads_override": 8, "memory_mib_override": 4096, "tags": "gpu",
        }  # fmt: skip
        assert admin.post(f"/hosts/{host.pk}/edit/", form).status_code == 302
        host.refresh_from_db()
        assert (host.name, host.console_limit_override, host.total_cpu_threads) == ("renamed", 12, 8)
        assert admin.post(f"/hosts/{host.pk}/tags/", {"tags": "a b,c"}).status_code == 302
        assert sorted(tag.name for tag in host.tags.all()) == ["a", "b", "c"]
        html = admin.post(f"/hosts/{host.pk}/edit/", form | {"console_limit_override": 0}).content.decode()
        assert has_error(html, "console_limit_override")
        assert 'value="renamed"' in html

    def test_removal_names_what_is_still_open_and_then_removes(self, admin: Client, installation: Installation) -> None:
        host = installation.hosts[0]
        assert ConsoleSession.objects.holding_slots(timezone.now()).filter(host=host).exists()
        refused = admin.post(f"/hosts/{host.pk}/remove/")
        assert refused.status_code == 409
        assert "console" in refused.content.decode()
        assert admin.post(f"/hosts/{host.pk}/remove/", {"force": "on"}).status_code == 302
        assert not Host.objects.filter(pk=host.pk).exists()

    def test_cordon_and_uncordon(self, admin: Client, installation: Installation) -> None:
        host = installation.hosts[0]
        admin.post(f"/hosts/{host.pk}/cordon/")
        assert not Host.objects.get(pk=host.pk).schedulable
        answer = admin.post(f"/hosts/{host.pk}/uncordon/", headers={"HX-Request": "true"})
        assert answer.status_code == 204
        assert "takes new VMs again" in answer["HX-Trigger"]
        assert Host.objects.get(pk=host.pk).schedulable
