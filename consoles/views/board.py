"""The live board of every console, and the history of those that ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Count, Q
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.models import Project, User
from cloudops.accounts.pages import needs, person
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages, runtime
from cloudops.core.requests import actor_of
from consoles import foreign, limits, overview, release, sessions
from consoles import history as past
from consoles.models import ConsoleSession, ForeignConnection, SessionQuerySet
from consoles.reasons import ClosedReason

IDLE_FILTER_SECONDS = 300
BOARD_SIZE = 100
_ORDERS = {
    "since": ("-created_at", "id"),
    "idle": ("quiet_since", "id"),
    "user": ("user__username", "id"),
    "vm": ("vm__name", "id"),
    "host": ("host__name", "id"),
}
_PAST_ORDERS = {"ended": ("-ended_at", "id")}
_COLUMNS = [
    ("user", lambda s: s.user.get_username()),
    ("VM", lambda s: s.vm.name),
    ("host", lambda s: s.host.name),
    ("project", lambda s: s.vm.project),
    ("state", lambda s: s.status),
    ("opened", lambda s: s.created_at),
    ("last input", lambda s: s.last_input_at),
    ("client", lambda s: s.client_address),
]
_PAST_COLUMNS = [
    *_COLUMNS[:4],
    ("opened", lambda s: s.created_at),
    ("ended", lambda s: s.ended_at),
    ("reason", lambda s: s.closed_reason),
    ("closed by", lambda s: s.closed_by),
    ("client", lambda s: s.client_address),
    ("bytes to browser", lambda s: s.bytes_to_browser),
    ("bytes from browser", lambda s: s.bytes_from_browser),
]


def _narrowed(rows: SessionQuerySet, wanted: dict[str, str]) -> SessionQuerySet:
    """By host, project, user (ids) and words."""
    try:
        for name, column in (("host", "host_id"), ("project", "vm__project_id"), ("user", "user__username")):
            if name in wanted:
                rows = rows.filter(**{column: wanted[name]})
    except ValidationError:
        return rows.none()
    if text := wanted.get("q"):
        words = Q(user__username__icontains=text) | Q(vm__name__icontains=text) | Q(host__name__icontains=text)
        rows = rows.filter(words | Q(client_address__startswith=text))
    return rows


def _choices() -> dict[str, Any]:
    return {"hosts": overview.hosts_by_name(), "projects": Project.objects.only("id", "name")}


@require_safe
@needs(Right.FLEET_VIEW)
def board(request: HttpRequest) -> HttpResponse:
    """Every console there is now."""
    now, setting = timezone.now(), runtime.current()
    wanted = pages.filters(request, "idle", "host", "project", "user", "q")
    rows = _narrowed(ConsoleSession.objects.current(now), wanted)
    idle_rows = rows.idle(now, IDLE_FILTER_SECONDS)
    totals = {"shown": rows.count(), **idle_rows.aggregate(idle=Count("pk"), people=Count("user", distinct=True))}
    if "idle" in wanted:
        rows = idle_rows
    rows = rows.for_display().annotate(quiet_since=Coalesce("last_input_at", "connected_at", "created_at"))
    order = listing.order_of(request, _ORDERS, "since")
    if request.GET.get("format") == "csv":
        return listing.csv_response("consoles", _COLUMNS, rows.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(rows, order=order, cursor=request.GET.get("cursor", ""), size=BOARD_SIZE)
    others = limits.fresh_foreign(setting, now).select_related("vm", "host")
    if "host" in wanted:
        others = others.filter(host_id=wanted["host"]) if _is_uuid(wanted["host"]) else others.none()
    context = {
        "page": page,
        "sessions": _shown(page.rows, now),
        "foreign": list(others[:BOARD_SIZE]),
        "totals": totals,
        "settings": setting,
        "now": now,
        "wanted": wanted,
        "filtered": bool(wanted),
        "idle_filter_seconds": IDLE_FILTER_SECONDS,
        "tab": "open",
    } | _choices()
    return pages.show(request, "consoles/board.html", context, fragment="consoles/_board.html")


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _shown(rows: list[ConsoleSession], now: datetime) -> list[dict[str, Any]]:
    """Each session with what depends on the time."""
    return [
        {
            "session": row,
            "status": row.shown_status(now),
            "idle_seconds": row.idle_seconds(now) if row.is_attached(now) else None,
        }
        for row in rows
    ]


@require_safe
@needs(Right.FLEET_VIEW)
def history(request: HttpRequest) -> HttpResponse:
    """Consoles that ended, with the reason, as long as they are kept."""
    wanted = pages.filters(request, "reason", "host", "project", "user", "q", "day")
    rows = _narrowed(ConsoleSession.objects.filter(status="closed"), wanted)
    if reason := wanted.get("reason"):
        rows = rows.filter(closed_reason=reason)
    if day := parse_date(wanted["day"]) if "day" in wanted else None:
        rows = rows.filter(ended_at__date=day)
    rows = rows.for_display()
    order = listing.order_of(request, _PAST_ORDERS, "ended")
    if request.GET.get("format") == "csv":
        return listing.csv_response("console-history", _PAST_COLUMNS, rows.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(rows, order=order, cursor=request.GET.get("cursor", ""))
    context = {
        "page": page,
        "sessions": _ended(page.rows, person(request)),
        "settings": runtime.current(),
        "reasons": [(reason.value, reason.value.replace("_", " ")) for reason in ClosedReason],
        "wanted": wanted,
        "filtered": bool(wanted),
        "tab": "history",
    } | _choices()
    return pages.show(request, "consoles/history.html", context, fragment="consoles/_history.html")


def _ended(rows: list[ConsoleSession], viewer: User) -> list[dict[str, Any]]:
    return [
        {
            "session": row,
            "reason": past.why_ended(row, viewer),
            "seconds": row.duration_seconds(row.ended_at) if row.ended_at else 0,
        }
        for row in rows
    ]


@require_safe
@needs(Right.FLEET_VIEW)
def chart(request: HttpRequest) -> JsonResponse:
    """Open consoles per host over the day, for the chart."""
    return JsonResponse(past.open_per_host(now=timezone.now()))


@require_POST
@needs(Right.CONSOLES_MANAGE)
def disconnect(request: HttpRequest) -> HttpResponse:
    """Ends the chosen consoles."""
    ids = [item for item in request.POST.getlist("ids") if _is_uuid(item)][:1000]
    now = timezone.now()
    chosen = ConsoleSession.objects.live().filter(pk__in=ids)
    count = sessions.close_many(sessions=chosen, by=actor_of(request), now=now)
    return pages.done(request, _ended_words(count), to=pages.back(request, "/consoles/"))


@require_POST
@needs(Right.CONSOLES_MANAGE)
def disconnect_idle(request: HttpRequest) -> HttpResponse:
    """Ends every console of the present filters that had no input for five minutes."""
    now = timezone.now()
    wanted = {name: value for name in ("host", "project", "user", "q") if (value := request.POST.get(name, ""))}
    idle = _narrowed(ConsoleSession.objects.idle(now, IDLE_FILTER_SECONDS), wanted)
    count = sessions.close_many(sessions=idle, by=actor_of(request), now=now)
    return pages.done(request, _ended_words(count), to=pages.back(request, "/consoles/"))


def _ended_words(count: int) -> str:
    if count == 0:
        return "Nothing to disconnect: they had ended already."
    return "1 console is disconnected." if count == 1 else f"{count} consoles are disconnected."


@require_POST
@needs(Right.CONSOLES_MANAGE)
def ask_release(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Asks a console's holder to let it go; the words appear in their console."""
    session = get_object_or_404(ConsoleSession.objects.for_display(), pk=session_id)
    message = request.POST.get("message", "").strip()
    release.ask(session=session, user=person(request), message=message, by=actor_of(request), now=timezone.now())
    text = f"{session.user.get_username()} is asked to release the console of {session.vm.name}."
    return pages.done(request, text, to=pages.back(request, "/consoles/"))


@require_POST
@needs(Right.CONSOLES_MANAGE)
def drop(request: HttpRequest, connection_id: int) -> HttpResponse:
    """Ends a connection that is no console of ours."""
    rows = ForeignConnection.objects.select_related("vm", "host__endpoint")
    connection = get_object_or_404(rows, pk=connection_id)
    words = connection.words
    foreign.drop(connection=connection, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"The connection {words} is ended.", to=pages.back(request, "/consoles/"))
