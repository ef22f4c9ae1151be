"""Single sign-on against a real provider on loopback: who gets in, as whom, and who does not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from allauth.mfa.adapter import get_adapter as mfa
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import (
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
    yield_hotp_counters_from_time,
)
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from cloudops.accounts import people
from cloudops.accounts.models import Role, User
from cloudops.core.actors import system
from cloudops.core.models import Event
from tests.sso.provider import CLIENT_ID, CLIENT_SECRET, Provider, running_provider

pytestmark = [pytest.mark.django_db, pytest.mark.real]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with running_provider(tmp_path_factory.mktemp("oidc")) as provider:
        yield provider


@pytest.fixture
def provider(started: Provider, settings: Any) -> Provider:
    """Set up in CloudOps, and truthful."""
    started.tamper()
    settings.SOCIALACCOUNT_PROVIDERS = _configured(started.url)
    return started


def _configured(server_url: str) -> dict[str, Any]:
    app = {
        "provider_id": "sso",
        "name": "Example ID",
        "client_id": CLIENT_ID,
        "secret": CLIENT_SECRET,
        "settings": {"server_url": server_url},
    }
    return {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}


def begin(client: Client, **query: str) -> str:
    """The button of the sign-in page; returns the provider's address that it leads to."""
    page = client.get("/account/login/").content.decode()
    action = re.search(r'action="([^"]*/oidc/[^"]*)"', page)
    assert action is not None
    answer = client.post(html.unescape(action[1]), query_params=query or None)
    assert answer.status_code == HTTPStatus.OK, answer.content.decode()
    assert "form-action 'self';" in answer["Content-Security-Policy"]
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', answer.content.decode())
    assert found is not None
    return html.unescape(found[1])


def authorize(address: str, sub: str, *, agree: bool = True) -> str:
    """What the person does at the provider; returns the address that it sends the browser back to."""
    form = {"sub": sub} if agree else {"action": "deny"}
    answer = httpx.post(address, data=form, timeout=10)
    assert answer.status_code == HTTPStatus.FOUND, answer.text
    return answer.headers["Location"]


def come_back(client: Client, address: str) -> Any:
    parts = urlsplit(address)
    assert parts.path == "/account/oidc/sso/login/callback/"
    return client.get(parts.path, query_params={name: values[0] for name, values in parse_qs(parts.query).items()})


def sign_in(client: Client, sub: str) -> Any:
    return come_back(client, authorize(begin(client), sub))


def signed_in_as(client: Client) -> str:
    key = client.session.get("_auth_user_id")
    return User.objects.get(pk=key).username if key else ""


def demand_refused(client: Client, answer: Any, status: int, *words: str, code: str) -> None:
    text = html.unescape(answer.content.decode())
    assert answer.status_code == status, text
    for word in words:
        assert word in text
    assert "Traceback" not in text
    assert signed_in_as(client) == ""
    event = Event.objects.get(kind="user.sign_in_refused")
    assert event.data["code"] == code
    assert event.severity == "notice"


def known(username: str, email: str = "", **fields: Any) -> User:
    return people.create_user(
        username=username, email=email, password=PASSWORD, **fields, by=system("tests"), now=timezone.now()
    )


def test_somebody_new_becomes_a_tenant_with_nothing(client: Client, provider: Provider) -> None:
    provider.knows(
        "u-1", email="nina@example.org", email_verified=True, preferred_username="nina", name="Nina Novak",
        given_name="Nina", family_name="Novak",
    )  # fmt: skip
    answer = sign_in(client, "u-1")
    assert (answer.status_code, answer["Location"]) == (HTTPStatus.FOUND, "/")
    user = User.objects.get()
    assert signed_in_as(client) == user.username == "nina"
    assert (user.role, user.can_console, user.is_staff, user.is_superuser) == (Role.TENANT, False, False, False)
    assert not user.memberships.exists()
    assert not user.has_usable_password()
    assert (user.email, user.get_full_name()) == ("nina@example.org", "Nina Novak")
    assert "You are in no project yet" in client.get("/my/vms/").content.decode()
    assert client.get("/fleet/").status_code == HTTPStatus.FORBIDDEN
    kinds = list(Event.objects.order_by("id").values_list("kind", "data__way"))
    assert kinds == [("user.created", "single sign-on"), ("user.signed_in", "single sign-on")]


def test_the_second_time_is_the_same_person(provider: Provider) -> None:
    provider.knows("u-2", email="nina@example.org", email_verified=True, preferred_username="nina")
    sign_in(Client(), "u-2")
    provider.knows("u-2", email="nina@new.example", email_verified=False, preferred_username="other")
    again = Client()
    sign_in(again, "u-2")
    assert signed_in_as(again) == "nina"
    assert User.objects.count() == 1


