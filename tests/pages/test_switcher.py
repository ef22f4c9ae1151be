"""The project switcher: what it shows, what it narrows, and that it never widens."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.accounts.models import Membership, Project, User
from cloudops.core.models import Event
from cloudops.inventory.models import Vm
from consoles.models import ConsoleSession
from tests.pages.conftest import As
from tests.pages.installation import Installation

pytestmark = pytest.mark.django_db


class Two(NamedTuple):
    """Projects of the tenant, and a running VM of each."""

    first: Project
    second: Project
    first_vm: Vm
    second_vm: Vm


@pytest.fixture
def two(installation: Installation) -> Two:
    """The tenant is in two projects, with a console and an event in each."""
    second = Project.objects.create(name="zephyr & co")
    Membership.objects.create(project=second, user=installation.tenant)
    ConsoleSession.objects.filter(user=installation.tenant).delete()
    vms = [vm for vm in installation.vms if vm.is_running and vm.project_id]
    chosen = Two(installation.project, second, vms[0], vms[1])
    Vm.objects.filter(pk=chosen.second_vm.pk).update(project=second)
    now = timezone.now()
    for vm, project in ((chosen.first_vm, chosen.first), (chosen.second_vm, chosen.second)):
        ConsoleSession.objects.create(
            vm=vm, host_id=vm.host_id, user=installation.tenant, secret_sha256=uuid4().hex, status="active",
            process=installation.process, redeem_by=now, created_at=now - timedelta(hours=1),
            connected_at=now - timedelta(hours=1), last_input_at=now - timedelta(hours=1),
        )  # fmt: skip
        Event.objects.create(
            at=now, kind="console.opened", actor_kind="user", actor_user_id=installation.tenant.pk,
            subject_name=vm.name, project_id=project.pk,
        )  # fmt: skip
    return chosen


MINE = ("/my/vms/", "/my/consoles/", "/my/activity/")


def _choose(client: Client, project: Project | None, **more: str) -> None:
    response = client.post("/account/project/", {"project": str(project.pk) if project else "", **more})
    assert response.status_code == 302


def _names(client: Client, two: Two) -> dict[str, tuple[bool, bool]]:
    """Whether the page shows the first project's VM, and the second's."""
    pages = {address: client.get(address).content.decode() for address in MINE}
    return {address: (two.first_vm.name in html, two.second_vm.name in html) for address, html in pages.items()}


def test_my_pages_show_the_chosen_project_only(tenant: Client, two: Two) -> None:
    assert set(_names(tenant, two).values()) == {(True, True)}
    _choose(tenant, two.second)
    assert set(_names(tenant, two).values()) == {(False, True)}
    _choose(tenant, two.first)
    assert set(_names(tenant, two).values()) == {(True, False)}
    _choose(tenant, None)
    assert set(_names(tenant, two).values()) == {(True, True)}


def test_the_frame_names_the_choice(tenant: Client, two: Two) -> None:
    assert 'aria-label="Project: all projects. Choose another"' in tenant.get("/my/vms/").content.decode()
    _choose(tenant, two.second)
    for address in (*MINE, "/account/", f"/vms/{two.first_vm.pk}/"):
        html = tenant.get(address).content.decode()
        assert 'aria-label="Project: zephyr &amp; co. Choose another"' in html, address
        assert html.count('aria-pressed="true"') == 1, address
    assert "1 more in other projects" in tenant.get("/my/consoles/").content.decode()


def test_the_choice_is_a_page_too(tenant: Client, two: Two) -> None:
    """For browsers without popovers, and as the frame's live fragment."""
    _choose(tenant, two.second)
    html = tenant.get("/account/project/").content.decode()
    assert f'<option value="{two.second.pk}" selected>' in html
    fragment = tenant.get("/account/project/", headers={"X-Live": "switcher"}).content.decode()
    assert 'id="switcher"' in fragment
    assert "<html" not in fragment


def test_people_with_one_project_have_nothing_to_choose(tenant: Client, installation: Installation) -> None:
    assert 'id="switcher"' not in tenant.get("/my/vms/").content.decode()
    assert "There is nothing to choose" in tenant.get("/account/project/").content.decode()


