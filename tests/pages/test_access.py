"""Every page and every action, by everybody. A route that is not in the table fails the test."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import URLPattern, reverse
from django.utils import timezone

from cloudops.accounts import urls as accounts_urls
from cloudops.accounts.models import ApiToken, Membership, Project
from cloudops.core import operations
from cloudops.core.actors import system
from cloudops.inventory import urls as inventory_urls
from cloudops.inventory.models import Vm
from cloudops.managers import urls as managers_urls
from consoles import urls as consoles_urls
from consoles.models import ConsoleSession, ForeignConnection, ReleaseRequest
from placement import urls as placement_urls
from scaling import urls as scaling_urls
from scaling.models import Resize
from tests.pages.conftest import As
from tests.pages.installation import Installation

pytestmark = pytest.mark.django_db

LOGIN, OK, NO, GONE, POST = 302, 200, 403, 404, 405

# name: (what GET answers to stranger, tenant, operator, admin). Nobody signed in is always led to the login.
PAGES: dict[str, tuple[int, int, int, int]] = {
    "home": (302, 302, 302, 302),
    "account": (OK, OK, OK, OK),
    "account-email": (NO, NO, NO, NO),
    "project-choose": (OK, OK, OK, OK),
    "users": (NO, NO, NO, OK),
    "user-add": (NO, NO, NO, OK),
    "user": (NO, NO, NO, OK),
    "projects": (NO, NO, OK, OK),
    "project-add": (NO, NO, NO, OK),
    "project": (NO, NO, OK, OK),
    "host-add": (NO, NO, OK, OK),
    "host-edit": (NO, NO, OK, OK),
    "clusters": (NO, NO, OK, OK),
    "cluster-add": (NO, NO, OK, OK),
    "cluster-edit": (NO, NO, OK, OK),
    "offerings": (NO, NO, OK, OK),
    "offering-add": (NO, NO, NO, OK),
    "offering": (NO, NO, OK, OK),
    "offering-edit": (NO, NO, NO, OK),
    "templates": (NO, NO, OK, OK),
    "template-add": (NO, NO, NO, OK),
    "template-edit": (NO, NO, NO, OK),
    "placement": (NO, NO, OK, OK),
    "placement-try": (NO, NO, OK, OK),
    "placement-policy": (NO, NO, OK, OK),
    "decisions": (NO, NO, OK, OK),
    "decision": (NO, NO, OK, OK),
    "affinity-groups": (NO, NO, OK, OK),
    "affinity-group-add": (NO, NO, OK, OK),
    "affinity-group-edit": (NO, NO, OK, OK),
    "drift": (NO, NO, OK, OK),
    "migrations": (NO, NO, OK, OK),
    "vms-migrate": (NO, NO, OK, OK),
    "vm-placement": (GONE, OK, OK, OK),
    "vm-migrate": (NO, NO, OK, OK),
    "host-placement": (NO, NO, OK, OK),
    "host-fence": (NO, NO, NO, OK),
    "maintenance": (NO, NO, OK, OK),
    "maintenance-new": (NO, NO, OK, OK),
    "maintenance-job": (NO, NO, OK, OK),
    "maintenance-homecoming": (NO, NO, OK, OK),
    "search": (OK, OK, OK, OK),
    "servers": (NO, NO, OK, OK),
    "settings": (NO, NO, NO, OK),
    "audit": (NO, NO, OK, OK),
    "my-activity": (OK, OK, OK, OK),
    "operations": (OK, OK, OK, OK),
    "operations-tray": (OK, OK, OK, OK),
    "operation": (GONE, OK, OK, OK),
    "fleet": (NO, NO, OK, OK),
    "host": (NO, NO, OK, OK),
    "host-chart": (NO, NO, OK, OK),
    "vms": (NO, NO, OK, OK),
    "vm": (GONE, OK, OK, OK),
    "vm-screenshot": (GONE, 204, NO, 204),
    "vm-thumbnail": (GONE, OK, NO, OK),
    "vm-console": (GONE, OK, NO, OK),
    "session-console": (GONE, OK, GONE, GONE),
    "consoles": (NO, NO, OK, OK),
    "console-history": (NO, NO, OK, OK),
    "console-chart": (NO, NO, OK, OK),
    "my-vms": (OK, OK, OK, OK),
    "my-consoles": (OK, OK, OK, OK),
    "scaling": (NO, NO, OK, OK),
    "cluster-headroom": (NO, NO, OK, OK),
    "vm-size": (GONE, OK, OK, OK),
    "vm-scale": (GONE, OK, OK, OK),
    "vm-headroom": (NO, NO, OK, OK),
}

# name: (what POST answers to stranger, tenant, operator); an administrator may do all of them.
ACTIONS: dict[str, tuple[int, int, int]] = {
    "token-revoke": (GONE, GONE, GONE),
    "user-password": (NO, NO, NO),
    "user-deactivate": (NO, NO, NO),
    "user-reactivate": (NO, NO, NO),
    "project-change": (NO, NO, NO),
    "project-delete": (NO, NO, NO),
    "member-add": (NO, NO, NO),
    "member-change": (NO, NO, NO),
    "member-remove": (NO, NO, NO),
    "host-probe": (NO, NO, OK),
    "host-test": (NO, NO, OK),
    "host-certificate": (NO, NO, 409),
    "host-cordon": (NO, NO, 302),
    "host-uncordon": (NO, NO, 302),
    "host-sync": (NO, NO, 302),
    "host-tags": (NO, NO, 302),
    "host-remove": (NO, NO, 409),
    "cluster-delete": (NO, NO, 409),
    "offering-delete": (NO, NO, NO),
    "template-delete": (NO, NO, NO),
    "affinity-group-delete": (NO, NO, 302),
    "drift-mend": (NO, NO, 302),
    "migration-abort": (NO, NO, 302),
    "host-unfence": (NO, NO, NO),
    "maintenance-start": (NO, NO, OK),
    "maintenance-cancel": (NO, NO, 409),
    "maintenance-resume": (NO, NO, 400),
    "maintenance-complete": (NO, NO, 409),
    "maintenance-retry": (NO, NO, 409),
    "maintenance-release": (NO, NO, 409),
    "maintenance-bring-home": (NO, NO, 409),
    "maintenance-choose": (NO, NO, 409),
    "server-drain": (NO, NO, NO),
    "server-undrain": (NO, NO, NO),
    "operation-read": (GONE, 302, 302),
    "vms-assign": (NO, NO, NO),
    "vm-power": (GONE, 400, 400),
    "vm-refresh": (NO, NO, 503),
    "vm-offering": (NO, NO, 302),
    "consoles-disconnect": (NO, NO, 302),
    "consoles-disconnect-idle": (NO, NO, 302),
    "console-ask": (NO, NO, 302),
    "foreign-drop": (NO, NO, 503),
    "my-consoles-disconnect": (302, 302, 302),
    "release-answer": (GONE, 302, GONE),
    "vm-size-prepare": (GONE, 409, 409),
    "vm-size-forget": (GONE, 409, 409),
    "resize-continue": (GONE, 409, 409),
    "resize-roll-back": (GONE, 409, 409),
    "resize-cancel": (GONE, 409, 409),
}


def _routes() -> dict[str, URLPattern]:
    modules: list[Any] = [accounts_urls, inventory_urls, managers_urls, consoles_urls, placement_urls, scaling_urls]
    return {pattern.name: pattern for module in modules for pattern in module.urlpatterns}


def _objects(installation: Installation) -> dict[str, Any]:
    """An id for each name that occurs in a route; the VM is the tenant's, and so is the session."""
    now = timezone.now()
    vm = next(vm for vm in installation.vms if vm.project_id and vm.is_running)
    session = ConsoleSession.objects.create(
        vm=vm, host_id=vm.host_id, user=installation.tenant, secret_sha256=uuid4().hex, status="active",
        process=installation.process, redeem_by=now, created_at=now, connected_at=now, last_input_at=now,
    )  # fmt: skip
    token = ApiToken.objects.create(
        user=installation.admin, label="t", prefix="cops_", secret_sha256="a", created_at=now, expires_at=now
    )
    asked = ReleaseRequest.objects.create(session=session, requested_by=installation.stranger, created_at=now)
    other = Project.objects.create(name="other")
    return {
        "token_id": token.pk,
        "user_id": installation.stranger.pk,
        "project_id": installation.project.pk,
        "membership_id": Membership.objects.get(project=installation.project).pk,
        "host_id": installation.hosts[0].pk,
        "cluster_id": installation.clusters[0].pk,
        "offering_id": installation.offering.pk,
        "template_id": installation.template.pk,
        "group_id": installation.group.pk,
        "decision_id": installation.decision.pk,
        "migration_id": installation.migration.pk,
        "job_id": installation.job.pk,
        "move_id": installation.move.pk,
        "process_id": installation.process.pk,
        "operation_id": installation.operation.pk,
        "vm_id": vm.pk,
        "session_id": session.pk,
        "request_id": asked.pk,
        "connection_id": ForeignConnection.objects.values_list("pk", flat=True)[0],
        "resize_id": _resize(vm, now).pk,
        "other": other.pk,
    }


