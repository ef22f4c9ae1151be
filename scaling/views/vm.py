"""A VM's size: what it has, how far it can grow, what waits for its next start, and what it had."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from cloudops.accounts import rights
from cloudops.accounts.models import User
from cloudops.accounts.pages import needs, person, signed_in
from cloudops.accounts.rights import Right, VmRight
from cloudops.core import pages, runtime
from cloudops.core.actors import Actor
from cloudops.core.models import RuntimeSettings
from cloudops.core.requests import actor_of
from cloudops.hypervisors.port import Kind, ScalingFacts
from cloudops.inventory import access, vms
from cloudops.inventory.models import Vm
from scaling import headroom, history, resizes, sizes, telling_resizes
from scaling.forms import HEADROOM, VmHeadroomForm
from scaling.sizes import NextStart, VmSizes
from scaling.telling import amount, size_words
from scaling.views.chart import Chart, charts

HISTORY_DAYS: Final = 7
RESIZES_SHOWN: Final = 5
SOURCES: Final = {"vm": "this VM's headroom", "cluster": "its cluster's headroom", "installation": "the settings"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a VM gets at its next start."""

    words: str
    by: str
    at: datetime | None
    may_forget: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """One chart with its words; ``story``: what it shows, for who does not see it."""

    name: str
    lines: Chart
    real_words: str
    wanted_words: str
    story: str

    @property
    def differs(self) -> bool:
        return self.real_words != self.wanted_words


@signed_in
def card(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """The size card of the VM page, also a page of its own."""
    user, now = person(request), timezone.now()
    vm = access.vm_for(user, vm_id)
    context = {**facts(vm, user, settings=runtime.current()), **_history(vm, now)}
    return pages.show(request, "scaling/size.html", context, fragment="scaling/_size.html")


def facts(vm: Vm, user: User, *, settings: RuntimeSettings) -> dict[str, Any]:
    """What every page about a VM's size shows, from rows alone."""
    lines = telling_resizes.lines(user, telling_resizes.shown().filter(vm=vm)[: RESIZES_SHOWN + 1])
    has = sizes.read(vm, settings=settings)
    lack = has.lack if has.lack is not None and not has.lack.waits else None
    return {
        "vm": vm,
        "may": {"scale": rights.on_project(user, VmRight.SCALE, vm.project_id)},
        "why_not": "The hypervisor does not report this VM any more." if vm.missing_since else "",
        "real_words": size_words(has.size),
        "wanted_words": size_words(has.wanted) if has.wanted != has.size else "",
        "guest_words": "" if has.guest_memory_mib is None else f"has {has.guest_memory_mib:,} MiB of memory",
        "version_words": _version_words(vm),
        "ceiling_words": _ceiling_words(vm, has.ceiling),
        "ceiling_source": _source_words(vm, has),
        "next": _waiting(has.next_start),
        "lack": lack,
        "running": next((one for one in lines if one.running), None),
        "past": [one for one in lines if not one.running][:RESIZES_SHOWN],
    }


def _version_words(vm: Vm) -> str:
    offering = vm.offering
    if offering is None or vm.offering_version is None or vm.offering_version >= offering.version:
        return ""
    return f"as it was in version {vm.offering_version}; it is at version {offering.version} now"


def _ceiling_words(vm: Vm, ceiling: ScalingFacts | None) -> str:
    if ceiling is None:
        return "not known: its hypervisor does not tell"
    return f"{amount(vm.ceiling_vcpus or ceiling.max_vcpus, 'vCPU')}, {amount(ceiling.max_memory_mib, 'MiB')}"


def _source_words(vm: Vm, has: VmSizes) -> str:
    if has.ceiling is None:
        return ""
    if vm.host.endpoint.kind == Kind.VSPHERE:
        return "as vSphere's hot add allows"
    if has.lack is not None:
        return "fixed when it was started" if vm.is_running else "as it is defined"
    capped = ", as much as its host has" if has.next_ceiling.capped else ""
    return f"from {SOURCES[has.next_ceiling.source]}{capped}"


def _waiting(next_start: NextStart | None) -> Waiting | None:
    if next_start is None:
        return None
    said = [size_words(next_start.size)] if next_start.size else []
    if next_start.offering:
        said.append(f"offering {next_start.offering.name}")
    if next_start.headroom:
        said.append("room to grow live")
    return Waiting("; ".join(said), next_start.requested_by_name, next_start.requested_at, next_start.size is not None)


def _history(vm: Vm, now: datetime) -> dict[str, Any]:
    since = now - timedelta(days=HISTORY_DAYS)
    samples = history.series(vm, since=since, until=now)
    if samples:
        since = max(since, min(samples[0].at, now - timedelta(hours=1)))
    drawn = [_drawn(one, len(samples)) for one in charts(samples, since=since, until=now)]
    return {"charts": drawn, "samples": samples[::-1], "since": since}


def _drawn(lines: Chart, samples: int) -> Drawn:
    real, wanted = amount(lines.last_real, lines.unit), amount(lines.last_wanted, lines.unit)
    changed = "no change" if samples == 1 else f"{samples - 1} changes"
    return Drawn(lines.name, lines, real, wanted, f"{changed}, now {real}, wanted {wanted}.")


@require_POST
@signed_in
def prepare(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """Puts the headroom into the VM's definition, for its next start."""
    vm = access.vm_for(person(request), vm_id, VmRight.SCALE)
    headroom.prepare(vm, by=actor_of(request), now=timezone.now())
    text = f"{vm} can grow live from its next start on."
    return pages.done(request, text, to=pages.back(request, reverse("vm", args=[vm.pk])))


@require_POST
@signed_in
def forget(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """Takes back what waits for the VM's next start."""
    vm = access.vm_for(person(request), vm_id, VmRight.SCALE)
    resizes.forget_next(vm, by=actor_of(request), now=timezone.now())
    text = f"{vm} starts next with the size that it has now."
    return pages.done(request, text, to=pages.back(request, reverse("vm", args=[vm.pk])))


@needs(Right.FLEET_MANAGE)
def edit_headroom(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """How far this VM can grow live, and whether it may be resized while it runs at all."""
    vm, settings = access.vm_for(person(request), vm_id), runtime.current()
    row = headroom.of_vm(vm)
    kept = {name: getattr(row, name) for name in HEADROOM} | {"dynamic_scaling": vm.dynamic_scaling}
    form = VmHeadroomForm(request.POST or None, initial=kept)
    saved = request.method == "POST" and form.is_valid()
    if saved and pages.attempt(form, lambda: _save(vm, form, actor_of(request), timezone.now())):
        return pages.done(request, f"The headroom of {vm} is saved.", to=reverse("vm", args=[vm.pk]))
    above = headroom.effective(vm, settings=settings)
    context = {
        "vm": vm,
        "form": form,
        "title": f"Headroom of {vm}",
        "back": reverse("vm", args=[vm.pk]),
        "now_words": f"{amount(above.max_vcpus, 'vCPU')}, {amount(above.max_memory_mib, 'MiB')}",
        "source": SOURCES[above.source],
    }
    return pages.show(request, "scaling/headroom.html", context)


def _save(vm: Vm, form: VmHeadroomForm, by: Actor, now: datetime) -> bool:
    with transaction.atomic():
        vms.set_live_scaling(vm, allowed=form.cleaned_data["dynamic_scaling"], by=by, now=now)
        headroom.set_for_vm(vm, **form.values, by=by, now=now)
    return True
