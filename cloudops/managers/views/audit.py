"""The audit trail, and one's own activity."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.views.decorators.http import require_safe

from cloudops.accounts.pages import needs, person, signed_in
from cloudops.accounts.rights import Right
from cloudops.accounts.switcher import Switcher
from cloudops.core import listing, pages
from cloudops.core.models import Event

FILTERS = ("kind", "actor", "subject", "severity", "since", "until", "q")
_ORDER = ("-id",)
_COLUMNS = [
    ("at", lambda e: e.at),
    ("kind", lambda e: e.kind),
    ("severity", lambda e: e.severity),
    ("actor", lambda e: e.actor_name),
    ("address", lambda e: e.address),
    ("subject type", lambda e: e.subject_type),
    ("subject", lambda e: e.subject_name),
    ("subject id", lambda e: e.subject_id),
    ("from", lambda e: e.from_state),
    ("to", lambda e: e.to_state),
    ("reason", lambda e: e.reason),
    ("data", lambda e: e.data or ""),
    ("request", lambda e: e.request_id),
]
FAMILIES = ["console", "host", "vm", "operation", "settings", "user", "membership", "project", "token", "offering"]


def _day(text: str) -> date | None:
    try:
        return parse_date(text)
    except ValueError:
        return None


def _narrowed(events: QuerySet[Event], wanted: dict[str, str]) -> QuerySet[Event]:
    """``kind`` is a whole kind or a family ("console"); ``subject`` a name or an id; days are inclusive, in UTC."""
    if kind := wanted.get("kind"):
        events = events.filter(kind=kind) if "." in kind else events.filter(kind__startswith=f"{kind}.")
    if actor := wanted.get("actor"):
        events = events.filter(actor_name__icontains=actor)
    if subject := wanted.get("subject"):
        events = events.filter(Q(subject_id=subject) | Q(subject_name__icontains=subject))
    if severity := wanted.get("severity"):
        events = events.filter(severity=severity)
    if day := _day(wanted.get("since", "")):
        events = events.filter(at__gte=_midnight(day))
    if day := _day(wanted.get("until", "")):
        events = events.filter(at__lt=_midnight(day + timedelta(days=1)))
    if text := wanted.get("q"):
        words = Q(subject_name__icontains=text) | Q(actor_name__icontains=text) | Q(reason__icontains=text)
        events = events.filter(words | Q(kind__icontains=text) | Q(address__startswith=text))
    return events


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=timezone.get_default_timezone())


def _list(request: HttpRequest, events: QuerySet[Event], template: str, extra: dict[str, Any]) -> HttpResponse:
    wanted = pages.filters(request, *FILTERS)
    found = _narrowed(events, wanted)
    if request.GET.get("format") == "csv":
        return listing.csv_response("audit", _COLUMNS, found.order_by(*_ORDER)[: listing.CSV_ROWS])
    page = listing.page(found, order=_ORDER, cursor=request.GET.get("cursor", ""))
    context = {
        "page": page,
        "wanted": wanted,
        "filtered": bool(wanted),
        "families": FAMILIES,
        "severities": Event.Severity.choices,
        **extra,
    }
    return pages.show(request, template, context, fragment="managers/_events.html")


@require_safe
@needs(Right.AUDIT_VIEW)
def audit(request: HttpRequest) -> HttpResponse:
    """Everything that happened, newest first."""
    return _list(request, Event.objects.all(), "managers/audit.html", {"events_topic": ""})


@require_safe
@signed_in
def my_activity(request: HttpRequest) -> HttpResponse:
    """What one did oneself, newest first; in the chosen project only, if the switcher names one."""
    user = person(request)
    own = Event.objects.filter(actor_user_id=user.pk)
    chosen = Switcher(user).current
    if chosen:
        own = own.filter(project_id=chosen.pk)
    extra = {"events_topic": f"user:{user.pk}", "own": True, "chosen": chosen}
    return _list(request, own, "managers/my_activity.html", extra)
