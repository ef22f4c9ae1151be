"""allauth's hooks: no self-registration, audited sign-ins, single sign-on as ``sso`` has it, encrypted TOTP secrets."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.base.constants import AuthError
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from requests import RequestException

from cloudops.accounts import sso
from cloudops.accounts.models import User
from cloudops.core import crypto, events, live
from cloudops.core.requests import actor_of, address_of


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Accounts are made by administrators."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        return address_of(request)

    def post_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponseBase:
        way = "single sign-on" if (kwargs.get("signal_kwargs") or {}).get("sociallogin") else "password"
        events.record("user.signed_in", by=actor_of(request), now=timezone.now(), subject=user, data={"way": way})
        answer: HttpResponseBase = super().post_login(request, user, **kwargs)
        return answer


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Single sign-on: ``sso`` decides who is let in; a new person becomes a tenant without projects."""

    def get_provider(self, request: HttpRequest, provider: str, client_id: str | None = None) -> Any:
        found = super().get_provider(request, provider, client_id)
        return sso.SingleSignOn(request, app=found.app) if isinstance(found, OpenIDConnectProvider) else found

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        return True

    def authenticate_by_email(self, sociallogin: SocialLogin) -> None:
        """Never by allauth's rule, which ends the account's password: ``sso.admit`` has its own."""

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        sso.admit(request, sociallogin)

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        with transaction.atomic():
            user: User = super().save_user(request, sociallogin, form)
            data = {"role": user.role, "can_console": user.can_console, "way": "single sign-on"}
            events.record("user.created", by=actor_of(request), now=timezone.now(), subject=user, data=data)
            live.publish("users")
        return user

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: str | None = None,
        exception: Exception | None = None,
        extra_context: dict[str, Any] | None = None,
    ) -> None:
        """Every failure in words, and in the audit trail. Raises a refusal always."""
        if error == AuthError.CANCELLED:
            raise sso.refused(request, sso.SignInCancelled())
        if isinstance(exception, RequestException):
            raise sso.refused(request, sso.ProviderDown(), str(exception)) from exception
        if exception is not None:
            why = f"{exception} {exception.__cause__ or ''}".strip()
            raise sso.refused(request, sso.TokenRefused(), why) from exception
        if "state" not in (extra_context or {}):
            raise sso.refused(request, sso.UnknownState())
        named = request.GET.get("error", "it sent no code")[:60]
        raise sso.refused(request, sso.ProviderRefused(f"It says: {named}."), request.GET.get("error_description", ""))


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """TOTP secrets and recovery seeds are encrypted at rest."""

    def encrypt(self, text: str) -> str:
        return crypto.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        return crypto.decrypt(encrypted_text)
