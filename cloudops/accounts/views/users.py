"""People: list, add, change, password, deactivate."""

from __future__ import annotations

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts import people
from cloudops.accounts.forms import PasswordForm, UserAddForm, UserFields
from cloudops.accounts.models import Role, User
from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of

_ORDERS = {"username": ("username",)}
_COLUMNS = [
    ("username", lambda u: u.username),
    ("name", lambda u: u.get_full_name()),
    ("email", lambda u: u.email),
    ("role", lambda u: u.role),
    ("active", lambda u: u.is_active),
    ("last sign-in", lambda u: u.last_login),
]


def _found(wanted: dict[str, str]) -> QuerySet[User]:
    found = User.objects.annotate(project_count=Count("memberships"))
    if text := wanted.get("q"):
        names = Q(first_name__icontains=text) | Q(last_name__icontains=text) | Q(email__icontains=text)
        found = found.filter(Q(username__icontains=text) | names)
    if role := wanted.get("role"):
        found = found.filter(role=role)
    if state := wanted.get("state"):
        found = found.filter(is_active=state == "active")
    return found


@require_safe
@needs(Right.USERS_MANAGE)
def users(request: HttpRequest) -> HttpResponse:
    """Everybody who may sign in."""
    found = _found(pages.filters(request, "q", "role", "state"))
    order = listing.order_of(request, _ORDERS, "username")
    if request.GET.get("format") == "csv":
        return listing.csv_response("people", _COLUMNS, found.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "roles": Role.choices, "filtered": bool(pages.filters(request, "q", "role", "state"))}
    return pages.show(request, "accounts/users.html", context, fragment="accounts/_users.html")


@sensitive_post_parameters("password")
@needs(Right.USERS_MANAGE)
def add_user(request: HttpRequest) -> HttpResponse:
    """A new person."""
    form = UserAddForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = pages.attempt(
            form, lambda: people.create_user(by=actor_of(request), now=timezone.now(), **form.cleaned_data)
        )
        if user is not None:
            return pages.done(request, f"{user} can sign in.", to=reverse("user", args=[user.pk]))
    return pages.show(request, "accounts/user_add.html", {"form": form})


@needs(Right.USERS_MANAGE)
def user(request: HttpRequest, user_id: int) -> HttpResponse:
    """One person; a POST changes them."""
    whom = get_object_or_404(User, pk=user_id)
    kept = {name: getattr(whom, name) for name in UserFields.base_fields}
    form = UserFields(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        changed = pages.attempt(
            form, lambda: people.change_user(whom, by=actor_of(request), now=timezone.now(), **form.cleaned_data)
        )
        if changed is not None:
            return pages.done(request, f"{whom} is saved.", to=reverse("user", args=[whom.pk]))
    return _user_page(request, whom, form=form)


def _user_page(request: HttpRequest, whom: User, **forms: object) -> HttpResponse:
    kept = {name: getattr(whom, name) for name in UserFields.base_fields}
    context = {
        "whom": whom,
        "form": forms.get("form") or UserFields(initial=kept),
        "password_form": forms.get("password_form") or PasswordForm(),
        "memberships": whom.memberships.select_related("project"),
        "token_count": whom.api_tokens.filter(revoked_at__isnull=True, expires_at__gt=timezone.now()).count(),
    }
    return pages.show(request, "accounts/user.html", context)


@sensitive_post_parameters("password")
@require_POST
@needs(Right.USERS_MANAGE)
def set_password(request: HttpRequest, user_id: int) -> HttpResponse:
    """Somebody's new password."""
    whom = get_object_or_404(User, pk=user_id)
    form = PasswordForm(request.POST)
    if form.is_valid():
        password = form.cleaned_data["password"]
        people_set = people.set_password
        changed = pages.attempt(
            form, lambda: people_set(whom, password=password, by=actor_of(request), now=timezone.now()) or whom
        )
        if changed is not None:
            return pages.done(request, f"{whom} has a new password.", to=reverse("user", args=[whom.pk]))
    return _user_page(request, whom, password_form=form)


@require_POST
@needs(Right.USERS_MANAGE)
def deactivate(request: HttpRequest, user_id: int) -> HttpResponse:
    """Somebody may no longer sign in; their tokens, sessions and consoles end."""
    whom = get_object_or_404(User, pk=user_id)
    people.deactivate(whom, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{whom} can no longer sign in.", to=reverse("user", args=[whom.pk]))


@require_POST
@needs(Right.USERS_MANAGE)
def reactivate(request: HttpRequest, user_id: int) -> HttpResponse:
    """Somebody may sign in again."""
    whom = get_object_or_404(User, pk=user_id)
    people.reactivate(whom, by=actor_of(request), now=timezone.now())
    return redirect("user", user_id=whom.pk)
