"""Request ids in logs and answers, the content security policy, and refusals as pages."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from cloudops.core import metrics, problems, requests
from cloudops.core.errors import Invalid, Refusal

log = structlog.get_logger(__name__)
_REQUEST_ID = re.compile(r"[\w.-]{8,64}")
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
GetResponse = Callable[[HttpRequest], HttpResponseBase]

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'{console}",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


class RequestContextMiddleware:
    """Gives each request an id (a sane X-Request-ID is kept), binds it to every log line and logs the request's end."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.request_id = request_id  # type: ignore[attr-defined]
        if not requests.is_trusted_proxy(request.META.get("REMOTE_ADDR") or ""):
            request.META.pop("HTTP_X_FORWARDED_PROTO", None)  # SECURE_PROXY_SSL_HEADER would believe anybody
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self.get_response(request)
            response["X-Request-ID"] = request_id
            seconds = time.perf_counter() - started
            metrics.HTTP_SECONDS.labels(
                request.method if request.method in _METHODS else "other", _route(request), response.status_code
            ).observe(seconds)
            log.info(
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                elapsed_ms=round(seconds * 1000, 1),
                client=requests.address_of(request),
            )
        return response


def _route(request: HttpRequest) -> str:
    """The URL pattern, never the path itself: metrics must not grow with the number of VMs, or with made-up paths."""
    match = request.resolver_match
    return match.route if match is not None else "unmatched"


class ContentSecurityPolicyMiddleware:
    """No inline script or style, nothing loaded from elsewhere."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        console = settings.CONSOLE_BASE_URL
        websocket = console.replace("http", "ws", 1)
        self.policy = POLICY.format(
            console="" if console == settings.PUBLIC_URL else f" {console} {websocket}",
        )

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", self.policy)
        response.headers.setdefault("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
        return response


class ProblemMiddleware:
    """Turns a :class:`Refusal` that a page's view raised into words; the API has its own handler."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        refusal = problems.as_refusal(exception)
        return problems.page(request, refusal) if isinstance(refusal, Refusal) else None


class AddressMiddleware:
    """Refuses a page's address with a NUL, which PostgreSQL cannot compare with. Fields of forms, and the API's
    parameters, refuse it themselves."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        is_page = not request.path.startswith("/api/")
        if is_page and "%00" in request.META.get("QUERY_STRING", ""):
            return problems.page(request, Invalid("The address holds a character that cannot be used (NUL)."))
        return self.get_response(request)
