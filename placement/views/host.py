"""A host's placement: what it has promised, to whom, and what holds it. Fencing one that is dead."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Case, Count, Q, Sum, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages
from cloudops.core.requests import actor_of
from cloudops.inventory import signals
from cloudops.inventory.models import Connection, Host
from cloudops.inventory.notices import ask
from placement import capacity, holds, reconciling
from placement import fence as verbs
from placement.forms_migrations import FenceForm
from placement.models import Claim, ClaimKind
from placement.views import room, telling_migrations

CLAIMS_SHOWN = 12
ALL_CLAIMS = 1_000
MIGRATIONS_SHOWN = 10
DRIFT_SHOWN = 10


def _host(host_id: UUID) -> Host:
    return get_object_or_404(Host.objects.select_related("cluster", "endpoint", "capacity"), pk=host_id)


@require_safe
@needs(Right.FLEET_VIEW)
def card(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """The placement card of the host page; as a page of its own it lists every claim."""
    host, now = _host(host_id), timezone.now()
    row = room.host_row(capacity.of_host(host))
    whole = not pages.wants_fragment(request)
    most = ALL_CLAIMS if whole else CLAIMS_SHOWN
    claims = list((_claims(host) if whole else _special(host))[: most + 1])
    moving = telling_migrations.shown().filter(ended_at__isnull=True)
    drift = [one for one in reconciling.drift(now=now) if one.host_id == host.pk]
    context = {
        "host": host,
        "row": row,
        "hold": holds.on_host_hold(host_ids=[host.pk]).get(host.pk),
        "claims": claims[:most],
        "more_claims": len(claims) > most,
        "sums": Claim.objects.filter(host_id=host.pk).aggregate(
            count=Count("pk"), vcpus=Sum("vcpus", default=0), memory_mib=Sum("memory_mib", default=0)
        ),
        "whole": whole,
        "arriving": telling_migrations.lines(moving.filter(target=host)[:MIGRATIONS_SHOWN]),
        "leaving": telling_migrations.lines(moving.filter(source=host)[:MIGRATIONS_SHOWN]),
        "drift": drift[:DRIFT_SHOWN],
        "more_drift": max(0, len(drift) - DRIFT_SHOWN),
    }
    return pages.show(request, "placement/host.html", context, fragment="placement/_host.html")


def _claims(host: Host) -> Any:
    """Those that are not simply a running VM's first, then the largest."""
    plain = Case(When(kind=ClaimKind.VM, then=Value(1)), default=Value(0))
    own = Claim.objects.filter(host_id=host.pk).select_related("vm", "operation")
    return own.order_by(plain, "-memory_mib", "pk")


def _special(host: Host) -> Any:
    """Claims that the list of the host's VMs does not show: of VMs that arrive or grow, or that are elsewhere."""
    return _claims(host).exclude(kind=ClaimKind.VM, vm__host=host)


@needs(Right.HOSTS_FENCE)
def fence(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """Declares a host dead, once its name is typed; says before what that means and whom it touches."""
    host, now = _host(host_id), timezone.now()
    form = FenceForm(request.POST or None, host_name=host.name)
    if request.method == "POST" and form.is_valid():
        done = pages.attempt(form, lambda: _fence(request, host, form.cleaned_data["reason"], now))
        if done is not None:
            return pages.done(request, f"{host.name} is fenced.", to=reverse("host", args=[host_id]), level="info")
    context = {
        "host": host,
        "form": form,
        "words": verbs.WORDS,
        "fenced": verbs.is_fenced(host),
        "why_not": "" if host.connection == Connection.UNREACHABLE else _answers(host),
        "vms": host.vms.count(),
        "consoles": sum(one[host.pk][0] for one in _console_load(host, now) if host.pk in one),
        "migrations": telling_migrations.shown().filter(Q(source=host) | Q(target=host), ended_at=None).count(),
    }
    return pages.show(request, "placement/fence.html", context)


def _fence(request: HttpRequest, host: Host, reason: str, now: datetime) -> bool:
    verbs.fence(host, by=actor_of(request), now=now, reason=reason)
    return True


def _answers(host: Host) -> str:
    return f"{host.name} is {host.get_connection_display().lower()}. Only a host that cannot be reached can be fenced."


def _console_load(host: Host, now: datetime) -> Any:
    return ask(signals.host_console_load, host_ids=[host.pk], now=now)


@require_POST
@needs(Right.HOSTS_FENCE)
def unfence(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """Takes that back: it is used again once it answers."""
    host = _host(host_id)
    verbs.unfence(host, by=actor_of(request), now=timezone.now())
    text = f"{host.name} is not fenced any more."
    return pages.done(request, text, to=reverse("host", args=[host_id]))
