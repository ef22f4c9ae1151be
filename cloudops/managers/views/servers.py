"""The processes of every management server: who is alive, and who holds consoles."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages
from cloudops.core.requests import actor_of
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess

SHOWN = 200


def _row(process: Any, now: datetime) -> dict[str, Any]:
    alive = process.is_alive(now)
    if process.stopped_at is not None:
        state = "stopped"
    elif not alive:
        state = "lapsed"
    else:
        state = "draining" if process.draining else "up"
    return {
        "process": process,
        "state": state,
        "held": process.held if alive else 0,
        "lease_seconds": max(0, round((process.lease_until - now).total_seconds())),
    }


@require_safe
@needs(Right.FLEET_VIEW)
def servers(request: HttpRequest) -> HttpResponse:
    """Every process by server, the living ones first."""
    now = timezone.now()
    held = Count("console_sessions", filter=Q(console_sessions__status__in=["connecting", "active"]))
    found = ServerProcess.objects.annotate(held=held).order_by("server_name", "role", "-started_at")
    rows = [_row(process, now) for process in found[:SHOWN]]
    alive = [row for row in rows if row["state"] in {"up", "draining"}]
    context = {
        "rows": rows,
        "servers": len({row["process"].server_name for row in alive}),
        "alive": len(alive),
        "held": sum(row["held"] for row in rows),
        "draining": sum(row["state"] == "draining" for row in rows),
        "versions": sorted({row["process"].version for row in alive}),
        "web_alive": sum(row["process"].role == ServerProcess.Role.WEB for row in alive),
    }
    return pages.show(request, "managers/servers.html", context, fragment="managers/_servers.html")


@require_POST
@needs(Right.SETTINGS_MANAGE)
def drain(request: HttpRequest, process_id: UUID) -> HttpResponse:
    """A process takes no new consoles."""
    process = get_object_or_404(ServerProcess, pk=process_id)
    processes.drain(process=process, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{process} takes no new consoles.", to="/servers/")


@require_POST
@needs(Right.SETTINGS_MANAGE)
def undrain(request: HttpRequest, process_id: UUID) -> HttpResponse:
    """A process takes consoles again."""
    process = get_object_or_404(ServerProcess, pk=process_id)
    processes.undrain(process=process, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{process} takes consoles again.", to="/servers/")
