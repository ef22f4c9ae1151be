"""How one cluster's placement differs from the installation's."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages, runtime
from cloudops.core.requests import actor_of
from cloudops.inventory.models import Cluster
from placement import policies as verbs
from placement.forms import PolicyForm
from placement.models import ClusterPolicy


@needs(Right.FLEET_MANAGE)
def policy(request: HttpRequest, cluster_id: UUID) -> HttpResponse:
    """A cluster's policy; empty fields follow the installation's settings, which are shown beside them."""
    cluster = get_object_or_404(Cluster, pk=cluster_id)
    kept = PolicyForm.kept(ClusterPolicy.objects.filter(cluster=cluster).first())
    form = PolicyForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        saved = pages.attempt(
            form,
            lambda: verbs.set_policy(cluster, by=actor_of(request), now=timezone.now(), **form.cleaned_data) or True,
        )
        if saved is not None:
            return pages.done(request, f"The policy of {cluster} is saved.", to=reverse("placement"))
    context = {"form": form, "cluster": cluster, "settings": runtime.current()}
    return pages.show(request, "placement/policy.html", context)
