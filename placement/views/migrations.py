"""Migrations: those that run, with their progress, and those that ended; and moving several VMs at once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs, person
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages, runtime
from cloudops.core.requests import actor_of
from cloudops.inventory import access
from cloudops.inventory.models import Vm
from placement import foresight, vm_migrations
from placement.forms_migrations import HowForm
from placement.models import VmMigration
from placement.views import telling_migrations
from placement.vm_migrations import Options

_ORDERS = {"created": ("created_at", "operation_id")}
RUNNING_SHOWN = 50


def _found(wanted: dict[str, str]) -> QuerySet[VmMigration]:
    found = telling_migrations.shown()
    try:
        for name, column in (("vm", "vm_id"), ("maintenance", "maintenance_id")):
            if name in wanted:
                found = found.filter(**{column: wanted[name]})
        if host := wanted.get("host"):
            found = found.filter(Q(source_id=host) | Q(target_id=host))
    except ValidationError:
        return found.none()
    if text := wanted.get("q"):
        names = Q(vm__name__icontains=text) | Q(source__name__icontains=text) | Q(target__name__icontains=text)
        found = found.filter(names)
    return found


@require_safe
@needs(Right.FLEET_VIEW)
def migrations(request: HttpRequest) -> HttpResponse:
    """What moves now, above; what has moved, below, the latest first."""
    wanted = pages.filters(request, "q", "state", "vm", "host", "maintenance")
    found = _found(wanted)
    running = found.filter(ended_at__isnull=True).order_by("created_at", "operation_id")
    past = found.filter(ended_at__isnull=False)
    if state := wanted.get("state"):
        past = past.filter(operation__status=state)
    order = listing.order_of(request, _ORDERS, "-created")
    page = listing.page(past, order=order, cursor=request.GET.get("cursor", ""))
    moving = list(running[: RUNNING_SHOWN + 1])
    context = {
        "page": page,
        "past": telling_migrations.lines(page.rows),
        "moving": telling_migrations.lines(moving[:RUNNING_SHOWN]),
        "more_moving": len(moving) > RUNNING_SHOWN,
        "filtered": bool(wanted),
        "wanted": wanted,
    }
    return pages.show(request, "placement/migrations.html", context, fragment="placement/_migrations.html")


@require_POST
@needs(Right.FLEET_MANAGE)
def abort(request: HttpRequest, migration_id: UUID) -> HttpResponse:
    """Asks for the end of a migration; the VM stays at its source."""
    found = get_object_or_404(VmMigration.objects.select_related("vm", "operation"), pk=migration_id)
    vm_migrations.abort(found, by=actor_of(request), now=timezone.now())
    text = f"The migration of {found.vm.name} is being aborted."
    return pages.done(request, text, to=pages.back(request, reverse("migrations")), level="info")


@needs(Right.FLEET_MANAGE)
def several(request: HttpRequest) -> HttpResponse:
    """Several VMs, each to its best host: first where each would go, then, confirmed, what became of each."""
    vms, settings = _chosen(request), runtime.current()
    confirmed = request.method == "POST" and "confirm" in request.POST
    form = HowForm(request.POST if confirmed else None, initial=HowForm.kept(settings))
    context: dict[str, Any] = {"form": form, "settings": settings, "most": foresight.MOST_VMS}
    if confirmed and form.is_valid():
        options = Options.of(settings, **form.options)
        outcomes = vm_migrations.bulk(vms, to=None, options=options, by=actor_of(request), now=timezone.now())
        started = [one for one in outcomes if one.operation is not None]
        context |= {"outcomes": outcomes, "started": len(started), "refused": len(outcomes) - len(started)}
        return pages.show(request, "placement/migrate_outcome.html", context)
    foreseen = foresight.foresee(vms, options=Options.of(settings), now=timezone.now())
    movable = sum(one.moves for one in foreseen)
    context |= {"foreseen": foreseen, "movable": movable, "staying": len(foreseen) - movable}
    return pages.show(request, "placement/migrate_several.html", context)


def _chosen(request: HttpRequest) -> list[Vm]:
    """The VMs that ``ids`` names, in the order of their names; unknown ids are left out."""
    given = request.POST if request.method == "POST" else request.GET
    ids = []
    for text in given.getlist("ids")[: foresight.MOST_VMS]:
        try:
            ids.append(UUID(text))
        except ValueError:
            continue
    return list(access.visible_vms(person(request)).filter(pk__in=ids).order_by("name", "pk"))
