"""Long-running jobs: the list, one job, and the tray in the corner of every page."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.models import User
from cloudops.accounts.pages import person, signed_in
from cloudops.core import listing, operations, operations_view, pages
from cloudops.core.models import Operation

LINGER = timedelta(seconds=60)
TRAY_SIZE = 20
_ORDER = ("-created_at", "id")
_RUNNING = (Operation.Status.PENDING, Operation.Status.RUNNING)
_COLUMNS = [
    ("operation", lambda o: o.title),
    ("status", lambda o: o.status),
    ("subject", lambda o: o.subject_name),
    ("requested by", lambda o: o.requested_by_name),
    ("created", lambda o: o.created_at),
    ("ended", lambda o: o.ended_at),
    ("error", lambda o: o.error_code),
    ("detail", lambda o: o.error_detail),
    ("id", lambda o: o.pk),
]


@require_safe
@signed_in
def operation_list(request: HttpRequest) -> HttpResponse:
    """Every job one may see, newest first."""
    wanted = pages.filters(request, "status", "q")
    found = operations.visible_to(person(request))
    if status := wanted.get("status"):
        found = found.filter(status__in=_RUNNING) if status == "running" else found.filter(status=status)
    if text := wanted.get("q"):
        found = operations_view.searchable(person(request), found, text)
    if request.GET.get("format") == "csv":
        told = operations_view.all_told_to(person(request), found.order_by(*_ORDER)[: listing.CSV_ROWS])
        return listing.csv_response("operations", _COLUMNS, told)
    page = listing.page(found, order=_ORDER, cursor=request.GET.get("cursor", ""))
    context = {
        "page": page,
        "rows": [
            {"operation": row, "seconds": _seconds(row)}
            for row in operations_view.all_told_to(person(request), page.rows)
        ],
        "filtered": bool(wanted),
        "topics": _topics(person(request), page.rows),
    }
    return pages.show(request, "managers/operations.html", context, fragment="managers/_operations.html")


def _seconds(operation: Operation) -> float | None:
    """How long it took; None while it runs."""
    return (operation.ended_at - operation.created_at).total_seconds() if operation.ended_at else None


def _topics(user: User, rows: list[Operation]) -> str:
    """Fleet people watch all of them; tenants those that still run."""
    if user.sees_fleet:
        return "operations"
    return " ".join(f"operation:{row.pk}" for row in rows if row.status in _RUNNING)[:1500]


@require_safe
@signed_in
def operation(request: HttpRequest, operation_id: UUID) -> HttpResponse:
    """One job with its steps, and its error with the remedy."""
    found = get_object_or_404(operations.visible_to(person(request)), pk=operation_id)
    told = operations_view.told_to(person(request), found)
    return pages.show(request, "managers/operation.html", {"operation": told}, fragment="managers/_operation.html")


@require_safe
@signed_in
def tray(request: HttpRequest) -> HttpResponse:
    """What one asked for: running jobs, those done a moment ago, failures until they are read."""
    user, now = person(request), timezone.now()
    recent = Q(status__in=_RUNNING) | Q(ended_at__gt=now - LINGER)
    failed = Q(status=Operation.Status.FAILED, read_at__isnull=True)
    rows = list(Operation.objects.filter(recent | failed, requested_by_id=user.pk)[:TRAY_SIZE])
    context = {
        "operations": operations_view.all_told_to(user, rows),
        "running": sum(row.status in _RUNNING for row in rows),
        "failed": sum(row.status == Operation.Status.FAILED and row.read_at is None for row in rows),
    }
    return pages.show(request, "partials/tray_body.html", context)


@require_POST
@signed_in
def read(request: HttpRequest, operation_id: UUID) -> HttpResponse:
    """The failure was seen; it leaves the tray."""
    found = get_object_or_404(operations.visible_to(person(request)), pk=operation_id)
    operations.mark_read(found, now=timezone.now())
    return pages.done(request, "Marked as seen.", to=pages.back(request, "/operations/"))