def test_fleet_pages_have_no_switcher_as_it_narrows_nothing_there(
    installation: Installation, two: Two, admin: Client
) -> None:
    for project in (two.first, two.second):
        Membership.objects.create(project=project, user=installation.admin)
    _choose(admin, two.second)
    assert 'id="switcher"' in admin.get("/my/vms/").content.decode()
    fleet = admin.get("/vms/").content.decode()
    assert 'id="switcher"' not in fleet
    assert two.first_vm.name in fleet


@pytest.mark.parametrize("wanted", ["other", "made up", "no id"])
def test_only_ones_own_projects_can_be_chosen(tenant: Client, two: Two, wanted: str) -> None:
    foreign = Project.objects.create(name="foreign")
    value = {"other": str(foreign.pk), "made up": str(uuid4()), "no id": "x"}[wanted]
    _choose(tenant, two.second)
    response = tenant.post("/account/project/", {"project": value})
    assert response.status_code == 404
    assert "among yours" in response.content.decode()
    assert User.objects.get(username="tina").current_project == two.second


def test_leaving_the_project_ends_the_choice(tenant: Client, two: Two) -> None:
    third = Project.objects.create(name="third")
    Membership.objects.create(project=third, user=User.objects.get(username="tina"))
    _choose(tenant, two.second)
    Membership.objects.filter(project=two.second).delete()
    assert _names(tenant, two)["/my/vms/"] == (True, False)
    assert "Project: all projects." in tenant.get("/my/vms/").content.decode()


def test_an_address_that_names_a_project_goes_before_the_choice(tenant: Client, two: Two) -> None:
    _choose(tenant, two.second)
    html = tenant.get(f"/my/vms/?project={two.first.pk}").content.decode()
    assert two.first_vm.name in html
    assert two.second_vm.name not in html


@pytest.mark.parametrize(
    ("came_from", "goes_to"),
    [
        ("/my/consoles/", "/my/consoles/"),
        ("/my/vms/?q=web&project=x&cursor=y", "/my/vms/?q=web"),
        ("https://elsewhere.example/", "/my/vms/"),
    ],
)
def test_choosing_leads_back_to_the_page(tenant: Client, two: Two, came_from: str, goes_to: str) -> None:
    response = tenant.post("/account/project/", {"project": str(two.first.pk), "next": came_from})
    assert response["Location"] == goes_to


def test_disconnecting_idle_consoles_ends_those_that_the_page_shows(tenant: Client, two: Two) -> None:
    _choose(tenant, two.second)
    html = tenant.get("/my/consoles/").content.decode()
    assert f'name="project" value="{two.second.pk}"' in html
    assert "Disconnect your 1 idle console?" in html
    tenant.post("/my/consoles/disconnect/", {"idle": "1", "project": str(two.second.pk)})
    left = ConsoleSession.objects.filter(user__username="tina").exclude(status="closed")
    assert [session.vm for session in left] == [two.first_vm]


def test_the_choice_needs_the_form_token(installation: Installation, two: Two) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(installation.tenant, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.post("/account/project/", {"project": str(two.second.pk)}).status_code == 403


def test_the_api_makes_and_shows_the_same_choice(tenant: Client, two: Two) -> None:
    body = {"current_project": str(two.second.pk)}
    changed = tenant.patch("/api/v1/me/", body, content_type="application/json")
    assert changed.json()["current_project"] == {"id": str(two.second.pk), "name": two.second.name}
    assert _names(tenant, two)["/my/vms/"] == (False, True)
    assert len(tenant.get("/api/v1/vms/").json()["results"]) > 1
    refused = tenant.patch("/api/v1/me/", {"current_project": str(uuid4())}, content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (404, "project-not-found")
    cleared = tenant.patch("/api/v1/me/", {"current_project": None}, content_type="application/json")
    assert cleared.json()["current_project"] is None


def test_anybody_signed_in_but_nobody_else(as_user: As) -> None:
    assert "/account/login/" in as_user(None).post("/account/project/", {"project": ""})["Location"]
