"""Offerings: what VMs may be, and who uses each."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of
from cloudops.inventory import offerings as verbs
from cloudops.inventory.forms import OfferingForm, kept_values
from cloudops.inventory.models import Offering

_ORDERS = {
    "name": ("name",),
    "vcpus": ("vcpus", "memory_mib", "name"),
    "memory": ("memory_mib", "vcpus", "name"),
}
_COLUMNS = [
    ("offering", lambda o: o.name),
    ("vCPUs", lambda o: o.vcpus),
    ("memory MiB", lambda o: o.memory_mib),
    ("CPU MHz", lambda o: o.cpu_mhz),
    ("dynamic scaling", lambda o: o.dynamic_scaling),
    ("host tags", lambda o: " ".join(tag.name for tag in o.host_tags.all())),
    ("enabled", lambda o: o.enabled),
    ("VMs", lambda o: o.vm_count),
]


def _counted() -> QuerySet[Offering]:
    counts = {"vm_count": Count("vms", distinct=True), "project_count": Count("vms__project", distinct=True)}
    return Offering.objects.annotate(**counts).prefetch_related("host_tags", "soft_host_tags")


def _found(wanted: dict[str, str]) -> QuerySet[Offering]:
    found = _counted()
    if text := wanted.get("q"):
        found = found.filter(Q(name__icontains=text) | Q(description__icontains=text))
    if state := wanted.get("state"):
        found = found.filter(enabled=state == "enabled")
    if "dynamic" in wanted:
        found = found.filter(dynamic_scaling=True)
    return found


@require_safe
@needs(Right.FLEET_VIEW)
def offerings(request: HttpRequest) -> HttpResponse:
    """Every offering with its use."""
    wanted = pages.filters(request, "q", "state", "dynamic")
    found = _found(wanted)
    order = listing.order_of(request, _ORDERS, "vcpus")
    if request.GET.get("format") == "csv":
        return listing.csv_response("offerings", _COLUMNS, found.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "filtered": bool(wanted)}
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
    """One offering and who uses it."""
    offering = get_object_or_404(_counted(), pk=offering_id)
    vms = offering.vms.select_related("host", "project").order_by("name", "id")[:200]
    context = {"offering": offering, "vms": vms}
    return pages.show(request, "inventory/offering.html", context)


@needs(Right.OFFERINGS_MANAGE)
def edit(request: HttpRequest, offering_id: UUID) -> HttpResponse:
    """Changes an offering; VMs that have it keep their size."""
    offering = get_object_or_404(_counted(), pk=offering_id)
    kept = kept_values(offering, OfferingForm, verbs.TAG_FIELDS)
    form = OfferingForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        changed = pages.attempt(
            form,
            lambda: verbs.change(offering, by=actor_of(request), now=timezone.now(), **form.cleaned_data) or offering,
        )
        if changed is not None:
            return pages.done(request, f"{offering} is saved.", to=reverse("offering", args=[offering_id]))
    context = {"form": form, "offering": get_object_or_404(_counted(), pk=offering_id)}
    return pages.show(request, "inventory/offering_form.html", context)


@require_POST
@needs(Right.OFFERINGS_MANAGE)
def delete(request: HttpRequest, offering_id: UUID) -> HttpResponse:
    """Removes an offering that no VM has."""
    offering = get_object_or_404(Offering, pk=offering_id)
    verbs.delete(offering, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{offering} is gone.", to=reverse("offerings"))
