"""Single sign-on with OpenID Connect: checks beyond allauth's, whom an identity belongs to, words for refusals.

The ID token comes straight from the provider's token endpoint over TLS, which stands for its signature (OpenID Connect
Core 1.0, 3.1.3.7 step 6); settings refuse an issuer without TLS. allauth checks state, PKCE, audience and expiry.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from allauth.socialaccount.models import SocialAccount, SocialLogin
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from django.conf import settings
from django.core.exceptions import DisallowedRedirect
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from requests import RequestException

from cloudops.accounts.models import User
from cloudops.core import events
from cloudops.core.errors import Conflict, Forbidden, Refusal, Unavailable
from cloudops.core.requests import actor_of

PROVIDER_ID = "sso"


class ProviderDown(Unavailable):
    code = "sso-unavailable"
    title = "The sign-in service does not answer as it should."
    remedy = (
        "Try again in a moment, or sign in with a password. An administrator can check that this server reaches "
        "CLOUDOPS_OIDC_SERVER_URL, and that it is an OpenID Connect issuer."
    )


class SignInCancelled(Forbidden):
    code = "sso-cancelled"
    title = "You did not let the sign-in service tell us who you are."
    remedy = "Begin again and agree, or sign in with a password."


class ProviderRefused(Forbidden):
    code = "sso-refused"
    title = "The sign-in service refused."
    remedy = "Ask its administrators whether you may use CloudOps; the error's name tells them why."


class UnknownState(Forbidden):
    code = "sso-state"
    title = "This sign-in was not begun in this browser, or more than 10 minutes ago."
    remedy = "Begin again from the sign-in page. If that does not help, allow cookies for this site."


class TokenRefused(Forbidden):
    code = "sso-token"
    title = "The sign-in service's answer cannot be trusted."
    remedy = (
        "Begin again. If it stays, an administrator can compare CLOUDOPS_OIDC_SERVER_URL, _CLIENT_ID and "
        "_CLIENT_SECRET with the service's own settings; the audit trail says what did not match."
    )


class EmailUnverified(Forbidden):
    code = "sso-email-unverified"
    title = "The sign-in service has not verified your e-mail address."
    remedy = "Confirm the address there, then sign in again; or ask its administrators to send “email_verified”."


class EmailTaken(Conflict):
    code = "sso-email-taken"
    title = "An account with your e-mail address exists already, and cannot be joined with this sign-in."
    remedy = "Sign in with that account's password, or ask an administrator to look at the account's e-mail address."


class AccountOff(Forbidden):
    code = "account-off"
    title = "Your account is switched off."
    remedy = "Ask an administrator to switch it on again."


def issuer_of(server_url: str) -> str:
    """The issuer that a configured address stands for: itself, or what is before ``/.well-known/``."""
    return server_url.partition("/.well-known/")[0].rstrip("/")


class SingleSignOn(OpenIDConnectProvider):  # type: ignore[misc]
    """allauth's provider with a nonce, the issuer that was configured (Discovery 1.0, 4.3), and one subject (Core 1.0,
    5.3.2). An identity is issuer and subject together, so that another provider's people are never taken for these."""

    def redirect(
        self, request: HttpRequest, process: str, next_url: str | None = None, data: Any = None, **kwargs: Any
    ) -> HttpResponse:
        """A page that leads to the provider. Not a redirect: browsers hold the answer of a form against the content
        security policy's ``form-action``, on every hop, and a provider's hops are not ours to know."""
        nonce = secrets.token_urlsafe(24)
        asked = {"auth_params": {**self.get_auth_params(), "nonce": nonce}, "scope": self.get_scope()}
        try:
            answer = super().redirect(request, process, next_url, data, **{**kwargs, **asked, "nonce": nonce})
        except (RequestException, DisallowedRedirect, KeyError, ValueError) as error:
            raise refused(request, ProviderDown(), str(error)) from error
        address = answer.headers.get("Location", "")
        if urlsplit(address).scheme not in {"https", "http"}:
            raise refused(request, ProviderDown(), f"its authorization endpoint is {address[:100]!r}")
        response = render(request, "socialaccount/leave.html", {"address": address, "provider": self})
        response["Cache-Control"] = "no-store"
        response["Referrer-Policy"] = "no-referrer"
        return response

    def sociallogin_from_response(self, request: HttpRequest, response: dict[str, Any]) -> SocialLogin:
        """Raises :class:`TokenRefused` unless ID token and user info are about one subject of the right issuer."""
        token, info = response.get("id_token"), response.get("userinfo", {})
        if not isinstance(token, Mapping) or not token.get("sub"):
            raise refused(request, TokenRefused(), "there is no ID token with a subject")
        expected = issuer_of(self.app.settings["server_url"])
        if str(token.get("iss", "")).rstrip("/") != expected:
            raise refused(request, TokenRefused(), f"its issuer is {token.get('iss')!r}, not {expected!r}")
        if info and info.get("sub") != token["sub"]:
            raise refused(request, TokenRefused(), "ID token and user info are about different subjects")
        return super().sociallogin_from_response(request, response)

    def extract_uid(self, data: dict[str, Any]) -> str:
        token = data["id_token"]
        return hashlib.sha256(f"{token['iss']}\n{token['sub']}".encode()).hexdigest()


