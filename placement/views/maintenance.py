"""Maintenance jobs: all of them, and one while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right, demand
from cloudops.core import listing, pages
from cloudops.core.errors import Invalid
from cloudops.core.models import Event, subject_of
from cloudops.core.requests import actor_of
from cloudops.inventory.models import Host
from placement import maintenance as verbs
from placement.forms_maintenance import ASK_AGAIN, RETRY, ChooseForm
from placement.maintenance import Choice, rolling
from placement.models import Maintenance, MaintenanceHost, MaintenanceMove, MaintenanceStatus, MoveStatus, VmMigration

OVER = (MaintenanceStatus.COMPLETED, MaintenanceStatus.CANCELLED)
EVENTS_SHOWN = 20
MOVES_SHOWN = 200
_ORDERS = {"created": ("created_at", "id")}
_MOVES_ORDER = {
    MoveStatus.BLOCKED: 0,
    MoveStatus.MOVING: 1,
    MoveStatus.STOPPING: 1,
    MoveStatus.WAITING: 2,
    MoveStatus.SKIPPED: 3,
    MoveStatus.STOPPED: 3,
    MoveStatus.MOVED: 4,
    MoveStatus.GONE: 5,
}


def _counted() -> QuerySet[Maintenance]:
    moves = {status: Count("moves", filter=Q(moves__status=status), distinct=True) for status in ("moved", "blocked")}
    return Maintenance.objects.annotate(
        host_count=Count("hosts", distinct=True), move_count=Count("moves", distinct=True), **moves
    )


@require_safe
@needs(Right.FLEET_VIEW)
def jobs(request: HttpRequest) -> HttpResponse:
    """Every job, those that run first."""
    wanted = pages.filters(request, "q", "state", "mode")
    found = _counted()
    if text := wanted.get("q"):
        found = found.filter(Q(title__icontains=text) | Q(reason__icontains=text))
    if state := wanted.get("state"):
        found = found.exclude(status__in=OVER) if state == "live" else found.filter(status=state)
    if mode := wanted.get("mode"):
        found = found.filter(mode=mode)
    order = listing.order_of(request, _ORDERS, "-created")
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "filtered": bool(wanted)}
    return pages.show(request, "maintenance/jobs.html", context, fragment="maintenance/_jobs.html")


@require_safe
@needs(Right.FLEET_VIEW)
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """One job: hosts, VMs, what is in the way, and what happened."""
    found = get_object_or_404(Maintenance.objects.select_related("origin"), pk=job_id)
    subject = subject_of(found)
    report = verbs.report(found, now=timezone.now())
    moves = _moves(found)
    context = {
        "job": found,
        "report": report,
        "over": found.status in OVER,
        "moves": moves[:MOVES_SHOWN],
        "hidden": max(0, len(moves) - MOVES_SHOWN),
        "left": _left(moves),
        "releasable": _releasable(found, report.hosts),
        "over_hosts": {row.pk for row in report.hosts if rolling.is_over(row)},
        "returns": found.returns.order_by("-created_at").first(),
        "events": Event.objects.filter(subject_type=subject["subject_type"], subject_id=str(found.pk))[:EVENTS_SHOWN],
    }
    return pages.show(request, "maintenance/job.html", context, fragment="maintenance/_job.html")


def _moves(found: Maintenance) -> list[dict[str, Any]]:
    """The job's VMs, those that need attention first, with what their migration has come to."""
    rows = found.moves.select_related("vm__host", "source", "target", "choice_host", "operation")
    under_way = VmMigration.objects.filter(maintenance=found, ended_at__isnull=True)
    running: dict[UUID | None, VmMigration] = {one.operation_id: one for one in under_way}
    ordered = sorted(rows, key=lambda row: (_MOVES_ORDER[MoveStatus(row.status)], row.position))
    return [{"move": row, "migration": running.get(row.operation_id)} for row in ordered]


def _left(moves: list[dict[str, Any]]) -> dict[UUID, int]:
    """How many VMs have yet to leave each host."""
    counts: dict[UUID, int] = {}
    for item in moves:
        row = item["move"]
        if row.status in {MoveStatus.WAITING, MoveStatus.MOVING, MoveStatus.BLOCKED, MoveStatus.STOPPING}:
            counts[row.source_id] = counts.get(row.source_id, 0) + 1
    return counts


def _releasable(found: Maintenance, hosts: tuple[MaintenanceHost, ...]) -> bool:
    """Whether hosts are given back one by one: a job of one host, or of hosts all at once, is completed instead."""
    return found.status not in OVER and len(hosts) > 1


