"""Affinity groups: VMs that belong together on one host, or apart on different ones."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of
from placement import groups as verbs
from placement.forms import GroupForm
from placement.models import AffinityGroup

_ORDERS = {"name": ("name", "id")}


def _counted() -> QuerySet[AffinityGroup]:
    return AffinityGroup.objects.annotate(vm_count=Count("vms")).prefetch_related("vms__host")


@require_safe
@needs(Right.FLEET_VIEW)
def groups(request: HttpRequest) -> HttpResponse:
    """Every group, its VMs and whether its rule holds now."""
    wanted = pages.filters(request, "q", "kind")
    found = _counted()
    if text := wanted.get("q"):
        found = found.filter(name__icontains=text)
    if kind := wanted.get("kind"):
        found = found.filter(kind=kind)
    order = listing.order_of(request, _ORDERS, "name")
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    broken = verbs.broken(page.rows)
    context = {
        "page": page,
        "rows": [{"group": group, "broken": broken.get(group.pk, "")} for group in page.rows],
        "filtered": bool(wanted),
    }
    return pages.show(request, "placement/groups.html", context, fragment="placement/_groups.html")


@needs(Right.FLEET_MANAGE)
def add(request: HttpRequest) -> HttpResponse:
    """A new group."""
    form = GroupForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = pages.attempt(form, lambda: verbs.create(by=actor_of(request), now=timezone.now(), **form.cleaned_data))
        if made is not None:
            return pages.done(request, f"{made} holds from now on.", to=reverse("affinity-groups"))
    return pages.show(request, "placement/group_form.html", {"form": form})


@needs(Right.FLEET_MANAGE)
def edit(request: HttpRequest, group_id: UUID) -> HttpResponse:
    """Changes a group; its VMs stay where they are until they are placed again."""
    group = get_object_or_404(_counted(), pk=group_id)
    kept = {"name": group.name, "kind": group.kind, "strict": group.strict, "vms": list(group.vms.all())}
    form = GroupForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        changed = pages.attempt(
            form,
            lambda: verbs.change(group, by=actor_of(request), now=timezone.now(), **form.cleaned_data) or group,
        )
        if changed is not None:
            return pages.done(request, f"{changed} is saved.", to=reverse("affinity-groups"))
    return pages.show(request, "placement/group_form.html", {"form": form, "group": group})


@require_POST
@needs(Right.FLEET_MANAGE)
def delete(request: HttpRequest, group_id: UUID) -> HttpResponse:
    """Removes a group; its VMs stay where they are."""
    group = get_object_or_404(AffinityGroup, pk=group_id)
    verbs.delete(group, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{group} is gone.", to=reverse("affinity-groups"))
