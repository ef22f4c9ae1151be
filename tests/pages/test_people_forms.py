"""Forms about people, projects and oneself: what is right is done, what is wrong is said beside the field."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.accounts import people
from cloudops.accounts.models import ApiToken, Membership, Project, User
from cloudops.core.actors import system
from consoles.models import ConsoleSession
from tests.pages.installation import PASSWORD, Installation
from tests.pages.reading import has_error

pytestmark = pytest.mark.django_db


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
        assert has_error(html, "password")
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
        assert has_error(html, "name")
        assert "kept" in html
        assert admin.post(f"/projects/{installation.project.pk}/delete/").status_code == 409
        assert admin.post(f"/projects/{project.pk}/delete/").status_code == 302

    def test_quotas_are_set_shown_beside_what_is_in_use_and_taken_away(
        self, admin: Client, installation: Installation
    ) -> None:
        project = installation.project
        url, form = f"/projects/{project.pk}/", {"name": project.name}
        page = admin.get(url).content.decode()
        assert page.count("in use, no quota") == 3
        quotas = {"quota_vcpus": 64, "quota_memory_mib": 65_536, "quota_consoles": 0}
        assert admin.post(f"{url}change/", form | quotas).status_code == 302
        project.refresh_from_db()
        assert (project.quota_vcpus, project.quota_memory_mib, project.quota_consoles) == (64, 65_536, 0)
        open_now = ConsoleSession.objects.holding_slots(timezone.now()).filter(vm__project=project).count()
        page = admin.get(url).content.decode()
        assert "of 64</b> GiB" in page
        assert f"{open_now} of 0: none allowed" in page
        assert 'value="65536"' in page
        html = admin.post(f"{url}change/", form | {"quota_vcpus": -1, "description": "kept"}).content.decode()
        assert has_error(html, "quota_vcpus")
        assert "kept" in html
        admin.post(f"{url}change/", form)
        project.refresh_from_db()
        assert (project.quota_vcpus, project.quota_memory_mib, project.quota_consoles) == (None, None, None)

    def test_a_members_form_without_a_person_says_so(self, admin: Client, installation: Installation) -> None:
        html = admin.post(f"/projects/{installation.project.pk}/members/", {}).content.decode()
        assert has_error(html, "user")


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
        assert has_error(html, "days")
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
