"""The maintenance wizard and a job's page, as people use them. Nothing is executed: no worker runs here."""

from __future__ import annotations

import re
import uuid
from html import unescape

import pytest
from django.test import Client

from cloudops.inventory.models import Host, Tag
from placement.models import Maintenance, MaintenanceMove
from tests.pages.conftest import As
from tests.pages.installation import Installation

pytestmark = pytest.mark.django_db


def _host_to_empty(installation: Installation) -> Host:
    """A host that is up; its VMs may go to the others."""
    return next(host for host in installation.hosts if host.connection == "up" and host.schedulable)


def _hidden(page: str) -> dict[str, list[str]]:
    """The hidden fields of the confirmation."""
    form = page.split('action="/maintenance/start/"')[1]
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([a-z_]+)" value="([^"]*)"', form):
        if name != "csrfmiddlewaretoken":
            found.setdefault(name, []).append(unescape(value))
    return found


def test_a_host_is_emptied_through_the_wizard(installation: Installation, admin: Client) -> None:
    host = _host_to_empty(installation)
    assert host.name in admin.get("/maintenance/new/").content.decode()
    page = admin.get(f"/maintenance/new/?host={host.pk}").content.decode()
    assert "What moves" in page or "What is in the way" in page
    answer = admin.post("/maintenance/start/", {**_hidden(page), "reason": "firmware"})
    job = Maintenance.objects.get(reason="firmware")
    assert answer.headers["Location"] == f"/maintenance/{job.pk}/"
    shown = admin.get(f"/maintenance/{job.pk}/").content.decode()
    assert host.name in shown
    host.refresh_from_db()
    assert not host.schedulable
    admin.post(f"/maintenance/{job.pk}/cancel/")
    host.refresh_from_db()
    assert host.schedulable


def test_asked_twice_it_is_one_job(installation: Installation, admin: Client) -> None:
    host = _host_to_empty(installation)
    fields = _hidden(admin.get(f"/maintenance/new/?host={host.pk}").content.decode())
    first = admin.post("/maintenance/start/", fields).headers["Location"]
    assert admin.post("/maintenance/start/", fields).headers["Location"] == first


def test_a_refusal_keeps_the_reason_that_was_typed(installation: Installation, admin: Client) -> None:
    host = _host_to_empty(installation)
    fields = _hidden(admin.get(f"/maintenance/new/?host={host.pk}").content.decode())
    admin.post("/maintenance/start/", fields)
    other = next(one for one in installation.hosts if one != host)
    both = {**fields, "host": [str(host.pk), str(other.pk)], "reason": "two at once"}
    page = admin.post("/maintenance/start/", both).content.decode()
    assert "two at once" in page
    assert "Go on with that job, or cancel it first." in unescape(page)


def test_remedies_keep_the_other_choices(installation: Installation, admin: Client) -> None:
    """Hosts lack the tag: nothing can leave, and each remedy is a link to the preview with one choice more."""
    Tag.objects.get(name="ssd")
    host = _host_to_empty(installation)
    Host.tags.through.objects.exclude(host=host).delete()
    page = admin.get(f"/maintenance/new/?host={host.pk}").content.decode()
    assert "What is in the way" in page
    link = unescape(re.findall(r'<a class="btn btn-sm" +href="([^"]+)">Leave it there', page)[0])
    again = admin.get(link).content.decode()
    assert "You chose" in again
    assert len(_hidden(again)["choice"]) == 1


def test_only_an_administrator_has_a_vm_stopped(installation: Installation, as_user: As) -> None:
    host = _host_to_empty(installation)
    vm = next(vm for vm in installation.vms if vm.host_id == host.pk and vm.is_running)
    fields = {"host": str(host.pk), "mode": "maintenance", "choice": f"{vm.pk}~stop~~"}
    assert as_user(installation.operator).post("/maintenance/start/", fields).status_code == 403
    assert not MaintenanceMove.objects.filter(choice="stop").exists()
    as_user(installation.admin).post("/maintenance/start/", fields)
    assert MaintenanceMove.objects.get(choice="stop").vm_id == vm.pk


@pytest.mark.parametrize("query", ["host=nonsense", "cluster=nonsense", "host=x&choice=y", "choice=a~b", "host=1"])
def test_an_address_that_makes_no_sense_leads_back_to_the_choice(admin: Client, query: str) -> None:
    assert admin.get(f"/maintenance/new/?{query}").status_code == 200


def test_a_chosen_host_that_is_gone_is_said_and_breaks_nothing(installation: Installation, admin: Client) -> None:
    host = _host_to_empty(installation)
    vm = next(vm for vm in installation.vms if vm.host_id == host.pk)
    fields = {"host": str(host.pk), "mode": "maintenance", "choice": f"{vm.pk}~host~{uuid.uuid4()}~"}
    shown = admin.get("/maintenance/new/", fields)
    assert shown.status_code == 404
    assert "1 chosen host not found" in shown.content.decode()
    assert admin.post("/maintenance/start/", fields).status_code == 404
    assert not Maintenance.objects.filter(hosts__host=host).exists()


@pytest.mark.parametrize("choice", ["across~~", "~~stop", "~~host", "host~~", "skip~{host}~", "stop~~skip", "x~~"])
def test_a_choice_that_nobody_could_make_is_not_read(installation: Installation, admin: Client, choice: str) -> None:
    host = _host_to_empty(installation)
    vm = next(vm for vm in installation.vms if vm.host_id == host.pk)
    fields = {"host": str(host.pk), "choice": f"{vm.pk}~{choice.format(host=host.pk)}"}
    assert "cannot be read" in admin.post("/maintenance/start/", fields).content.decode()
    assert not Maintenance.objects.filter(hosts__host=host).exists()


def _failed_stop(installation: Installation, admin: Client) -> MaintenanceMove:
    """A VM that an administrator wanted stopped, and that did not stop."""
    host = _host_to_empty(installation)
    vm = next(vm for vm in installation.vms if vm.host_id == host.pk and vm.is_running)
    admin.post("/maintenance/start/", {"host": str(host.pk), "mode": "maintenance", "choice": f"{vm.pk}~stop~~"})
    row = MaintenanceMove.objects.get(vm=vm, choice="stop")
    MaintenanceMove.objects.filter(pk=row.pk).update(status="blocked", choice="", reason_code="stop-failed")
    return row


def test_an_operator_neither_retries_nor_chooses_a_stop(installation: Installation, as_user: As) -> None:
    admin, operator = as_user(installation.admin), as_user(installation.operator)
    row = _failed_stop(installation, admin)
    page = f"/maintenance/{row.maintenance_id}/moves/{row.pk}/choose/"
    for client in (operator, admin):
        assert client.post(page, {"choice": "retry"}).status_code == 409
        client.post(f"/maintenance/{row.maintenance_id}/retry/")
        row.refresh_from_db()
        assert (row.status, row.choice) == ("blocked", "")
    for choice in ("stop", "ask-again"):
        assert operator.post(page, {"choice": choice}).status_code == 403
    row.refresh_from_db()
    assert row.choice == ""
    shown = admin.get(f"/maintenance/{row.maintenance_id}/").content.decode()
    assert "Ask it again to shut down" in shown
    assert admin.post(page, {"choice": "ask-again"}).status_code == 302
    row.refresh_from_db()
    assert (row.status, row.choice, row.operation) == ("waiting", "stop", None)
    MaintenanceMove.objects.filter(pk=row.pk).update(status="blocked", choice="", reason_code="stop-failed")
    assert admin.post(page, {"choice": "stop"}).status_code == 302
    row.refresh_from_db()
    assert (row.status, row.choice) == ("waiting", "stop")
