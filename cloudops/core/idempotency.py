"""Idempotency-Key on POST: the same key from the same actor is carried out once, its answer kept for a day.

After draft-ietf-httpapi-idempotency-key-header-07. Only success is kept: a refusal changes nothing, so the same key may
try again. Answers are encrypted, as they may hold a secret; fingerprints are keyed, as a body may hold a password.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils.crypto import salted_hmac
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.core import crypto
from cloudops.core.errors import Conflict, Invalid, Refusal
from cloudops.core.models import IdempotencyKey

HEADER = "Idempotency-Key"
KEPT_SECONDS = 86_400
ABANDONED_SECONDS = 120
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class KeyReused(Refusal):
    code = "idempotency-key-reused"
    status = 422
    title = "This Idempotency-Key was used for another request."
    remedy = "Use a new key for each new request."


class KeyBusy(Conflict):
    code = "idempotency-key-busy"
    title = "The first request with this Idempotency-Key is still at work."
    remedy = "Send the same request again in a moment; it will get the first one's answer."


class Replayed(Exception):
    """Not an error: the answer to this request is known already."""

    def __init__(self, response: Response) -> None:
        super().__init__("replayed")
        self.response = response


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry out a request; ended by :func:`keep` or :func:`release`."""

    pk: int
    created_at: datetime

    def _row(self) -> Any:
        return IdempotencyKey.objects.filter(pk=self.pk, created_at=self.created_at, status=0)


def begin(request: Request, *, now: datetime) -> Claim | None:
    """Claims the request's key; None when it carries none.

    Raises :class:`Invalid` for a key that is not 1 to 128 visible ASCII characters, :class:`KeyReused` when the key
    belongs to another request, :class:`KeyBusy` while the first is at work and :class:`Replayed` with its answer.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise Invalid(f"{HEADER} is not right.", fields={HEADER: ["1 to 128 visible ASCII characters."]})
    actor, fingerprint = _actor(request), _fingerprint(request)
    purge(now=now, actor=actor)
    try:
        with transaction.atomic():
            row = IdempotencyKey.objects.create(actor=actor, key=key, fingerprint=fingerprint, created_at=now)
    except IntegrityError:
        row = _answered(actor, key, fingerprint)
    return Claim(row.pk, row.created_at)


def _answered(actor: str, key: str, fingerprint: str) -> IdempotencyKey:
    row = IdempotencyKey.objects.filter(actor=actor, key=key).first()
    if row is None or (row.fingerprint == fingerprint and row.status == 0):
        raise KeyBusy(retry_after_seconds=1)
    if row.fingerprint != fingerprint:
        raise KeyReused(f"The key {key[:40]!r} belongs to an earlier request with another address or body.")
    stored = json.loads(crypto.decrypt(bytes(row.body_encrypted).decode()))
    response = Response(stored["data"], status=row.status, headers={"Idempotency-Replayed": "true"})
    for name, value in stored["headers"].items():
        response[name] = value
    raise Replayed(response)


def keep(claim: Claim, response: Response) -> None:
    """Stores a success as the key's answer; anything else gives the key back."""
    if not 200 <= response.status_code < 300:
        release(claim)
        return
    headers = {name: response[name] for name in ("Location",) if response.has_header(name)}
    stored = {"data": json.loads(JSONRenderer().render(response.data) or b"null"), "headers": headers}
    claim._row().update(status=response.status_code, body_encrypted=crypto.encrypt(json.dumps(stored)).encode())


def release(claim: Claim) -> None:
    """Gives the key back: nothing was done with it."""
    claim._row().delete()


def purge(*, now: datetime, actor: str = "") -> int:
    """Deletes keys older than a day, and claims whose request never ended; of one actor or of all. How many."""
    old = Q(created_at__lt=now - timedelta(seconds=KEPT_SECONDS)) | Q(
        status=0, created_at__lt=now - timedelta(seconds=ABANDONED_SECONDS)
    )
    rows = IdempotencyKey.objects.filter(old)
    return (rows.filter(actor=actor) if actor else rows).delete()[0]


def _actor(request: Request) -> str:
    token = getattr(request, "auth", None)
    return f"token:{token.pk}" if token is not None else f"user:{request.user.pk}"


def _fingerprint(request: Request) -> str:
    body = request._request.body
    message = b"\0".join((str(request.method).encode(), request.get_full_path().encode(), body))
    return salted_hmac("cloudops.idempotency", message, algorithm="sha256").hexdigest()