def _resize(vm: Vm, now: datetime) -> Resize:
    """One that ended well: nothing can be done about it any more."""
    operation = operations.start(
        kind="vm.resize", title=f"Resize {vm}", subject=vm, steps=["Change"], by=system("tests"), now=now
    )
    operations.begin(operation, by=system("tests"), now=now)
    operations.succeed(operation, by=system("tests"), now=now)
    size = {"vcpus": 1, "memory_mib": 1024, "cpu_mhz": 0, "cpu_cap": False}
    return Resize.objects.create(
        operation=operation, vm=vm, mode="live", phase="ended", outcome="applied", from_size=size, to_size=size,
        given_size=size, created_at=now, ended_at=now,
    )  # fmt: skip


def _address(name: str, ids: dict[str, Any]) -> str:
    pattern = _routes()[name].pattern
    return reverse(name, kwargs={key: ids[key] for key in pattern.converters})


def test_the_tables_name_every_route() -> None:
    assert set(PAGES) | set(ACTIONS) == set(_routes())


@pytest.fixture
def _quick_hypervisors(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host of the table's installation exists; do not wait for any of them."""
    from cloudops.hypervisors import registry
    from cloudops.hypervisors.port import ProbeStep, Unreachable

    def unreachable(*args: object, **kwargs: object) -> Any:
        raise Unreachable("Nobody is there.")

    monkeypatch.setattr(registry, "call", unreachable)
    monkeypatch.setattr(registry, "probe", lambda spec: [ProbeStep("Connect", False, "Nobody is there.", "Start it.")])


@pytest.mark.usefixtures("_quick_hypervisors")
def test_every_page_by_everybody(installation: Installation, as_user: As) -> None:
    ids = _objects(installation)
    cast = [installation.stranger, installation.tenant, installation.operator, installation.admin]
    clients = {user.username: as_user(user) for user in cast}
    wrong: list[tuple[object, ...]] = []
    for name, expected in PAGES.items():
        address = _address(name, ids)
        anonymous = Client().get(address)
        if anonymous.status_code != LOGIN or "/account/login/" not in anonymous["Location"]:
            wrong.append((name, "nobody", anonymous.status_code))
        for (who, client), status in zip(clients.items(), expected, strict=True):
            found = client.get(address).status_code
            if found != status:
                wrong.append((name, who, found, f"expected {status}"))
    assert not wrong


@pytest.mark.usefixtures("_quick_hypervisors")
def test_every_action_by_everybody(installation: Installation, as_user: As) -> None:
    ids = _objects(installation)
    cast = [installation.stranger, installation.tenant, installation.operator]
    clients = {user.username: as_user(user) for user in cast}
    admin = as_user(installation.admin)
    wrong: list[tuple[object, ...]] = []
    for name, expected in ACTIONS.items():
        address = _address(name, ids)
        anonymous = Client().post(address)
        if anonymous.status_code != LOGIN or "/account/login/" not in anonymous["Location"]:
            wrong.append((name, "nobody", anonymous.status_code))
        if admin.get(address).status_code != POST:
            wrong.append((name, "GET must change nothing"))
        for (who, client), status in zip(clients.items(), expected, strict=True):
            found = client.post(address).status_code
            if found != status:
                wrong.append((name, who, found, f"expected {status}"))
    assert not wrong


def test_actions_need_the_form_token(installation: Installation) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(installation.admin, backend="allauth.account.auth_backends.AuthenticationBackend")
    ids = _objects(installation)
    for name in ACTIONS:
        response = client.post(_address(name, ids))
        assert response.status_code == 403, name
        assert b"expired" in response.content, name


def test_a_stranger_learns_nothing_about_a_vm(installation: Installation, as_user: As) -> None:
    vm = installation.vms[0]
    real = as_user(installation.stranger).get(f"/vms/{vm.pk}/")
    made_up = as_user(installation.stranger).get(f"/vms/{uuid4()}/")
    assert real.status_code == made_up.status_code == 404
    assert vm.name not in real.content.decode()


def test_a_tenant_sees_nothing_of_other_projects(installation: Installation, tenant: Client) -> None:
    foreign = next(vm for vm in installation.vms if vm.project_id is None)
    for address in ("/my/vms/", "/my/activity/", "/operations/", "/search/?q=db-", f"/search/?q=vm:{foreign.name}"):
        assert foreign.name not in tenant.get(address).content.decode(), address


def test_a_fragment_sends_the_signed_out_to_the_login_as_a_whole_page(db: None) -> None:
    response = Client().get("/fleet/", headers={"HX-Request": "true"})
    assert response.status_code == 401
    assert response["HX-Redirect"] == "/account/login/"
