"""Clusters: order, names, and what is in them."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages
from cloudops.core.requests import actor_of
from cloudops.inventory import clusters as verbs
from cloudops.inventory.forms import ClusterForm
from cloudops.inventory.models import Cluster, Connection


def _counted() -> QuerySet[Cluster]:
    return Cluster.objects.annotate(
        host_count=Count("hosts"),
        up_count=Count("hosts", filter=Q(hosts__connection=Connection.UP)),
        cpu_threads=Sum("hosts__cpu_threads", default=0),
        memory_mib=Sum("hosts__memory_mib", default=0),
    ).order_by("position", "name")


@require_safe
@needs(Right.FLEET_VIEW)
def clusters(request: HttpRequest) -> HttpResponse:
    """Every cluster in the order of the screens."""
    context = {"clusters": _counted(), "form": ClusterForm()}
    return pages.show(request, "inventory/clusters.html", context, fragment="inventory/_clusters.html")


@needs(Right.FLEET_MANAGE)
def add(request: HttpRequest) -> HttpResponse:
    """A new cluster."""
    form = ClusterForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = pages.attempt(form, lambda: verbs.create(by=actor_of(request), now=timezone.now(), **form.cleaned_data))
        if made is not None:
            return pages.done(request, f"{made} exists. Add hosts to it.", to=reverse("clusters"))
    return pages.show(request, "inventory/cluster_form.html", {"form": form})


@needs(Right.FLEET_MANAGE)
def edit(request: HttpRequest, cluster_id: UUID) -> HttpResponse:
    """A cluster's name, place and description."""
    cluster = get_object_or_404(_counted(), pk=cluster_id)
    kept = {name: getattr(cluster, name) for name in ClusterForm.base_fields}
    form = ClusterForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        values = {name: value for name, value in form.cleaned_data.items() if value is not None}
        changed = pages.attempt(
            form, lambda: verbs.change(cluster, by=actor_of(request), now=timezone.now(), **values) or cluster
        )
        if changed is not None:
            return pages.done(request, f"{cluster} is saved.", to=reverse("clusters"))
    context = {"form": form, "cluster": get_object_or_404(_counted(), pk=cluster_id)}
    return pages.show(request, "inventory/cluster_form.html", context)


@require_POST
@needs(Right.FLEET_MANAGE)
def delete(request: HttpRequest, cluster_id: UUID) -> HttpResponse:
    """Removes an empty cluster."""
    cluster = get_object_or_404(Cluster, pk=cluster_id)
    verbs.delete(cluster, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{cluster} is gone.", to=reverse("clusters"))
