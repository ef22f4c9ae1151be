"""One's own consoles: what is open, who asks for one, and what one did."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.models import User
from cloudops.accounts.pages import person, signed_in
from cloudops.accounts.switcher import Switcher
from cloudops.core import pages, runtime
from cloudops.core.requests import actor_of
from consoles import limits, release, sessions
from consoles.models import ConsoleSession, ReleaseRequest
from consoles.reasons import ClosedReason

HISTORY_SHOWN = 20


@require_safe
@signed_in
def my_consoles(request: HttpRequest) -> HttpResponse:
    """One's open consoles in the chosen project, the requests to release one, and those that ended lately."""
    user, now = person(request), timezone.now()
    everywhere = ConsoleSession.objects.filter(user=user).for_display()
    chosen = Switcher(user).current
    own = everywhere.filter(vm__project_id=chosen.pk) if chosen else everywhere
    current = list(own.current(now).order_by("created_at", "id"))
    setting = runtime.current()
    projects = set(user.memberships.values_list("project_id", flat=True))
    context = {
        "rows": [
            {
                "session": row,
                "status": row.shown_status(now),
                "idle_seconds": row.idle_seconds(now) if row.is_attached(now) else None,
                "is_idle": row.is_shown_idle(now, setting.console_idle_warning_seconds),
            }
            for row in current
        ],
        "past": [
            {"session": row, "reason": ClosedReason(row.closed_reason).text, "seconds": row.duration_seconds(now)}
            for row in own.filter(status="closed").order_by("-ended_at")[:HISTORY_SHOWN]
        ],
        "requests": [
            {"request": asked, "asker": release.shown_asker(asked, user)}
            for asked in release.open_requests_for(user, now=now).select_related("session__vm", "requested_by")
        ],
        "asked": [
            {"request": asked, "shown": _may_name(asked.session, user, projects)}
            for asked in release.asked_by(user, now=now).select_related("session__vm", "session__host")
        ],
        "usage": limits.usage_of_user(user, now=now),
        "elsewhere": everywhere.current(now).exclude(vm__project_id=chosen.pk).count() if chosen else 0,
        "chosen": chosen,
        "nothing_open": f"You have no console open in {chosen}" if chosen else "You have no console open",
        "settings": setting,
        "idle_count": sum(row.is_shown_idle(now, setting.console_idle_warning_seconds) for row in current),
        "user_topic": f"user:{user.pk}",
    }
    return pages.show(request, "consoles/my_consoles.html", context, fragment="consoles/_my_consoles.html")


def _may_name(session: ConsoleSession, user: User, projects: set[UUID]) -> bool:
    """Whether ``user`` may know which VM a console belongs to whose slot they asked for."""
    return user.sees_fleet or session.vm.project_id in projects


@require_POST
@signed_in
def disconnect_mine(request: HttpRequest) -> HttpResponse:
    """Ends chosen consoles of one's own, or with ``idle`` all that are idle (in ``project``, if that is sent)."""
    user, now = person(request), timezone.now()
    own = ConsoleSession.objects.filter(user=user)
    if "project" in request.POST:
        own = own.filter(vm__project_id__in=_uuids(request.POST.getlist("project")))
    if "idle" in request.POST:
        chosen = own.idle(now, runtime.current().console_idle_warning_seconds)
    else:
        chosen = own.live().filter(pk__in=_uuids(request.POST.getlist("ids")))
    count = sessions.close_many(sessions=chosen, reason=ClosedReason.DISCONNECTED, by=actor_of(request), now=now)
    text = "1 console is disconnected." if count == 1 else f"{count} consoles are disconnected."
    return pages.done(request, text, to=pages.back(request, "/my/consoles/"))


def _uuids(items: list[str]) -> list[UUID]:
    found = []
    for item in items[:1000]:
        try:
            found.append(UUID(item))
        except ValueError:
            continue
    return found


@require_POST
@signed_in
def answer(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """Releases the console that somebody asks for, or keeps it."""
    asked = get_object_or_404(ReleaseRequest.objects.select_related("session__vm"), pk=request_id)
    wants_release = request.POST.get("answer") == "release"
    release.answer(request=asked, user=person(request), release=wants_release, by=actor_of(request), now=timezone.now())
    text = f"The console of {asked.session.vm.name} is released. Thank you." if wants_release else "You keep it."
    return pages.done(request, text, to="/my/consoles/")