def test_a_name_that_is_taken_gives_no_account_away(client: Client, provider: Provider) -> None:
    known("ada", role=Role.ADMIN)
    provider.knows("u-3", email="x@example.org", email_verified=True, preferred_username="ada")
    sign_in(client, "u-3")
    name = signed_in_as(client)
    assert name not in {"", "ada"}
    assert User.objects.get(username=name).role == Role.TENANT


def test_somebody_without_any_address_becomes_a_tenant_too(client: Client, provider: Provider) -> None:
    provider.knows("u-4", preferred_username="rob")
    sign_in(client, "u-4")
    assert signed_in_as(client) == "rob"


@pytest.mark.parametrize("verified", [True, "true"])
def test_a_verified_address_leads_to_its_account(client: Client, provider: Provider, verified: object) -> None:
    olga = known("olga", "Olga@Example.org", role=Role.OPERATOR)
    provider.knows("u-5", email="olga@example.org", email_verified=verified, preferred_username="someone")
    sign_in(client, "u-5")
    assert signed_in_as(client) == "olga"
    olga.refresh_from_db()
    assert olga.role == Role.OPERATOR
    assert olga.check_password(PASSWORD)
    assert Event.objects.get(kind="user.sso_linked").subject_id == str(olga.pk)


@pytest.mark.parametrize("verified", [False, None, "false"])
def test_an_unverified_address_is_refused(client: Client, provider: Provider, verified: object) -> None:
    known("olga", "olga@example.org", role=Role.ADMIN)
    provider.knows("u-6", email="olga@example.org", **({} if verified is None else {"email_verified": verified}))
    answer = sign_in(client, "u-6")
    words = ("has not verified your e-mail address", "Confirm the address there")
    demand_refused(client, answer, 403, *words, code="sso-email-unverified")
    assert User.objects.count() == 1


def test_linking_can_be_switched_off(client: Client, provider: Provider, settings: Any) -> None:
    settings.OIDC_LINK_BY_EMAIL = False
    known("olga", "olga@example.org")
    provider.knows("u-7", email="olga@example.org", email_verified=True)
    demand_refused(
        client, sign_in(client, "u-7"), 409, "exists already", "ask an administrator", code="sso-email-taken"
    )


def test_an_address_of_several_accounts_leads_to_none(client: Client, provider: Provider) -> None:
    known("olga", "shared@example.org")
    known("oskar", "shared@example.org")
    provider.knows("u-8", email="shared@example.org", email_verified=True)
    demand_refused(client, sign_in(client, "u-8"), 409, "Several accounts", code="sso-email-taken")


def test_an_account_has_one_identity(client: Client, provider: Provider) -> None:
    known("olga", "olga@example.org")
    provider.knows("u-9", email="olga@example.org", email_verified=True)
    sign_in(Client(), "u-9")
    provider.knows("u-10", email="olga@example.org", email_verified=True)
    demand_refused(client, sign_in(client, "u-10"), 409, "exists already", code="sso-email-taken")


