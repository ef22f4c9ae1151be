"""The fleet and one host: numbers of the inventory beside the console slots."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages, runtime
from cloudops.core.models import Event, RuntimeSettings, subject_of
from cloudops.hypervisors.port import Kind
from cloudops.inventory import endpoints, tags
from cloudops.inventory.certificates import offered
from cloudops.inventory.models import Host
from consoles import history, limits, overview
from consoles.models import ConsoleSession, ForeignConnection, Status

_COLUMNS = [
    ("host", lambda r: r.host.name),
    ("cluster", lambda r: r.host.cluster.name),
    ("state", lambda r: r.state),
    ("VMs", lambda r: r.load.vms),
    ("VMs running", lambda r: r.load.running),
    ("vCPUs of running VMs", lambda r: r.load.vcpus),
    ("CPU threads", lambda r: r.host.total_cpu_threads),
    ("memory used MiB", lambda r: r.memory_used_mib),
    ("memory MiB", lambda r: r.host.total_memory_mib),
    ("consoles", lambda r: r.usage.in_use),
    ("consoles idle", lambda r: r.usage.idle),
    ("console limit", lambda r: r.usage.limit),
]
VMS_SHOWN = 100
EVENTS_SHOWN = 20


@require_safe
@needs(Right.FLEET_VIEW)
def fleet(request: HttpRequest) -> HttpResponse:
    """Every host by cluster with live console counts."""
    now, wanted = timezone.now(), pages.filters(request, *overview.HOST_FILTERS)
    picture = overview.fleet(now=now, wanted=wanted, **({"most": 1_000_000} if "all" in request.GET else {}))
    if request.GET.get("format") == "csv":
        rows = [row for cluster in picture.clusters for row in cluster.hosts]
        return listing.csv_response("fleet", _COLUMNS, rows)
    context = {"fleet": picture, "tags": tags.names(), "filtered": bool(wanted), "now": now}
    return pages.show(request, "consoles/fleet.html", context, fragment="consoles/_fleet.html")


def _host(host_id: UUID) -> Host:
    return get_object_or_404(Host.objects.select_related("endpoint", "cluster"), pk=host_id)


@require_safe
@needs(Right.FLEET_VIEW)
def host(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """One host: facts, addresses, capacity, console slots, VMs and what happened."""
    host, now, setting = _host(host_id), timezone.now(), runtime.current()
    sessions = list(ConsoleSession.objects.current(now).filter(host=host).for_display().order_by("created_at", "id"))
    foreign = list(limits.fresh_foreign(setting, now).filter(host=host).select_related("vm"))
    vms = list(host.vms.select_related("project", "offering").order_by("name", "id")[: VMS_SHOWN + 1])
    subject = subject_of(host)
    tag_lines = list(host.host_tags.select_related("tag"))
    context = {
        "row": overview.host_row(host, now=now),
        "host": host,
        "now": now,
        "settings": setting,
        "sessions": sessions,
        "slots": slots(sessions, foreign, setting, now),
        "foreign": foreign,
        "vms": vms[:VMS_SHOWN],
        "more_vms": len(vms) > VMS_SHOWN,
        "events": Event.objects.filter(subject_type=subject["subject_type"], subject_id=str(host.pk))[:EVENTS_SHOWN],
        "management_address": endpoints.management_address(host),
        "console_base_url": settings.CONSOLE_BASE_URL,
        "siblings": host.endpoint.hosts.count() - 1,
        "is_vsphere": host.endpoint.kind == Kind.VSPHERE,
        "certificate": offered(host.endpoint),
        "tag_lines": tag_lines,
        "own_tags": [line.tag.name for line in tag_lines if line.own],
        "has_platform_tags": any(line.platform for line in tag_lines),
    }
    return pages.show(request, "consoles/host.html", context, fragment="consoles/_host.html")


def slots(
    sessions: list[ConsoleSession], foreign: list[ForeignConnection], setting: RuntimeSettings, now: datetime
) -> list[dict[str, Any]]:
    """The cells of a slot strip: who, on which VM, how idle, since when."""
    cells = [
        {
            "state": _cell_state(session, setting, now),
            "user": session.user.get_username(),
            "vm": session.vm.name,
            "idle_seconds": session.idle_seconds(now) if session.last_input_at else None,
            "since": session.connected_at or session.created_at,
            "url": reverse("vm", args=[session.vm_id]),
        }
        for session in sessions
        if session.shown_status(now) != Status.DETACHED
    ]
    if setting.console_count_foreign:
        cells += [
            {"state": "foreign", "user": row.words, "vm": row.vm.name, "since": row.first_seen_at, "url": ""}
            for row in foreign
        ]
    return cells


def _cell_state(session: ConsoleSession, setting: RuntimeSettings, now: datetime) -> str:
    if session.shown_status(now) == Status.PENDING:
        return "pending"
    return "idle" if session.is_shown_idle(now, setting.console_idle_warning_seconds) else "active"


@require_safe
@needs(Right.FLEET_VIEW)
def host_chart(request: HttpRequest, host_id: UUID) -> JsonResponse:
    """Open consoles of a host over the day, for the chart."""
    host = get_object_or_404(Host, pk=host_id)
    chart = history.open_per_host(now=timezone.now(), host=host)
    return JsonResponse(chart | {"limit": limits.host_limit(host, runtime.current())})
