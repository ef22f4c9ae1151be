"""What every page's view needs: fragments for htmx, answers to actions, refusals beside the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme

from cloudops.core.errors import Invalid, Refusal
from cloudops.core.problems import as_refusal

T = TypeVar("T")


def wants_fragment(request: HttpRequest) -> bool:
    """Whether the page's own script asks for the changing part only (a boosted link wants the page)."""
    if request.method == "GET" and request.headers.get("X-Live"):
        return True
    return bool(request.headers.get("HX-Request")) and not request.headers.get("HX-Boosted")


def show(
    request: HttpRequest, template: str, context: Mapping[str, Any], *, fragment: str = "", status: int = 200
) -> HttpResponse:
    """The page, or only its ``fragment`` when the page's own script asks for it."""
    is_fragment = bool(fragment) and wants_fragment(request)
    full = {**context, "is_fragment": is_fragment}
    response = render(request, fragment if is_fragment else template, full, status=status)
    response.headers["Vary"] = "HX-Request, X-Live, Cookie"
    response.headers["Cache-Control"] = "no-store"
    return response


def back(request: HttpRequest, default: str) -> str:
    """Where to return to: ``next`` of the form, the page that it was sent from, or ``default``; never another site."""
    for wanted in (request.POST.get("next", ""), request.headers.get("Referer", "")):
        if wanted and url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure()):
            parts = urlsplit(wanted)
            return parts.path + (f"?{parts.query}" if parts.query else "")
    return default


def done(request: HttpRequest, text: str, *, to: str, level: str = "success") -> HttpResponse:
    """The answer to an action that worked: a toast where the person is (htmx), else ``to`` with a message."""
    if wants_fragment(request):
        response = HttpResponse(status=204)
        response["HX-Trigger"] = json.dumps({"toast": {"level": level, "title": text}})
        return response
    messages.add_message(request, messages.constants.DEFAULT_LEVELS[level.upper()], text)
    return HttpResponseRedirect(to)


def attempt(form: forms.BaseForm, act: Callable[[], T]) -> T | None:
    """``act()``; a refusal lands in the form beside its field, with the remedy, and None is returned."""
    try:
        return act()
    except Exception as error:
        refusal = as_refusal(error)
        if refusal is None:
            raise
        refuse(form, refusal)
        return None


def refuse(form: forms.BaseForm, refusal: Refusal) -> None:
    """Puts a refusal's words into ``form``: each field's beside it, the rest above the form."""
    fields = refusal.numbers.get("fields") if isinstance(refusal, Invalid) else None
    left: list[str] = []
    for name, texts in fields.items() if isinstance(fields, dict) else ():
        if name in form.fields:
            form.add_error(name, list(texts))
        else:
            left.extend(str(text) for text in texts)
    if not isinstance(fields, dict) or left:
        detail = " ".join(left) or refusal.detail
        form.add_error(None, ValidationError(f"{detail} {refusal.remedy_text}".strip(), code=refusal.code))


def filters(request: HttpRequest, *names: str) -> dict[str, str]:
    """The named query parameters that are present, trimmed."""
    return {name: value for name in names if (value := request.GET.get(name, "").strip()[:200])}