@pytest.mark.parametrize("linked", [True, False])
def test_who_is_switched_off_stays_out(client: Client, provider: Provider, linked: bool) -> None:
    olga = known("olga", "olga@example.org")
    provider.knows("u-11", email="olga@example.org", email_verified=True)
    if linked:
        sign_in(Client(), "u-11")
    people.deactivate(olga, by=system("tests"), now=timezone.now())
    demand_refused(client, sign_in(client, "u-11"), 403, "switched off", "Ask an administrator", code="account-off")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "issuer": ({"id_token": {"iss": "https://elsewhere.example"}}, "issuer"),
    "audience": ({"id_token": {"aud": "another-client"}}, "Audience"),
    "expired": ({"id_token": {"exp": 1_000_000_000}}, "expired"),
    "nonce": ({"id_token": {"nonce": "stolen"}}, "nonce"),
    "no nonce": ({"id_token": {"nonce": None}}, "nonce"),
    "another's user info": ({"userinfo": {"sub": "somebody-else"}}, "different subjects"),
    "no ID token": ({"id_token": None}, "no ID token"),
    "issuer renamed in discovery": (
        {"discovery": {"issuer": "https://elsewhere.example"}, "id_token": {"iss": "https://elsewhere.example"}},
        "not 'http://localhost",
    ),
    "token endpoint broken": ({"token_status": 500}, "access token"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused(client: Client, provider: Provider, name: str) -> None:
    changes, why = WRONG[name]
    provider.knows("u-12", email="nina@example.org", email_verified=True)
    provider.tamper(**changes)
    answer = sign_in(client, "u-12")
    demand_refused(client, answer, 403, "cannot be trusted", "CLOUDOPS_OIDC_SERVER_URL", code="sso-token")
    assert why in Event.objects.get(kind="user.sign_in_refused").data["why"]
    assert not User.objects.exists()


def test_another_browsers_sign_in_is_refused(client: Client, provider: Provider) -> None:
    """Login CSRF: a callback address that somebody else's browser began."""
    callback = authorize(begin(Client()), "u-13")
    demand_refused(client, come_back(client, callback), 403, "not begun in this browser", code="sso-state")


def test_a_callback_works_once(client: Client, provider: Provider) -> None:
    callback = authorize(begin(client), "u-14")
    forged = callback.replace("state=", "state=x")
    demand_refused(client, come_back(client, forged), 403, "Begin again", code="sso-state")
    Event.objects.all().delete()
    provider.knows("u-14", preferred_username="once")
    come_back(client, callback)
    assert signed_in_as(client) == "once"
    client.post("/account/logout/")
    Event.objects.all().delete()
    demand_refused(client, come_back(client, callback), 403, "Begin again", code="sso-state")


def test_who_declines_at_the_provider_is_told_so(client: Client, provider: Provider) -> None:
    address = begin(client)
    callback = authorize(address, "u-15", agree=False)
    assert "error=access_denied" in callback
    if "state=" not in callback:  # this provider forgets what RFC 6749, 4.1.2.1 demands
        callback += "&state=" + parse_qs(urlsplit(address).query)["state"][0]
    demand_refused(client, come_back(client, callback), 403, "You did not let", "Begin again", code="sso-cancelled")


def test_a_provider_that_refuses_is_quoted(client: Client, provider: Provider) -> None:
    state = parse_qs(urlsplit(begin(client)).query)["state"][0]
    answer = client.get("/account/oidc/sso/login/callback/", {"state": state, "error": "<b>login_required"})
    demand_refused(client, answer, 403, "The sign-in service refused", "It says", code="sso-refused")
    assert b"<b>login_required" not in answer.content


@pytest.mark.parametrize("fault", ["nobody there", "no issuer", "no endpoint", "endpoint is a script"])
def test_a_provider_that_is_away_is_named(client: Client, provider: Provider, settings: Any, fault: str) -> None:
    if fault == "nobody there":
        settings.SOCIALACCOUNT_PROVIDERS = _configured("http://localhost:9")
    elif fault == "no issuer":
        settings.SOCIALACCOUNT_PROVIDERS = _configured(f"{provider.url}/jwks")
    elif fault == "no endpoint":
        provider.tamper(discovery={"authorization_endpoint": None})
    else:
        provider.tamper(discovery={"authorization_endpoint": "javascript:alert(1)"})
    answer = client.post("/account/oidc/sso/login/")
    demand_refused(
        client, answer, 503, "does not answer as it should", "CLOUDOPS_OIDC_SERVER_URL", code="sso-unavailable"
    )


def test_a_provider_that_goes_away_meanwhile_is_named(client: Client, provider: Provider, settings: Any) -> None:
    callback = authorize(begin(client), "u-16")
    settings.SOCIALACCOUNT_PROVIDERS = _configured("http://localhost:9")
    answer = come_back(client, callback)
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert "does not answer as it should" in answer.content.decode()


def test_the_request_names_what_it_must(client: Client, provider: Provider) -> None:
    """PKCE, nonce and state, fresh each time; nothing that the page's address asks for."""
    first = parse_qs(urlsplit(begin(client, auth_params="redirect_uri=https://evil.example", scope="all")).query)
    second = parse_qs(urlsplit(begin(client)).query)
    assert first["redirect_uri"] == ["http://testserver/account/oidc/sso/login/callback/"]
    assert set(first["scope"][0].split()) == {"openid", "profile", "email"}
    assert first["code_challenge_method"] == ["S256"]
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]


def test_signing_out_ends_the_session_here(client: Client, provider: Provider) -> None:
    provider.knows("u-17", preferred_username="nina")
    sign_in(client, "u-17")
    assert client.post("/account/logout/").status_code == HTTPStatus.FOUND
    assert signed_in_as(client) == ""
    assert "/account/login/" in client.get("/my/vms/")["Location"]


def test_a_second_factor_is_asked_for_after_single_sign_on_too(client: Client, provider: Provider) -> None:
    olga = known("olga", "olga@example.org")
    secret = generate_totp_secret()
    Authenticator.objects.create(user=olga, type=Authenticator.Type.TOTP, data={"secret": mfa().encrypt(secret)})
    provider.knows("u-18", email="olga@example.org", email_verified=True)
    answer = sign_in(client, "u-18")
    assert answer["Location"] == "/account/2fa/authenticate/"
    assert signed_in_as(client) == ""
    assert not Event.objects.filter(kind="user.signed_in").exists()
    cache.clear()
    counter = next(iter(yield_hotp_counters_from_time()))
    client.post("/account/2fa/authenticate/", {"code": format_hotp_value(hotp_value(secret, counter))})
    assert signed_in_as(client) == "olga"
    assert Event.objects.get(kind="user.signed_in").data == {"way": "single sign-on"}


def test_a_password_sign_in_is_audited_as_such(client: Client, db: None) -> None:
    known("olga")
    client.post("/account/login/", {"login": "olga", "password": PASSWORD})
    assert Event.objects.get(kind="user.signed_in").data == {"way": "password"}
