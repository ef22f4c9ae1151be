"""API tokens: make, use, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.request import Request

from cloudops.accounts.models import ApiToken, User
from cloudops.accounts.rights import Scope
from cloudops.core import crypto, events
from cloudops.core.actors import Actor
from cloudops.core.errors import Invalid

PREFIX = "cops_"
MAX_DAYS = 365
LAST_USED_STEP_SECONDS = 60


def create(
    *, user: User, label: str, scopes: Sequence[str], days: int, by: Actor, now: datetime
) -> tuple[ApiToken, str]:
    """A new token and its secret, which is never seen again. Raises :class:`Invalid`."""
    fields: dict[str, list[str]] = {}
    if not label.strip():
        fields["label"] = ["Say what will use the token."]
    if unknown := sorted(set(scopes) - set(Scope)):
        fields["scopes"] = [f"There is no scope {unknown[0]!r}. Use: {', '.join(Scope)}."]
    if not 1 <= days <= MAX_DAYS:
        fields["days"] = [f"Between 1 and {MAX_DAYS} days."]
    if fields:
        raise Invalid("The token cannot be made like this.", fields=fields)
    secret = PREFIX + crypto.new_secret()
    token = ApiToken.objects.create(
        user=user,
        label=label.strip(),
        prefix=secret[:10],
        secret_sha256=crypto.digest(secret),
        scopes=sorted({Scope.READ, *scopes}),
        created_at=now,
        expires_at=now + timedelta(days=days),
    )
    events.record("token.created", by=by, now=now, subject=token, data={"scopes": token.scopes, "days": days})
    return token, secret


def revoke(token: ApiToken, *, by: Actor, now: datetime) -> None:
    """Ends a token at once. Revoking twice is harmless."""
    if ApiToken.objects.filter(pk=token.pk, revoked_at__isnull=True).update(revoked_at=now):
        events.record("token.revoked", by=by, now=now, subject=token)


def resolve(secret: str, *, now: datetime) -> ApiToken | None:
    """The live token with this secret, of an active user; None otherwise."""
    token = (
        ApiToken.objects.select_related("user")
        .filter(secret_sha256=crypto.digest(secret), revoked_at__isnull=True, expires_at__gt=now, user__is_active=True)
        .first()
    )
    if token is not None:
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - timedelta(seconds=LAST_USED_STEP_SECONDS))
        if token.last_used_at is None or (now - token.last_used_at).total_seconds() > LAST_USED_STEP_SECONDS:
            ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    return token


class BearerAuthentication(BaseAuthentication):
    """``Authorization: Bearer cops_…``."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = resolve(secret.strip(), now=timezone.now())
        if token is None:
            raise exceptions.AuthenticationFailed("The API token is unknown, expired or revoked.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="cloudops"'
