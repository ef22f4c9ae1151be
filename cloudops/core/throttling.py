"""Rate limits that fail open: a dead Redis must not stop the product."""

from __future__ import annotations

from typing import Any

import structlog
from django.core.cache import cache
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.throttling import AnonRateThrottle, UserRateThrottle

from cloudops.core.requests import address_of

log = structlog.get_logger(__name__)


class _FailOpen:
    cache = cache

    def allow_request(self, request: Request, view: Any) -> bool:
        try:
            return bool(super().allow_request(request, view))  # type: ignore[misc]
        except RedisError as error:
            log.warning("throttle_unavailable", error=str(error))
            return True

    def get_ident(self, request: Request) -> str:
        return address_of(request)


class UserThrottle(_FailOpen, UserRateThrottle):
    """Per signed-in user."""


class AnonThrottle(_FailOpen, AnonRateThrottle):
    """Per client address."""


class ConsoleOpeningThrottle(UserThrottle):
    """Opening consoles: each one costs a slot and a connection to a hypervisor."""

    scope = "console_opening"


class TokenCreationThrottle(UserThrottle):
    """Making API tokens."""

    scope = "token_creation"