def refused(request: HttpRequest, refusal: Refusal, why: str = "") -> Refusal:
    """``refusal``, to be raised, after it was written into the audit trail; ``why`` is for administrators only."""
    events.record(
        "user.sign_in_refused",
        by=actor_of(request),
        now=timezone.now(),
        severity="notice",
        reason=refusal.title,
        data={"code": refusal.code, "why": why[:300], "way": "single sign-on"},
    )
    return refusal


def admit(request: HttpRequest, login: SocialLogin) -> None:
    """Decides whom a checked identity belongs to: somebody who has used it before, else the one account with its
    verified e-mail address (unless CLOUDOPS_OIDC_LINK_BY_EMAIL is off), else a new person.

    Raises :class:`TokenRefused`, :class:`AccountOff`, :class:`EmailUnverified` and :class:`EmailTaken`.
    """
    claims = login.account.extra_data
    nonce = (login.state or {}).get("nonce")
    if not nonce or not secrets.compare_digest(str(claims.get("id_token", {}).get("nonce", "")), str(nonce)):
        raise refused(request, TokenRefused(), "its nonce is not the one that was sent")
    if login.is_existing:
        _demand_active(request, login.user)
    if login.is_existing or login.state.get("process") == "connect":
        return
    email, is_verified = _email(claims)
    if not email:
        return
    if not is_verified:
        raise refused(request, EmailUnverified(f"It says that you are {email}."), email)
    same = list(User.objects.filter(email__iexact=email)[:2])
    if same:
        _link(request, login, same, email)
    login.email_addresses = []  # allauth's own list of addresses decides nothing here: the account's one does


def _demand_active(request: HttpRequest, user: User) -> None:
    if not user.is_active:
        raise refused(request, AccountOff(), f"{user} is deactivated")


def _email(claims: Mapping[str, Any]) -> tuple[str, bool]:
    """The address that the provider tells and whether it vouches for it (some send the text "true")."""
    told = claims.get("userinfo") or claims.get("id_token") or {}
    return str(told.get("email") or "").strip(), told.get("email_verified") in (True, "true")


def _link(request: HttpRequest, login: SocialLogin, same: list[User], email: str) -> None:
    if not settings.OIDC_LINK_BY_EMAIL:
        raise refused(request, EmailTaken(f"The address is {email}."), "CLOUDOPS_OIDC_LINK_BY_EMAIL is off")
    if len(same) > 1:
        raise refused(request, EmailTaken(f"Several accounts have the address {email}."), "several accounts have it")
    user = same[0]
    _demand_active(request, user)
    if SocialAccount.objects.filter(user=user, provider=login.account.provider).exists():
        raise refused(request, EmailTaken(f"The address is {email}."), f"{user} signs in with another identity")
    login.connect(request, user)
    events.record(
        "user.sso_linked",
        by=actor_of(request),
        now=timezone.now(),
        subject=user,
        severity="notice",
        data={"email": email},
    )
