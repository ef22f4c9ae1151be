"""Secrets at rest: random tokens are stored as SHA-256 only, credentials as Fernet ciphertext with key rotation."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from cloudops.core.errors import Unavailable


def new_secret() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """SHA-256 in hex. Enough for 256-bit random secrets; passwords go through Django's hashers instead."""
    return hashlib.sha256(secret.encode()).hexdigest()


@cache
def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.ENCRYPTION_KEYS])


def encrypt(plain: str) -> str:
    """Ciphertext under the first of CLOUDOPS_ENCRYPTION_KEYS; empty stays empty."""
    return _fernet().encrypt(plain.encode()).decode() if plain else ""


def decrypt(cipher: str) -> str:
    """Raises :class:`Unavailable` when none of the keys fits."""
    if not cipher:
        return ""
    try:
        return _fernet().decrypt(cipher.encode()).decode()
    except InvalidToken as error:
        raise Unavailable(
            "A stored credential cannot be decrypted.",
            remedy="Add the key it was encrypted with to CLOUDOPS_ENCRYPTION_KEYS, or enter the credential again.",
        ) from error
