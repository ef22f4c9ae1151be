"""Lists: keyset paging both ways, sorting, filters, CSV that is safe to open, and the palette's search."""

from __future__ import annotations

import csv
import io
import re

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.core import listing
from cloudops.core.models import Event
from cloudops.inventory.models import Host, Vm
from tests.pages.conftest import As
from tests.pages.installation import Installation, build

pytestmark = pytest.mark.django_db


def _names(html: str) -> list[str]:
    return re.findall(r'class="row-link" href="/vms/[^"]+/">([^<]+)<', html)


def _link(html: str, rel: str) -> str | None:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', html)
    return found.group(1).replace("&amp;", "&") if found else None


class TestPaging:
    @pytest.mark.parametrize("sort", ["name", "-name", "host", "-memory", "vcpus"])
    def test_forwards_and_back_meets_every_row_once(self, as_user: As, sort: str) -> None:
        made = build(timezone.now(), hosts=4, vms_per_host=33, password="")
        client = as_user(made.admin)
        html = client.get(f"/vms/?sort={sort}").content.decode()
        pages = [_names(html)]
        while link := _link(html, "next"):
            html = client.get(f"/vms/{link}").content.decode()
            pages.append(_names(html))
        assert [len(page) for page in pages] == [50, 50, 32]
        seen = [name for page in pages for name in page]
        assert sorted(seen) == sorted(vm.name for vm in made.vms)
        back = [pages[-1]]
        while link := _link(html, "prev"):
            html = client.get(f"/vms/{link}").content.decode()
            back.append(_names(html))
        assert back == pages[::-1]

    def test_rows_that_appear_meanwhile_shift_nothing(self, as_user: As) -> None:
        made = build(timezone.now(), hosts=2, vms_per_host=40, password="")
        client = as_user(made.admin)
        html = client.get("/vms/").content.decode()
        first, link = _names(html), _link(html, "next")
        Vm.objects.create(host=made.hosts[0], ref="new", name="aaa-first")
        second = _names(client.get(f"/vms/{link}").content.decode())
        assert len(first) + len(second) == 80
        assert not set(first) & set(second)

    @pytest.mark.parametrize("cursor", ["x", "W10", "WzEsWzEsMl1d", "////", "WzAsWyJhIiwibm90LWEtdXVpZCJdXQ"])
    def test_a_cursor_that_makes_no_sense_means_the_first_page(self, admin: Client, cursor: str) -> None:
        expected = _names(admin.get("/vms/").content.decode())
        assert _names(admin.get("/vms/", {"cursor": cursor}).content.decode()) == expected

    def test_the_audit_trail_pages_too(self, admin: Client) -> None:
        html = admin.get("/audit/").content.decode()
        link = _link(html, "next")
        assert link
        more = admin.get(f"/audit/{link}").content.decode()
        ids = set(re.findall(r'id="event-(\d+)"', html)) | set(re.findall(r'id="event-(\d+)"', more))
        assert len(ids) == Event.objects.count()


class TestFilters:
    def test_vms(self, admin: Client, installation: Installation) -> None:
        host = installation.hosts[0]
        by_host = _names(admin.get(f"/vms/?host={host.pk}").content.decode())
        assert sorted(by_host) == sorted(vm.name for vm in installation.vms if vm.host_id == host.pk)
        assert all(name.startswith("db-") for name in _names(admin.get("/vms/?project=none").content.decode()))
        assert _names(admin.get("/vms/?q=web-001-0").content.decode()) == ["web-001-0"]
        assert _names(admin.get("/vms/?power=off").content.decode()) == [
            vm.name for vm in sorted(installation.vms, key=lambda vm: vm.name) if vm.power_state == "off"
        ]
        tagged = set(Host.objects.filter(tags__name="ssd").values_list("name", flat=True))
        found = {Vm.objects.get(name=name).host.name for name in _names(admin.get("/vms/?tag=ssd").content.decode())}
        assert found == tagged
        assert "No VM matches" in admin.get("/vms/?host=not-a-uuid").content.decode()

    def test_fleet(self, admin: Client, installation: Installation) -> None:
        def hosts(query: str) -> set[str]:
            html = admin.get(f"/fleet/?{query}").content.decode()
            return set(re.findall(r'class="row-link" href="/hosts/[^"]+/">([^<]+)<', html))

        assert hosts("") == {host.name for host in installation.hosts}
        assert hosts("state=unreachable") == {host.name for host in installation.hosts if host.connection != "up"}
        assert hosts(f"cluster={installation.clusters[1].pk}") == {"kvm-001"}
        assert hosts("tag=ssd") == {"kvm-000", "kvm-002"}
        assert hosts("q=KVM-001") == {"kvm-001"}
        Host.objects.filter(name="kvm-001").update(console_limit_override=1)
        assert "kvm-001" in hosts("near=1")

    def test_audit(self, admin: Client) -> None:
        def kinds(query: str) -> set[str]:
            return set(re.findall(r'class="strong">([a-z._]+)<', admin.get(f"/audit/?{query}").content.decode()))

        assert kinds("kind=host") == {"host.up"}
        assert kinds("kind=vm.assigned") == {"vm.assigned"}
        assert kinds("severity=warning") <= {"host.up", "vm.assigned", "vm.power_changed"}
        assert kinds("subject=kvm-000") == {"host.up"}
        assert kinds("actor=nobody") == set()
        assert kinds("since=2001-01-01&until=2001-01-02") == set()
        assert kinds("since=not-a-day") >= {"host.up", "vm.assigned", "vm.power_changed"}

    def test_consoles(self, admin: Client, installation: Installation) -> None:
        def count(query: str) -> int:
            return len(re.findall(r'id="session-', admin.get(f"/consoles/?{query}").content.decode()))

        everything = count("")
        assert 0 < count("idle=1") < everything
        assert 0 < count("user=tina") < everything
        assert count(f"host={installation.hosts[0].pk}") < everything
        assert count("host=nonsense") == 0
        assert count("q=198.51.100.") == everything
        assert count(f"project={installation.project.pk}") < everything

    def test_the_history_by_reason_and_day(self, admin: Client) -> None:
        def count(query: str) -> int:
            return len(re.findall(r'id="past-[0-9a-f]{8}-', admin.get(f"/consoles/history/?{query}").content.decode()))

        assert count("") == 6
        assert count("reason=idle") == 1
        assert count("day=2001-01-01") == 0