def _act(request: HttpRequest, job_id: UUID, act: Callable[[Maintenance], Any], text: str) -> HttpResponse:
    found = get_object_or_404(Maintenance, pk=job_id)
    other = act(found)
    target = other if isinstance(other, Maintenance) else found
    to = reverse("maintenance-job", args=[target.pk])
    if target.pk != found.pk and pages.wants_fragment(request):
        response = HttpResponse(status=204)
        response["HX-Redirect"] = to
        return response
    return pages.done(request, text, to=to)


@require_POST
@needs(Right.FLEET_MANAGE)
def cancel(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Ends the job; hosts are used again at once."""
    abort = request.POST.get("abort") == "on"
    by, now = actor_of(request), timezone.now()
    text = "The maintenance is cancelled; its hosts are used again."
    return _act(request, job_id, lambda one: verbs.cancel(one, abort_running=abort, by=by, now=now), text)


@require_POST
@needs(Right.FLEET_MANAGE)
def resume(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """A new job with what a cancelled one was left with."""
    by, now = actor_of(request), timezone.now()
    return _act(request, job_id, lambda one: verbs.resume(one, by=by, now=now), "It goes on, as a new job.")


@require_POST
@needs(Right.FLEET_MANAGE)
def complete(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The maintenance is done."""
    uncordon = request.POST.get("keep_cordoned") != "on"
    by, now = actor_of(request), timezone.now()
    text = "The maintenance is completed; its hosts are used again." if uncordon else "The maintenance is completed."
    return _act(request, job_id, lambda one: verbs.complete(one, by=by, now=now, uncordon=uncordon), text)


@require_POST
@needs(Right.FLEET_MANAGE)
def retry(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Tries every blocked VM again."""
    by, now = actor_of(request), timezone.now()
    return _act(request, job_id, lambda one: verbs.retry(one, by=by, now=now), "Blocked VMs are tried again.")


@require_POST
@needs(Right.FLEET_MANAGE)
def release(request: HttpRequest, job_id: UUID, host_id: UUID) -> HttpResponse:
    """One host is used again; the next one's turn comes."""
    host = get_object_or_404(Host, pk=host_id)
    by, now = actor_of(request), timezone.now()
    text = f"{host.name} is used again."
    return _act(request, job_id, lambda one: verbs.release_host(one, host=host, by=by, now=now), text)


@require_safe
@needs(Right.FLEET_MANAGE)
def homecoming(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Who would go home, and who would not."""
    found = get_object_or_404(Maintenance, pk=job_id)
    context = {"job": found, "homecoming": verbs.homecoming(found, now=timezone.now())}
    return pages.show(request, "maintenance/homecoming.html", context)


@require_POST
@needs(Right.FLEET_MANAGE)
def bring_home(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Sends the job's VMs back to where they were."""
    by, now = actor_of(request), timezone.now()
    return _act(request, job_id, lambda one: verbs.bring_home(one, by=by, now=now), "The VMs are on their way home.")


@require_POST
@needs(Right.FLEET_MANAGE)
def choose(request: HttpRequest, job_id: UUID, move_id: UUID) -> HttpResponse:
    """One remedy for one VM, or another try: of its move (``retry``), or of its shutdown (``ask-again``)."""
    row = get_object_or_404(MaintenanceMove.objects.select_related("vm", "maintenance"), pk=move_id, maintenance=job_id)
    form = ChooseForm(request.POST)
    if not form.is_valid():
        raise Invalid(
            "Choose one of the remedies that are offered.", fields={k: list(v) for k, v in form.errors.items()}
        )
    wanted, host = form.cleaned_data["choice"], form.cleaned_data["host"]
    by, now, to = actor_of(request), timezone.now(), reverse("maintenance-job", args=[job_id])
    if wanted == RETRY:
        verbs.retry(row.maintenance, move=row, by=by, now=now)
        return pages.done(request, f"{row.vm.name} is tried again.", to=to)
    if wanted in (Choice.STOP, ASK_AGAIN):
        demand(request.user, Right.HOSTS_FENCE)
    if wanted == ASK_AGAIN:
        verbs.ask_again(row, by=by, now=now)
        return pages.done(request, f"{row.vm.name} is asked to shut down.", to=to)
    verbs.choose(row, choice=wanted, host=host, by=by, now=now)
    return pages.done(request, f"{row.vm.name}: {Choice(wanted).label.lower()}.", to=to)
