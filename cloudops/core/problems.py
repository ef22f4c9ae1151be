"""Refusals on the wire: problem+json (RFC 9457) for the API, a page or a toast for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler
from rest_framework.views import set_rollback

from cloudops.core.errors import Forbidden, Invalid, NotFound, Refusal, Unavailable

log = structlog.get_logger(__name__)
CONTENT_TYPE = "application/problem+json"
CONVERTERS: list[Callable[[BaseException], Refusal | None]] = []
_DRF_CODES: dict[type[drf.APIException], tuple[str, str, str]] = {
    drf.NotAuthenticated: ("not-authenticated", "You are not signed in.", "Sign in, or send a valid API token."),
    drf.AuthenticationFailed: ("authentication-failed", "The credentials are not valid.", "Use a valid API token."),
    drf.PermissionDenied: ("forbidden", Forbidden.title, Forbidden.remedy),
    drf.MethodNotAllowed: ("method-not-allowed", "This address does not do that.", "Look at the API reference."),
    drf.NotAcceptable: ("not-acceptable", "That format is not offered.", "Ask for application/json."),
    drf.UnsupportedMediaType: ("unsupported-media-type", "That format is not understood.", "Send application/json."),
    drf.Throttled: ("throttled", "Too many requests.", "Wait as long as Retry-After says."),
    drf.ParseError: ("malformed", "The body is not valid JSON.", "Send well-formed JSON."),
    drf.NotFound: ("not-found", NotFound.title, NotFound.remedy),
}


def as_refusal(exception: BaseException) -> Refusal | None:
    """The refusal that an exception means, or None when it is a defect and must surface as one.

    Layers above add what their own errors mean to ``CONVERTERS``.
    """
    if isinstance(exception, Refusal):
        return exception
    if isinstance(exception, Http404):
        return NotFound()
    if isinstance(exception, PermissionDenied):
        return Forbidden()
    for convert in CONVERTERS:
        if (refusal := convert(exception)) is not None:
            return refusal
    if isinstance(exception, (OperationalError, InterfaceError)):
        log.warning("database_unavailable", error=str(exception))
        return Unavailable("The database does not answer.", retry_after_seconds=5)
    return None


def body(refusal: Refusal) -> dict[str, Any]:
    """The problem+json members."""
    return {
        "type": f"about:blank#{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "code": refusal.code,
        "detail": refusal.detail,
        "remedy": refusal.remedy_text,
        **refusal.numbers,
    }


def api_exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's EXCEPTION_HANDLER: every error of the API is problem+json with a code and a remedy."""
    if isinstance(exception, drf.ValidationError):
        return _response(Invalid("Some fields are not right.", fields=_field_messages(exception.detail)))
    if isinstance(exception, drf.APIException):
        response = drf_exception_handler(exception, context)
        code, title, remedy = _DRF_CODES.get(type(exception), ("refused", exception.default_detail, Refusal.remedy))
        if response is not None:
            detail = str(getattr(exception, "detail", "") or title)
            members = {"title": str(title), "status": response.status_code, "code": code}
            response.data = {"type": f"about:blank#{code}", **members, "detail": detail, "remedy": remedy}
            response.content_type = CONTENT_TYPE
        return response
    refusal = as_refusal(exception)
    if refusal is None:
        return None
    set_rollback()
    return _response(refusal)


def _field_messages(detail: Any) -> dict[str, list[str]]:
    if isinstance(detail, dict):
        return {str(key): [str(item) for item in _flat(value)] for key, value in detail.items()}
    return {"non_field_errors": [str(item) for item in _flat(detail)]}


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for part in value.values() for item in _flat(part)]
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _flat(part)]
    return [value]


def _response(refusal: Refusal) -> Response:
    response = Response(body(refusal), status=refusal.status, content_type=CONTENT_TYPE)
    if refusal.retry_after_seconds is not None:
        response["Retry-After"] = str(refusal.retry_after_seconds)
    return response


def page(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    """A refusal for people: a toast when htmx asked, else a page of its own."""
    if request.headers.get("HX-Request"):
        toast = {"level": "danger", "title": refusal.title, "detail": refusal.detail, "remedy": refusal.remedy_text}
        response = HttpResponse(status=refusal.status)
        response["HX-Trigger"] = json.dumps({"toast": toast})
        response["HX-Reswap"] = "none"
    else:
        response = render(request, "errors/refusal.html", {"refusal": refusal}, status=refusal.status)
    if refusal.retry_after_seconds is not None:
        response["Retry-After"] = str(refusal.retry_after_seconds)
    return response
