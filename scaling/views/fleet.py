"""Many VMs: which of them could grow to a size, and how far the VMs of a cluster can grow live."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from cloudops.accounts.models import Project
from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages, runtime
from cloudops.core.models import RuntimeSettings
from cloudops.core.requests import actor_of
from cloudops.inventory import access
from cloudops.inventory.models import Cluster, Host, Vm
from scaling import bulk, headroom, subjects, telling
from scaling.bulk import Verdict
from scaling.forms import HEADROOM, BulkForm, HeadroomForm
from scaling.models import ClusterHeadroom
from scaling.telling import PlanTold
from scaling.values import Reach, Wanted

SHOWN: Final = 200
NARROWING: Final = ("q", "cluster", "host", "project")


class Row:
    """One VM of the answer."""

    def __init__(self, found: Verdict) -> None:
        self.vm = found.vm
        self.plan: PlanTold = telling.tell(found.plan, sees_fleet=True, with_token=False)

    @property
    def why(self) -> str:
        return self.plan.reasons[0].words if self.plan.reasons else ""

    @property
    def remedies(self) -> str:
        return " ".join(self.plan.reasons[0].remedies) if self.plan.reasons else ""

    @property
    def needs_more(self) -> str:
        """What it would get beyond what it has."""
        changed = [one for one in self.plan.measured if one.changes]
        return ", ".join(
            f"{telling.amount(one.current, one.unit)} → {telling.amount(one.given, one.unit)}"
            if one.current
            else telling.amount(one.given, one.unit)
            for one in changed
        )


_COLUMNS: Final = [
    ("VM", lambda r: r.vm.name),
    ("host", lambda r: r.vm.host.name),
    ("cluster", lambda r: r.vm.host.cluster.name),
    ("project", lambda r: r.vm.project),
    ("reached", lambda r: r.plan.word),
    ("changes", lambda r: r.needs_more),
    ("why", lambda r: " ".join(one.words for one in r.plan.reasons)),
    ("what helps", lambda r: " ".join(dict.fromkeys(w for one in r.plan.reasons for w in one.remedies))),
    ("id", lambda r: r.vm.pk),
]


@require_safe
@needs(Right.FLEET_VIEW)
def preflight(request: HttpRequest) -> HttpResponse:
    """Which of these VMs could grow to a size, and how; nothing is touched."""
    now, settings = timezone.now(), runtime.current()
    asked = "offering" in request.GET
    form = BulkForm(request.GET if asked else None)
    narrowed = pages.filters(request, *NARROWING)
    context: dict[str, Any] = {
        "form": form,
        "asked": asked,
        "filtered": bool(narrowed),
        "clusters": _clusters(),
        "hosts": Host.objects.only("id", "name").order_by("name", "id"),
        "projects": Project.objects.only("id", "name"),
        "settings": settings,
    }
    if asked and form.is_valid():
        wanted = pages.attempt(form, lambda: _wanted(form))
        if wanted is not None:
            found = _verdicts(request, wanted, settings, now)
            if request.GET.get("format") == "csv":
                return listing.csv_response("scaling", _COLUMNS, found.pop("found"))
            context |= found
    return pages.show(request, "scaling/fleet.html", context, fragment="scaling/_fleet.html")


def _wanted(form: BulkForm) -> Wanted:
    sizes = {name: form.cleaned_data[name] for name in ("vcpus", "memory_mib", "cpu_mhz")}
    return subjects.wanted(form.cleaned_data["offering"], **sizes)


def narrowed(vms: QuerySet[Vm], wanted: dict[str, str]) -> QuerySet[Vm]:
    """By cluster, host, project ("none": without one) and words in the name."""
    try:
        for name, column in (("cluster", "host__cluster_id"), ("host", "host_id")):
            if name in wanted:
                vms = vms.filter(**{column: wanted[name]})
        if project := wanted.get("project"):
            vms = vms.filter(project=None) if project == "none" else vms.filter(project_id=project)
    except ValidationError:
        return vms.none()
    if text := wanted.get("q"):
        vms = vms.filter(Q(name__icontains=text) | Q(ref__startswith=text))
    return vms


def _verdicts(request: HttpRequest, wanted: Wanted, settings: RuntimeSettings, now: datetime) -> dict[str, Any]:
    rows = narrowed(access.visible_vms(request.user), pages.filters(request, *NARROWING)).order_by("name", "id")
    vms = list(rows[: bulk.MOST_VMS + 1])
    found = bulk.verdicts(vms[: bulk.MOST_VMS], wanted, settings=settings, now=now)
    counts = bulk.counts(found)
    only = request.GET.get("reach", "")
    chosen = [Row(one) for one in found if only in ("", str(one.plan.reach))]
    chosen.sort(key=lambda row: list(Reach).index(row.plan.reach))
    return {
        "found": chosen,
        "rows": chosen[:SHOWN],
        "more": max(0, len(chosen) - SHOWN),
        "too_many": len(vms) > bulk.MOST_VMS,
        "most": bulk.MOST_VMS,
        "total": len(found),
        "wanted_words": f"{wanted.offering_name}, {telling.size_words(wanted.size)}",
        "counts": [
            {"reach": str(reach), "label": telling.GROUPS[reach], "count": count} for reach, count in counts.items()
        ],
    }


def _clusters() -> list[dict[str, Any]]:
    """Each cluster with its own headroom in words."""
    own = {row.cluster_id: row for row in ClusterHeadroom.objects.all()}
    return [
        {"cluster": one, "words": headroom_words(own.get(one.pk))}
        for one in Cluster.objects.order_by("position", "name")
    ]


def headroom_words(row: ClusterHeadroom | None) -> str:
    """ "4 times the memory, 16 vCPUs"; empty when it follows the installation."""
    if row is None:
        return ""
    said = []
    if row.max_memory_mib:
        said.append(telling.amount(row.max_memory_mib, "MiB"))
    elif row.memory_factor:
        said.append(f"{row.memory_factor:g} times the memory")
    if row.max_vcpus:
        said.append(telling.amount(row.max_vcpus, "vCPU"))
    elif row.vcpu_factor:
        said.append(f"{row.vcpu_factor:g} times the vCPUs")
    return ", ".join(said)


@needs(Right.FLEET_MANAGE)
def cluster_headroom(request: HttpRequest, cluster_id: UUID) -> HttpResponse:
    """How far the VMs of a cluster can grow live."""
    cluster = get_object_or_404(Cluster, pk=cluster_id)
    row = headroom.of_cluster(cluster)
    form = HeadroomForm(request.POST or None, initial={name: getattr(row, name) for name in HEADROOM})
    if request.method == "POST" and form.is_valid():
        by, now = actor_of(request), timezone.now()
        if pages.attempt(form, lambda: headroom.set_for_cluster(cluster, **form.values, by=by, now=now)):
            return pages.done(request, f"The headroom of {cluster} is saved.", to=reverse("scaling"))
    context = {"cluster": cluster, "form": form, "title": f"Headroom of {cluster}", "back": reverse("scaling")}
    return pages.show(request, "scaling/headroom.html", context)
