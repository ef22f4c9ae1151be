"""The placement explorer: what every cluster and host has promised, and what was decided lately."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages, runtime
from placement import capacity
from placement.models import ClusterPolicy, Decision
from placement.views import room

HOSTS_SHOWN = 50
DECISIONS_SHOWN = 8


@require_safe
@needs(Right.FLEET_VIEW)
def explorer(request: HttpRequest) -> HttpResponse:
    """Clusters in their order, each host's room, and the last decisions."""
    wanted = pages.filters(request, "cluster", "all")
    found = capacity.overview(cluster_ids=_ids(wanted.get("cluster")), now=timezone.now())
    limit = 10_000 if "all" in wanted else HOSTS_SHOWN
    settings = runtime.current()
    policies = {policy.cluster_id: policy for policy in ClusterPolicy.objects.all()}
    context = {
        "groups": [
            {"shown": room.cluster_rows(cluster, limit=limit), "policy": policies.get(cluster.cluster_id)}
            for cluster in found
        ],
        "counts": room.counts(found),
        "settings": settings,
        "decisions": Decision.objects.select_related("vm", "host").defer("spec", "changes")[:DECISIONS_SHOWN],
        "filtered": bool(wanted),
    }
    return pages.show(request, "placement/explorer.html", context, fragment="placement/_explorer.html")


def _ids(cluster: str | None) -> list[UUID] | None:
    if not cluster:
        return None
    try:
        return [UUID(cluster)]
    except ValueError:
        return []
