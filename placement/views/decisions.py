"""Decisions: every one that was made, and why, host by host."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.views.decorators.http import require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of
from cloudops.inventory.models import Vm
from placement import decisions as verbs
from placement.errors import DecisionTooOld
from placement.forms import TryForm
from placement.models import Decision
from placement.requests import spec_for, spec_of_request
from placement.spec import Purpose, Spec
from placement.views.telling import told

_ORDERS = {"at": ("at", "id")}


def _found(wanted: dict[str, str]) -> QuerySet[Decision]:
    found = Decision.objects.defer("spec", "changes", "summary")
    for name in ("outcome", "purpose"):
        if name in wanted:
            found = found.filter(**{name: wanted[name]})
    try:
        for name in ("vm", "host"):
            if name in wanted:
                found = found.filter(**{f"{name}_id": wanted[name]})
    except ValidationError:
        return found.none()
    if text := wanted.get("q"):
        found = found.filter(Q(vm_name__icontains=text) | Q(host_name__icontains=text))
    return found


@require_safe
@needs(Right.FLEET_VIEW)
def decisions(request: HttpRequest) -> HttpResponse:
    """The decisions that are kept, the latest first."""
    wanted = pages.filters(request, "q", "outcome", "purpose", "vm", "host")
    order = listing.order_of(request, _ORDERS, "-at")
    page = listing.page(_found(wanted), order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "decisions": page.rows, "filtered": bool(wanted), "purposes": list(Purpose)}
    return pages.show(request, "placement/decisions.html", context, fragment="placement/_decisions.html")


@require_safe
@needs(Right.FLEET_VIEW)
def decision(request: HttpRequest, decision_id: UUID) -> HttpResponse:
    """One decision: what was asked, the chosen host, and every host's verdicts."""
    row = get_object_or_404(Decision.objects.select_related("vm", "host", "snapshot", "operation"), pk=decision_id)
    wanted = pages.filters(request, "whole")
    try:
        explained = verbs.explain(row)
    except DecisionTooOld as refusal:
        return pages.show(request, "placement/decision.html", {"decision": row, "too_old": refusal})
    return pages.show(request, "placement/decision.html", {"decision": row, **told(explained, wanted.get("whole"))})


@require_safe
@needs(Right.FLEET_VIEW)
def try_it(request: HttpRequest) -> HttpResponse:
    """Where would a VM go now? Nothing is taken and nothing moves."""
    form = TryForm(request.GET if request.GET else None)
    context: dict[str, Any] = {"form": form}
    if form.is_bound and form.is_valid():
        spec = _spec_of(form)
        decided = verbs.dry_run(spec, by=actor_of(request), now=timezone.now())
        context |= {"asked": form.cleaned_data, **told(decided.explained, request.GET.get("whole"))}
    return pages.show(request, "placement/try.html", context)


def _spec_of(form: TryForm) -> Spec:
    values = form.cleaned_data
    across, allocator = form.across, values["allocator"] or None
    if vm := values["vm"]:
        full = Vm.objects.select_related("host__endpoint", "offering", "template").get(pk=vm.pk)
        now = timezone.now()
        return spec_for(full, purpose=Purpose.MIGRATE, across_clusters=across, allocator=allocator, now=now)
    return spec_of_request(
        offering=values["offering"],
        template=values["template"],
        cluster=values["cluster"],
        across_clusters=across,
        allocator=allocator,
    )
