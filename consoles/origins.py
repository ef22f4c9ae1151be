"""Which web pages may open sockets here (RFC 6455, 10.2): browsers name theirs in Origin, scripts have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import validate_host


def origin_of(scope: Mapping[str, Any]) -> str:
    """The Origin header of an ASGI scope; empty when there is none."""
    return _header(scope, b"origin")


def is_allowed(scope: Mapping[str, Any]) -> bool:
    """No Origin, one of this installation's own addresses, or the very host that was called, when we answer to it."""
    origin = origin_of(scope)
    if not origin:
        return True
    parts = urlsplit(origin)
    own = [urlsplit(url) for url in (settings.PUBLIC_URL, settings.CONSOLE_BASE_URL)]
    if any((parts.scheme, parts.netloc) == (url.scheme, url.netloc) for url in own):
        return True
    if settings.SECURE and parts.scheme != "https":
        return False
    called = _header(scope, b"host")
    return bool(called) and parts.netloc == called and validate_host(parts.hostname or "", settings.ALLOWED_HOSTS)


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    for key, value in scope.get("headers", ()):
        if key == name:
            return bytes(value).decode("latin-1")
    return ""