class TestFleetOfManyHosts:
    def test_too_many_rows_are_cut_and_those_that_need_attention_come_first(self, as_user: As) -> None:
        made = build(timezone.now(), hosts=130, vms_per_host=1, sessions=0, password="")
        client = as_user(made.admin)
        html = client.get("/fleet/").content.decode()
        rows = re.findall(r'<tr id="host-', html)
        assert len(rows) == 100
        assert html.count("unreachable</span>") + html.count("unreachable <") > 0
        assert "15 more hosts" in html
        everything = client.get("/fleet/?all=1").content.decode()
        assert len(re.findall(r'<tr id="host-', everything)) == 130


class TestCsv:
    def test_it_holds_what_is_shown_and_opens_safely(self, admin: Client, installation: Installation) -> None:
        Vm.objects.filter(pk=installation.vms[0].pk).update(name="=HYPERLINK(1)", guest_os="@x")
        response = admin.get("/vms/?format=csv&project=none")
        assert "attachment" in response["Content-Disposition"]
        assert all("=" not in row["VM"] for row in csv.DictReader(io.StringIO(response.content.decode())))
        rows = list(csv.DictReader(io.StringIO(admin.get("/vms/?format=csv").content.decode())))
        assert len(rows) == len(installation.vms)
        assert rows[0]["VM"] == "'=HYPERLINK(1)"
        assert rows[0]["guest OS"] == "'@x"

    @pytest.mark.parametrize(
        "address",
        [
            "/fleet/",
            "/consoles/",
            "/consoles/history/",
            "/offerings/",
            "/audit/",
            "/operations/",
            "/users/",
            "/projects/",
        ],
    )
    def test_every_list_has_one(self, admin: Client, address: str) -> None:
        response = admin.get(address, {"format": "csv"})
        assert response["Content-Type"].startswith("text/csv")
        assert len(response.content.decode().splitlines()) > 1


class TestSearch:
    def test_prefixes_and_access(self, admin: Client, tenant: Client, installation: Installation) -> None:
        def labels(client: Client, query: str) -> set[tuple[str, str]]:
            found = client.get("/search/", {"q": query}).json()
            return {(hit["kind"].split(" ")[0], hit["label"]) for hit in found}

        assert ("host", "kvm-001") in labels(admin, "kvm-001")
        assert labels(admin, "host:kvm-00") == {("host", host.name) for host in installation.hosts}
        assert labels(admin, "user:tina") == {("person", "tina")}
        assert labels(admin, "tag:ss") == {("tag", "ssd")}
        assert labels(admin, "project:apo") == {("project", "apollo")}
        assert {kind for kind, _ in labels(admin, "vm:web-000")} == {"VM"}
        assert labels(tenant, "kvm-0") == set()
        assert labels(tenant, "user:anna") == set()
        assert labels(tenant, "vm:db-") == set()
        assert ("VM", "web-000-0") in labels(tenant, "web")
        assert labels(admin, "w") == set()

    def test_every_hit_leads_somewhere(self, admin: Client, tenant: Client) -> None:
        for client in (admin, tenant):
            for hit in client.get("/search/?q=a").json() + client.get("/search/?q=we").json():
                assert client.get(hit["url"]).status_code == 200, hit


def test_a_formula_is_text_and_a_number_stays() -> None:
    assert listing._cell("-1+1") == "'-1+1"
    assert listing._cell(12) == "12"
    assert listing._cell(None) == ""
