"""What a request or a WebSocket scope tells about its client."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from cloudops.core.actors import Actor, ActorKind


def is_trusted_proxy(address: str) -> bool:
    """Whether ``address`` is one of CLOUDOPS_TRUSTED_PROXIES."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.TRUSTED_PROXIES)


def client_address(peer: str, forwarded_for: str) -> str:
    """The last address in X-Forwarded-For that no trusted proxy has; the header is believed only from such a proxy."""
    address = peer
    for hop in reversed([item.strip() for item in forwarded_for.split(",") if item.strip()]):
        if not is_trusted_proxy(address):
            break
        address = hop
    return address[:64]


def address_of(request: HttpRequest) -> str:
    """The client's address of an HTTP request."""
    return client_address(request.META.get("REMOTE_ADDR") or "", request.META.get("HTTP_X_FORWARDED_FOR", ""))


def address_of_scope(scope: Mapping[str, Any]) -> str:
    """The client's address of an ASGI scope."""
    headers = dict(scope.get("headers", ()))
    peer = (scope.get("client") or ("", 0))[0]
    return client_address(peer, headers.get(b"x-forwarded-for", b"").decode("latin-1"))


def actor_of(request: HttpRequest) -> Actor:
    """Who makes this request: a person in a browser, an API token of theirs, or nobody known."""
    request_id = getattr(request, "request_id", "")
    address = address_of(request)
    user = request.user
    if not user.is_authenticated:
        return Actor(ActorKind.ANONYMOUS, "anonymous", address=address, request_id=request_id)
    token = getattr(request, "auth", None)
    name = user.get_username()
    if token is not None and hasattr(token, "label"):
        return Actor(ActorKind.TOKEN, f"{name} (token {token.label})", user.pk, address, request_id)
    return Actor(ActorKind.USER, name, user.pk, address, request_id)
