"""Who knocks at the console socket, and whether they may come in: the gateway's one visit to the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Final
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth import get_user
from django.core.cache import cache
from django.http import HttpRequest
from django.http.cookie import parse_cookie
from redis.exceptions import RedisError

from cloudops.accounts import tokens
from cloudops.accounts.models import User
from cloudops.accounts.rights import Scope
from cloudops.core import events
from cloudops.core.actors import Actor, ActorKind
from cloudops.core.errors import Refusal
from cloudops.core.models import Event
from cloudops.hypervisors.port import ConsoleLimitReached
from consoles import attach
from consoles.attach import Attached
from consoles.errors import NotTaking, RightRefused, SecretRefused
from consoles.models import ConsoleSession
from consoles.refusals import platform_refusal

log = structlog.get_logger(__name__)

WRONG_PER_WINDOW: Final = 20
WINDOW_SECONDS: Final = 60
MAX_SECRET_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True)
class Knock:
    """What a socket brings; secrets are never shown."""

    secret: str = field(default="", repr=False)
    resume_secret: str = field(default="", repr=False)
    origin: str = ""
    cookie: str = field(default="", repr=False)
    authorization: str = field(default="", repr=False)
    address: str = ""


def admit(knock: Knock, *, process_id: UUID, now: datetime) -> Attached:
    """Redeems or resumes. Raises :class:`TurnedAway` and :class:`ConsoleLimit`."""
    if wrong_secrets(knock.address) >= WRONG_PER_WINDOW:
        raise NotTaking("Too many invalid console links came from this address.")
    user = who(knock, now)
    secret = knock.secret or knock.resume_secret
    if not 0 < len(secret) <= MAX_SECRET_CHARACTERS:
        raise SecretRefused
    if knock.secret:
        return attach.redeem(secret=secret, process_id=process_id, user=user, address=knock.address, now=now)
    return attach.resume(resume_secret=secret, process_id=process_id, user=user, address=knock.address, now=now)


def who(knock: Knock, now: datetime) -> User | None:
    """The person at the socket: by bearer token, else by cookie. A script may come with nothing but the secret.

    Raises :class:`RightRefused` for a token that is not good for consoles, and for a page without anybody signed in.
    """
    scheme, _, bearer = knock.authorization.partition(" ")
    if scheme.lower() == "bearer":
        token = tokens.resolve(bearer.strip(), now=now)
        if token is None or Scope.CONSOLE not in token.scopes:
            raise RightRefused("The API token is not valid, or lacks the scope “console”.")
        return token.user
    if not knock.origin:
        return None
    user = _cookie_user(knock.cookie)
    if user is None:
        raise RightRefused("Nobody is signed in at this page.")
    return user


def _cookie_user(cookie: str) -> User | None:
    """As Django's own middleware finds it, session hash included."""
    key = parse_cookie(cookie).get(settings.SESSION_COOKIE_NAME)
    if not key:
        return None
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user = get_user(request)
    return user if isinstance(user, User) else None


def note_refusal(knock: Knock, refusal: Refusal, *, now: datetime) -> None:
    """The audit trail's line; a flood of them from one address is counted, not written."""
    if isinstance(refusal, SecretRefused) and count_wrong_secret(knock.address) > WRONG_PER_WINDOW:
        return
    if isinstance(refusal, NotTaking):
        return
    session: ConsoleSession | None = getattr(refusal, "session", None)
    events.record(
        "console.refused",
        by=Actor(ActorKind.ANONYMOUS, "console socket", address=knock.address),
        now=now,
        subject=session,
        reason=refusal.code,
        severity=Event.Severity.WARNING,
        data={"detail": refusal.detail, "origin": knock.origin[:200]},
    )


def note_failure(session: ConsoleSession, error: Exception, *, now: datetime) -> str:
    """The audit trail's line about a display that could not be had. Returns words for the page where the reason's own
    do not say enough: at the platform's limit, with its numbers. ``session`` has VM, host and user joined."""
    by = attach.actor_of_session(session)
    if isinstance(error, ConsoleLimitReached):
        limit = error.numbers.get("limit")
        refusal = platform_refusal(session, limit if isinstance(limit, int) else None, now=now)
        data = {"detail": refusal.detail, "remedy": refusal.remedy_text, **refusal.numbers}
        events.record(
            "console.platform_limit",
            by=by,
            now=now,
            subject=session,
            reason=error.code,
            severity=Event.Severity.WARNING,
            data=data,
        )
        return refusal.detail
    events.record(
        "console.display_failed",
        by=by,
        now=now,
        subject=session,
        reason=str(getattr(error, "code", "")),
        severity=Event.Severity.WARNING,
        data={
            "detail": str(error)[:1000],
            "remedy": str(getattr(error, "remedy", "") or getattr(error, "remedy_text", "")),
        },
    )
    return ""


def wrong_secrets(address: str) -> int:
    """How many invalid secrets an address sent lately; 0 when the cache cannot be asked."""
    try:
        return int(cache.get(_key(address), 0))
    except (RedisError, OSError) as error:
        log.warning("secret_throttle_unavailable", error=str(error))
        return 0


def count_wrong_secret(address: str) -> int:
    """Counts one more and returns how many there are in the window."""
    key = _key(address)
    try:
        cache.add(key, 0, WINDOW_SECONDS)
        return int(cache.incr(key))
    except (RedisError, OSError, ValueError) as error:
        log.warning("secret_throttle_unavailable", error=str(error))
        return 0


def _key(address: str) -> str:
    return f"console-wrong-secrets:{address}"
