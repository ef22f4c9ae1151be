"""What is shown when no view of ours was reached, or one broke."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from cloudops.core import problems
from cloudops.core.errors import Forbidden, Invalid, NotFound, Refusal


class CsrfFailed(Forbidden):
    code = "csrf-failed"
    title = "The form had expired, or came from another site."
    remedy = "Reload the page and send it again."


class Defect(Refusal):
    code = "internal-error"
    status = 500
    title = "Something broke on our side."
    remedy = "Try again; if it stays, give an administrator the request id."


def _answer(request: HttpRequest, template: str, refusal: Refusal) -> HttpResponse:
    """Problem+json for the API, a toast for htmx, a page for people."""
    if request.path.startswith("/api/"):
        return JsonResponse(problems.body(refusal), status=refusal.status, content_type=problems.CONTENT_TYPE)
    if request.headers.get("HX-Request"):
        return problems.page(request, refusal)
    return render(request, template, {"refusal": refusal}, status=refusal.status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler400."""
    return _answer(request, "errors/400.html", Invalid())


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler403."""
    return _answer(request, "errors/403.html", Forbidden())


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """CSRF_FAILURE_VIEW."""
    return _answer(request, "errors/403.html", CsrfFailed())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler404."""
    return _answer(request, "errors/404.html", NotFound())


def server_error(request: HttpRequest) -> HttpResponse:
    """handler500: neither context processors nor the database are asked, as they may be what broke."""
    if request.path.startswith("/api/") or request.headers.get("HX-Request"):
        return _answer(request, "", Defect())
    return HttpResponse(render_to_string("errors/500.html", {"request": request}), status=500)
