"""Offerings: what VMs may be, what they were before, and who uses each."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of
from cloudops.inventory import offering_rules
from cloudops.inventory import offerings as verbs
from cloudops.inventory.forms import OfferingForm, kept_values
from cloudops.inventory.models import Offering, OfferingKind, Vm

_ORDERS = {
    "name": ("name",),
    "vcpus": ("vcpus", "memory_mib", "name"),
    "memory": ("memory_mib", "vcpus", "name"),
}
_COLUMNS = [
    ("offering", lambda o: o.name),
    ("kind", lambda o: o.kind),
    ("vCPUs", lambda o: o.vcpus),
    ("most vCPUs", lambda o: o.max_vcpus),
    ("memory MiB", lambda o: o.memory_mib),
    ("most memory MiB", lambda o: o.max_memory_mib),
    ("CPU MHz", lambda o: o.cpu_mhz),
    ("hard CPU limit", lambda o: o.cpu_cap),
    ("dynamic scaling", lambda o: o.dynamic_scaling),
    ("host tags", lambda o: " ".join(tag.name for tag in o.host_tags.all())),
    ("enabled", lambda o: o.enabled),
    ("version", lambda o: o.version),
    ("VMs", lambda o: o.vm_count),
    ("VMs on an older version", lambda o: o.older_count),
]
VMS_SHOWN = 200
VERSIONS_SHOWN = 30
_IS_OLDER = Q(offering_version__lt=F("offering__version"))


def _counted() -> QuerySet[Offering]:
    counts = {
        "vm_count": Count("vms", distinct=True),
        "project_count": Count("vms__project", distinct=True),
        "older_count": Count("vms", filter=Q(vms__offering_version__lt=F("version")), distinct=True),
    }
    return Offering.objects.annotate(**counts).prefetch_related("host_tags", "soft_host_tags")


def _found(wanted: dict[str, str]) -> QuerySet[Offering]:
    found = _counted()
    if text := wanted.get("q"):
        found = found.filter(Q(name__icontains=text) | Q(description__icontains=text))
    if state := wanted.get("state"):
        found = found.filter(enabled=state == "enabled")
    if kind := wanted.get("kind"):
        found = found.filter(kind=kind)
    if "dynamic" in wanted:
        found = found.filter(dynamic_scaling=True)
    return found


@require_safe
@needs(Right.FLEET_VIEW)
def offerings(request: HttpRequest) -> HttpResponse:
    """Every offering with its use."""
    wanted = pages.filters(request, "q", "state", "dynamic", "kind")
    found = _found(wanted)
    order = listing.order_of(request, _ORDERS, "vcpus")
    if request.GET.get("format") == "csv":
        return listing.csv_response("offerings", _COLUMNS, found.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "filtered": bool(wanted), "kinds": OfferingKind.choices}
    return pages.show(request, "inventory/offerings.html", context, fragment="inventory/_offerings.html")


@needs(Right.OFFERINGS_MANAGE)
def add(request: HttpRequest) -> HttpResponse:
    """A new offering."""
    form = OfferingForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = pages.attempt(form, lambda: verbs.create(by=actor_of(request), now=timezone.now(), **form.cleaned_data))
        if made is not None:
            return pages.done(request, f"{made} can be chosen now.", to=reverse("offerings"))
    return pages.show(request, "inventory/offering_form.html", {"form": form})


@require_safe
@needs(Right.FLEET_VIEW)
def offering(request: HttpRequest, offering_id: UUID) -> HttpResponse:
    """One offering: what it is and was, and who uses it (``?older=1``: who has an older version)."""
    offering = get_object_or_404(_counted(), pk=offering_id)
    wanted = pages.filters(request, "older")
    found = Vm.objects.filter(offering=offering).select_related("host", "project")
    vms = found.filter(_IS_OLDER) if wanted else found
    bounds = verbs.bounds(offering)
    context = {
        "offering": offering,
        "versions": _versions(offering),
        "rows": [_vm_row(vm, offering, bounds) for vm in vms.order_by("name", "id")[:VMS_SHOWN]],
        "most": VMS_SHOWN,
        "filtered": bool(wanted),
    }
    return pages.show(request, "inventory/offering.html", context)


def _vm_row(vm: Vm, offering: Offering, bounds: verbs.Bounds) -> dict[str, Any]:
    """``differs``: it has the present version, and a size that this does not give."""
    older = vm.offering_version is not None and vm.offering_version < offering.version
    return {"vm": vm, "older": older, "differs": not older and not bounds.hold(vm.vcpus, vm.memory_mib)}


def _versions(offering: Offering) -> list[dict[str, Any]]:
    """The newest first, each with what it changed (None: the first one) and how many VMs have it."""
    kept = list(offering.versions.all()[: VERSIONS_SHOWN + 1])
    use = dict(offering.vms.order_by().values_list("offering_version").annotate(count=Count("pk")))
    before = [*kept, None][1:]
    return [
        {
            "version": row,
            "words": offering_rules.words(row.values),
            "changes": offering_rules.changes(older.values, row.values) if older else None,
            "vms": use.get(row.version, 0),
        }
        for row, older in zip(kept, before, strict=True)
    ][:VERSIONS_SHOWN]


@needs(Right.OFFERINGS_MANAGE)
def edit(request: HttpRequest, offering_id: UUID) -> HttpResponse:
    """Changes an offering; VMs that have it keep their size."""
    offering = get_object_or_404(_counted(), pk=offering_id)
    kept = kept_values(offering, OfferingForm, verbs.TAG_FIELDS)
    form = OfferingForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        changed = pages.attempt(
            form,
            lambda: verbs.change(offering, by=actor_of(request), now=timezone.now(), **form.cleaned_data),
        )
        if changed is not None:
            return pages.done(request, _saved(offering, changed), to=reverse("offering", args=[offering_id]))
    context = {"form": form, "offering": get_object_or_404(_counted(), pk=offering_id)}
    return pages.show(request, "inventory/offering_form.html", context)


def _saved(before: Offering, after: Offering) -> str:
    if before.version == after.version:
        return f"{after} is saved."
    return f"{after} is saved as version {after.version}. VMs that have it keep what they were given."


@require_POST
@needs(Right.OFFERINGS_MANAGE)
def delete(request: HttpRequest, offering_id: UUID) -> HttpResponse:
    """Removes an offering that no VM has."""
    offering = get_object_or_404(Offering, pk=offering_id)
    verbs.delete(offering, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{offering} is gone.", to=reverse("offerings"))
