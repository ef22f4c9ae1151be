"""Forms: what is right is done, what is wrong is said beside the field with a remedy, and nothing typed is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.accounts import people
from cloudops.accounts.models import ApiToken, Membership, Project, User
from cloudops.core import runtime
from cloudops.core.actors import system
from cloudops.core.models import Event
from cloudops.hypervisors import simulated
from cloudops.inventory.models import Cluster, Connection, Host, Offering, Template, Vm
from consoles import sessions
from consoles.models import ConsoleSession, ReleaseRequest
from tests.pages.installation import PASSWORD, Installation

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


def _has_error(html: str, field: str) -> bool:
    """Whether the named field is marked as wrong, beside it."""
    block = html.split(f'id="field-{field}"')[1].split('id="field-')[0]
    return "errorlist" in block


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
        assert _has_error(html, "uri")
        assert "not a uri" in html
        assert "kept-name" in html
        assert not Host.objects.filter(endpoint__uri="not a uri").exists()

    def test_a_host_needs_a_cluster(self, admin: Client) -> None:
        html = admin.post("/hosts/add/", _host_form(new_cluster="")).content.decode()
        assert _has_error(html, "new_cluster")

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
        assert _has_error(html, "console_limit_override")
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


class TestClustersAndOfferings:
    def test_clusters(self, admin: Client, installation: Installation) -> None:
        assert admin.post("/clusters/add/", {"name": "gpu", "position": 5}).status_code == 302
        cluster = Cluster.objects.get(name="gpu")
        html = admin.post("/clusters/add/", {"name": "gpu", "description": "kept words"}).content.decode()
        assert _has_error(html, "name")
        assert "kept words" in html
        admin.post(f"/clusters/{cluster.pk}/edit/", {"name": "gpu-1", "position": 0, "description": "d"})
        assert Cluster.objects.get(pk=cluster.pk).name == "gpu-1"
        assert admin.post(f"/clusters/{installation.clusters[0].pk}/delete/").status_code == 409
        assert admin.post(f"/clusters/{cluster.pk}/delete/").status_code == 302
        assert not Cluster.objects.filter(pk=cluster.pk).exists()

    def test_offerings(self, admin: Client, installation: Installation) -> None:
        form = {"name": "xl", "vcpus": 8, "memory_mib": 16384, "host_tags": "ssd gpu", "enabled": "on"}
        assert admin.post("/offerings/add/", form).status_code == 302
        made = Offering.objects.get(name="xl")
        assert sorted(tag.name for tag in made.host_tags.all()) == ["gpu", "ssd"]
        html = admin.post("/offerings/add/", form | {"memory_mib": 1, "description": "kept"}).content.decode()
        assert _has_error(html, "memory_mib")
        assert "kept" in html
        admin.post(f"/offerings/{made.pk}/edit/", form | {"vcpus": 9, "host_tags": "", "enabled": ""})
        made.refresh_from_db()
        assert (made.vcpus, made.enabled, made.host_tags.count()) == (9, False, 0)
        assert admin.post(f"/offerings/{installation.offering.pk}/delete/").status_code == 409
        assert admin.post(f"/offerings/{made.pk}/delete/").status_code == 302


class TestPeople:
    def test_a_person_is_added_changed_and_switched_off(self, admin: Client) -> None:
        form = {"username": "nina", "password": PASSWORD, "role": "operator", "email": "n@example.net"}
        assert admin.post("/users/add/", form).status_code == 302
        nina = User.objects.get(username="nina")
        assert nina.check_password(PASSWORD)
        admin.post(f"/users/{nina.pk}/", {"role": "tenant", "first_name": "Nina"})
        admin.post(f"/users/{nina.pk}/password/", {"password": "another long password"})
        nina.refresh_from_db()
        assert (nina.role, nina.first_name, nina.check_password("another long password")) == ("tenant", "Nina", True)
        admin.post(f"/users/{nina.pk}/deactivate/")
        assert not User.objects.get(pk=nina.pk).is_active
        admin.post(f"/users/{nina.pk}/reactivate/")
        assert User.objects.get(pk=nina.pk).is_active

    def test_a_weak_password_is_refused_beside_the_field(self, admin: Client) -> None:
        html = admin.post("/users/add/", {"username": "weak", "password": "1234", "role": "tenant"}).content.decode()
        assert _has_error(html, "password")
        assert 'value="weak"' in html
        assert not User.objects.filter(username="weak").exists()

    def test_the_last_administrator_stays(self, admin: Client, installation: Installation) -> None:
        html = admin.post(f"/users/{installation.admin.pk}/", {"role": "tenant"}).content.decode()
        assert "administrator" in html.split("error-summary")[1].lower()
        assert User.objects.get(pk=installation.admin.pk).is_admin

    def test_projects_and_members(self, admin: Client, installation: Installation) -> None:
        assert admin.post("/projects/add/", {"name": "zephyr"}).status_code == 302
        project = Project.objects.get(name="zephyr")
        admin.post(f"/projects/{project.pk}/members/", {"user": installation.stranger.pk, "can_console": "on"})
        membership = Membership.objects.get(project=project)
        assert (membership.can_console, membership.can_power) == (True, False)
        admin.post(f"/projects/{project.pk}/members/{membership.pk}/", {"can_power": "on"})
        membership.refresh_from_db()
        assert (membership.can_console, membership.can_power) == (False, True)
        admin.post(f"/projects/{project.pk}/members/{membership.pk}/remove/")
        assert not Membership.objects.filter(project=project).exists()
        admin.post(f"/projects/{project.pk}/change/", {"name": "zephyr-2", "description": "d"})
        assert Project.objects.get(pk=project.pk).name == "zephyr-2"
        html = admin.post("/projects/add/", {"name": "zephyr-2", "description": "kept"}).content.decode()
        assert _has_error(html, "name")
        assert "kept" in html
        assert admin.post(f"/projects/{installation.project.pk}/delete/").status_code == 409
        assert admin.post(f"/projects/{project.pk}/delete/").status_code == 302

    def test_a_members_form_without_a_person_says_so(self, admin: Client, installation: Installation) -> None:
        html = admin.post(f"/projects/{installation.project.pk}/members/", {}).content.decode()
        assert _has_error(html, "user")


class TestOneself:
    def test_sign_in_and_out(self, with_password: Installation, client: Client) -> None:
        wrong = client.post("/account/login/", {"login": "tina", "password": "wrong"})
        assert "problem-title" in wrong.content.decode()
        assert 'value="tina"' in wrong.content.decode()
        right = client.post("/account/login/", {"login": "tina", "password": PASSWORD})
        assert right.status_code == 302
        assert client.get("/", follow=True).redirect_chain == [("/my/vms/", 302)]
        assert client.post("/account/logout/").status_code == 302
        assert client.get("/my/vms/").status_code == 302

    def test_people_of_the_fleet_start_at_the_fleet(self, admin: Client) -> None:
        assert admin.get("/")["Location"] == "/fleet/"

    def test_who_is_switched_off_is_signed_out(self, tenant: Client, installation: Installation) -> None:
        people.deactivate(installation.tenant, by=system("test"), now=timezone.now())
        assert tenant.get("/my/vms/").status_code == 302

    def test_single_sign_on_is_offered_only_when_set_up(self, client: Client, settings: Any) -> None:
        assert "Sign in with " not in client.get("/account/login/").content.decode()
        server = {"server_url": "https://sso.example.net"}
        app = {"provider_id": "sso", "name": "Example", "client_id": "i", "secret": "s", "settings": server}
        settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": [app]}}
        assert "Sign in with Example" in client.get("/account/login/").content.decode()

    def test_a_token_is_shown_once(self, tenant: Client, installation: Installation) -> None:
        response = tenant.post("/account/", {"label": "backup", "scopes": ["console"], "days": 30})
        assert b"cops_" in response.content
        assert "no-store" in response["Cache-Control"]
        token = ApiToken.objects.get(user=installation.tenant)
        secret = response.content.decode().split('data-copy="cops_')[1].split('"')[0]
        assert secret not in tenant.get("/account/").content.decode()
        assert tenant.post(f"/account/tokens/{token.pk}/revoke/").status_code == 302
        assert ApiToken.objects.get(pk=token.pk).revoked_at is not None

    def test_a_bad_token_keeps_what_was_typed(self, tenant: Client) -> None:
        html = tenant.post("/account/", {"label": "backup", "days": 9999}).content.decode()
        assert _has_error(html, "days")
        assert 'value="backup"' in html
        assert not ApiToken.objects.exists()

    def test_the_password_can_be_changed(self, with_password: Installation, client: Client) -> None:
        client.post("/account/login/", {"login": "tina", "password": PASSWORD})
        form = {"oldpassword": PASSWORD, "password1": "quite another password", "password2": "quite another password"}
        assert client.post("/account/password/change/", form).status_code == 302
        assert User.objects.get(username="tina").check_password("quite another password")

    def test_the_second_factor_is_set_up_asked_for_and_switched_off(
        self, with_password: Installation, client: Client
    ) -> None:
        from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time

        def code(secret: str) -> str:
            return str(format_hotp_value(hotp_value(secret, next(yield_hotp_counters_from_time()))))

        client.post("/account/login/", {"login": "tina", "password": PASSWORD})
        asked = client.get("/account/2fa/totp/activate/", follow=True)
        assert "Confirm that it is you" in asked.content.decode()
        client.post(asked.redirect_chain[-1][0], {"password": PASSWORD})
        page = client.get("/account/2fa/totp/activate/").content.decode()
        secret = page.split('data-copy="')[1].split('"')[0]
        assert client.post("/account/2fa/totp/activate/", {"code": "000000"}).status_code == 200
        assert client.post("/account/2fa/totp/activate/", {"code": code(secret)}).status_code == 302
        assert "Recovery codes" in client.get("/account/2fa/recovery-codes/").content.decode()
        assert "Second factor" in client.get("/account/").content.decode()
        client.post("/account/logout/")
        asked = client.post("/account/login/", {"login": "tina", "password": PASSWORD}, follow=True)
        assert asked.redirect_chain[-1][0] == "/account/2fa/authenticate/"
        assert client.get("/my/vms/").status_code == 302
        refused = client.post("/account/2fa/authenticate/", {"code": "000000"})
        assert "errorlist" in refused.content.decode()


class TestSettings:
    def _form(self) -> dict[str, object]:
        row = runtime.current()
        values = {field.name: getattr(row, field.name) for field in runtime.tunable_fields()}
        return {name: ("on" if value is True else value) for name, value in values.items() if value is not False}

    def test_every_setting_is_on_the_page(self, admin: Client) -> None:
        html = admin.get("/settings/").content.decode()
        for field in runtime.tunable_fields():
            assert f'name="{field.name}"' in html, field.name

    def test_a_change_is_saved_and_audited(self, admin: Client) -> None:
        assert admin.post("/settings/", self._form() | {"console_host_limit": 25}).status_code == 302
        assert runtime.current().console_host_limit == 25
        event = Event.objects.filter(kind="settings.changed").first()
        assert event is not None
        assert event.data["changed"] == {"console_host_limit": [40, 25]}

    def test_a_wrong_one_is_marked_and_everything_typed_stays(self, admin: Client) -> None:
        wrong = self._form() | {"console_host_limit": 0, "console_vm_limit": 33}
        html = admin.post("/settings/", wrong).content.decode()
        assert _has_error(html, "console_host_limit")
        assert 'value="33"' in html
        assert runtime.current().console_vm_limit == 40

    def test_the_order_of_warning_and_disconnect_is_told(self, admin: Client) -> None:
        wrong = self._form() | {"console_idle_warning_seconds": 900, "console_idle_disconnect_seconds": 600}
        html = admin.post("/settings/", wrong).content.decode()
        assert "must come later than the idle warning" in html
        assert 'value="900"' in html
        assert runtime.current().console_idle_warning_seconds == 600


class TestVms:
    def test_assigning_many(self, admin: Client, installation: Installation) -> None:
        free = [vm for vm in installation.vms if vm.project_id is None]
        admin.post("/vms/assign/", {"ids": [str(vm.pk) for vm in free], "project": str(installation.project.pk)})
        assert not Vm.objects.filter(project=None).exists()
        admin.post("/vms/assign/", {"ids": [str(free[0].pk)], "project": ""})
        assert Vm.objects.get(pk=free[0].pk).project is None

    def test_power_begins_an_operation(self, admin: Client, installation: Installation) -> None:
        vm = next(vm for vm in installation.vms if vm.is_running and vm.host.connection == Connection.UP)
        response = admin.post(f"/vms/{vm.pk}/power/", {"action": "shutdown"}, headers={"HX-Request": "true"})
        assert response.status_code == 204, response.headers
        assert Event.objects.filter(kind="operation.vm.power", subject_id=str(vm.pk)).exists()
        again = admin.post(f"/vms/{vm.pk}/power/", {"action": "shutdown"}, headers={"HX-Request": "true"})
        assert again.status_code == 409
        assert "remedy" in again["HX-Trigger"]

    def test_the_offering_is_chosen(self, admin: Client, installation: Installation) -> None:
        vm = installation.vms[1]
        admin.post(f"/vms/{vm.pk}/offering/", {"offering": str(installation.offering.pk)})
        assert Vm.objects.get(pk=vm.pk).offering == installation.offering

    def test_its_template_and_pin_are_noted_and_shown(self, admin: Client, installation: Installation) -> None:
        vm, debian = installation.vms[1], Template.objects.create(name="Debian 12")
        admin.post(f"/vms/{vm.pk}/placement/", {"template": str(debian.pk), "pinned": "on"})
        assert Vm.objects.filter(pk=vm.pk, template=debian, pinned=True).exists()
        page = admin.get(f"/vms/{vm.pk}/placement/").content.decode()
        assert f'value="{debian.pk}" selected' in page
        assert 'name="pinned" checked' in page
        admin.post(f"/vms/{vm.pk}/placement/", {"template": ""})
        assert Vm.objects.filter(pk=vm.pk, template=None, pinned=False).exists()
        assert admin.post(f"/vms/{vm.pk}/placement/", {"template": "nonsense"}).status_code == 400

    def test_the_console_button_says_why_not(self, tenant: Client, installation: Installation) -> None:
        vm = next(vm for vm in installation.vms if vm.project_id and vm.host.connection == Connection.UP)
        Vm.objects.filter(pk=vm.pk).update(power_state="off")
        assert "Start it first" in tenant.get(f"/vms/{vm.pk}/").content.decode()
        Membership.objects.update(can_console=False)
        assert "not open its console" in tenant.get(f"/vms/{vm.pk}/").content.decode()
        assert "not open its console" in tenant.get("/my/vms/").content.decode()


class TestConsoles:
    def _open(self, installation: Installation, user: User) -> ConsoleSession:
        vm = next(vm for vm in installation.vms if vm.is_running and vm.host.connection == Connection.UP)
        row = Vm.objects.select_related("host__endpoint", "project").get(pk=vm.pk)
        runtime.change(by=system("test"), now=timezone.now(), console_host_limit=100)
        Host.objects.update(console_limit_override=None)
        return sessions.open_session(vm=row, user=user, by=system("test"), now=timezone.now()).session

    def test_chosen_ones_are_disconnected(self, admin: Client, installation: Installation) -> None:
        session = self._open(installation, installation.tenant)
        admin.post("/consoles/disconnect/", {"ids": [str(session.pk), "nonsense"]})
        session.refresh_from_db()
        assert session.status == "closed"
        assert session.closed_by

    def test_idle_ones_of_the_filter_are_disconnected(self, admin: Client, installation: Installation) -> None:
        now = timezone.now()
        idle = ConsoleSession.objects.idle(now, 300)
        assert idle.exists()
        admin.post("/consoles/disconnect-idle/", {"q": "nobody-has-this-name"})
        assert idle.all().exists()
        admin.post("/consoles/disconnect-idle/")
        assert not ConsoleSession.objects.idle(timezone.now(), 300).exists()

    def test_ask_to_release_and_answer(self, admin: Client, tenant: Client, installation: Installation) -> None:
        session = self._open(installation, installation.tenant)
        assert admin.post(f"/consoles/{session.pk}/ask/", {"message": "Please"}).status_code == 302
        page = tenant.get("/my/consoles/").content.decode()
        assert "Please" in page
        asked = ReleaseRequest.objects.get()
        tenant.post(f"/my/requests/{asked.pk}/", {"answer": "release"})
        session.refresh_from_db()
        assert session.status == "closed"

    def test_only_ones_own_are_disconnected(self, tenant: Client, installation: Installation) -> None:
        other = self._open(installation, installation.admin)
        own = self._open(installation, installation.tenant)
        tenant.post("/my/consoles/disconnect/", {"ids": [str(own.pk), str(other.pk)]})
        own.refresh_from_db()
        other.refresh_from_db()
        assert (own.status, other.status) == ("closed", "pending")
