"""One's own account: password, second factor, API tokens, the project looked at; and where the start page leads."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts import people, tokens
from cloudops.accounts.forms import ProjectChoiceForm, TokenForm
from cloudops.accounts.models import ApiToken
from cloudops.accounts.pages import person, signed_in
from cloudops.core import pages
from cloudops.core.errors import Forbidden
from cloudops.core.requests import actor_of


@require_safe
@signed_in
def home(request: HttpRequest) -> HttpResponseRedirect:
    """People who work with hosts start at the fleet, tenants at their VMs."""
    return redirect("fleet" if person(request).sees_fleet else "my-vms")


@never_cache
@signed_in
@sensitive_variables("secret")
def account(request: HttpRequest) -> HttpResponse:
    """The account page; a POST makes an API token and shows its secret this once."""
    form = TokenForm(request.POST or None)
    secret = ""
    if request.method == "POST" and form.is_valid():
        made = pages.attempt(
            form,
            lambda: tokens.create(user=person(request), by=actor_of(request), now=timezone.now(), **form.cleaned_data),
        )
        if made is not None:
            secret, form = made[1], TokenForm()
    return pages.show(request, "accounts/account.html", _facts(request) | {"form": form, "secret": secret})


def _facts(request: HttpRequest) -> dict[str, object]:
    user = person(request)
    kinds = set(Authenticator.objects.filter(user=user).values_list("type", flat=True))
    return {
        "has_totp": Authenticator.Type.TOTP in kinds,
        "has_recovery_codes": Authenticator.Type.RECOVERY_CODES in kinds,
        "memberships": user.memberships.select_related("project"),
        "tokens": ApiToken.objects.filter(user=user, revoked_at__isnull=True),
        "now": timezone.now(),
        "public_url": settings.PUBLIC_URL,
    }


class EmailIsGiven(Forbidden):
    code = "email-is-given"
    title = "E-mail addresses are set by administrators."
    remedy = "Ask one to change yours."


@signed_in
def email(request: HttpRequest) -> HttpResponse:
    """Stands before allauth's page: single sign-on finds accounts by their address, so nobody gives themselves one."""
    raise EmailIsGiven


@signed_in
def choose_project(request: HttpRequest) -> HttpResponse:
    """The choice as a page of its own, or as the frame's fragment; a POST chooses one project, or without one all."""
    if request.method != "POST":
        return pages.show(
            request, "accounts/project_choose.html", {"next": "/my/vms/"}, fragment="partials/switcher.html"
        )
    form = ProjectChoiceForm(request.POST)
    if not form.is_valid():
        raise people.NoSuchProject
    chosen = people.choose_project(person(request), project=form.cleaned_data["project"])
    text = f"Your pages show {chosen} now." if chosen else "Your pages show all your projects now."
    return pages.done(request, text, to=_without_project(pages.back(request, "/my/vms/")))


def _without_project(address: str) -> str:
    """A page's own ``?project=`` would go before the choice just made, and a list's cursor belongs to the old one."""
    path, _, query = address.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query) if name not in {"project", "cursor"}]
    return f"{path}?{urlencode(kept)}" if kept else path


@require_POST
@signed_in
def revoke_token(request: HttpRequest, token_id: UUID) -> HttpResponse:
    """Ends one of one's own tokens."""
    token = get_object_or_404(ApiToken, pk=token_id, user=person(request))
    tokens.revoke(token, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"“{token.label}” is revoked. Nothing can use it any more.", to="/account/")
