"""Who may open a page: the decorators of every view."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse

from cloudops.accounts.models import User
from cloudops.accounts.rights import Right, demand

View = Callable[..., HttpResponseBase]


def person(request: HttpRequest) -> User:
    """The signed-in person of a request whose view is behind :func:`signed_in` or :func:`needs`."""
    return cast(User, request.user)


def signed_in(view: View) -> View:
    """Only for people who have signed in; others are led to the login and back."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return view(request, *args, **kwargs) if request.user.is_authenticated else _to_login(request)

    return guarded


def needs(right: Right) -> Callable[[View], View]:
    """Only for people with ``right``; the signed-in others are refused in words."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _to_login(request)
            demand(request.user, right)
            return view(request, *args, **kwargs)

        return guarded

    return decorate


def _to_login(request: HttpRequest) -> HttpResponseBase:
    """A redirect; for a fragment, the whole page goes (a login form inside a table helps nobody)."""
    if request.headers.get("HX-Request"):
        response = HttpResponse(status=401)
        response["HX-Redirect"] = reverse("account_login")
        return response
    return redirect_to_login(request.get_full_path())
