"""A VM's placement: why it is where it is, what it asks for, where it could go, and its migrations."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone

from cloudops.accounts.pages import needs, person, signed_in
from cloudops.accounts.rights import Right, demand, has
from cloudops.core import pages, runtime
from cloudops.core.errors import Invalid
from cloudops.core.models import RuntimeSettings
from cloudops.core.requests import actor_of
from cloudops.inventory import access, vms
from cloudops.inventory.forms import PlacementChoiceForm
from cloudops.inventory.models import Host, Template, Vm
from placement import decisions, foresight, vm_migrations, words
from placement.forms_migrations import MigrateForm
from placement.models import Decision, VmMigration
from placement.requests import spec_for
from placement.spec import Purpose
from placement.views import telling_migrations
from placement.vm_migrations import Options

MIGRATIONS_SHOWN = 5
DECISIONS_READ = 20
FITS_SHOWN = 40
OTHERS_SHOWN = 40


@signed_in
def card(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """The placement card of the VM page, also a page of its own; its form says what placement is to know of the VM."""
    vm = access.vm_for(person(request), vm_id)
    if request.method == "POST":
        return _set_placement(request, vm)
    if not has(person(request), Right.FLEET_VIEW):
        return _tenant_card(request, vm)
    moving, past = _migrations(vm)
    here, last = _decisions(vm)
    context: dict[str, Any] = {
        "vm": vm,
        "here": here,
        "why_here": words.gist(here.summary) if here else "",
        "last": last,
        "why_last": words.gist(last.summary) if last else "",
        "moving": moving,
        "past": past,
        "claims": list(vm.claims.select_related("host__host").order_by("-kind")),
        "groups": list(vm.affinity_groups.all()),
        "why_stays": "It is on its way already." if moving else "",
    }
    if has(person(request), Right.FLEET_MANAGE):
        context["templates"] = Template.objects.only("id", "name")
    return pages.show(request, "placement/vm.html", context, fragment="placement/_vm.html")


def _migrations(vm: Vm) -> tuple[telling_migrations.MigrationLine | None, list[telling_migrations.MigrationLine]]:
    rows = telling_migrations.lines(telling_migrations.shown().filter(vm=vm)[: MIGRATIONS_SHOWN + 1])
    moving = next((one for one in rows if one.running), None)
    return moving, [one for one in rows if not one.running][:MIGRATIONS_SHOWN]


def _asked(vm: Vm) -> QuerySet[Decision]:
    return Decision.objects.filter(vm=vm).exclude(purpose=Purpose.DRY_RUN).defer("changes", "spec")


def _decisions(vm: Vm) -> tuple[Decision | None, Decision | None]:
    """The last decision for the host that it is on, and the last one of all where that is another."""
    rows = list(_asked(vm)[:DECISIONS_READ])
    here = next((row for row in rows if row.host_id == vm.host_id), None)
    last = rows[0] if rows and rows[0] != here else None
    return here, last


def _tenant_card(request: HttpRequest, vm: Vm) -> HttpResponse:
    """What a tenant may know: whether it moves, and in words without hosts whether there is a place for it."""
    told: tuple[str, ...] = ()
    if "ask" in request.GET:
        spec = spec_for(vm, purpose=Purpose.MIGRATE, now=timezone.now())
        told = decisions.dry_run(spec, by=actor_of(request), now=timezone.now()).explained.tenant_words
    else:
        last = Decision.objects.filter(vm=vm).exclude(purpose=Purpose.DRY_RUN).first()
        if last is not None and last.project_id == vm.project_id and last.outcome == Decision.Outcome.REFUSED:
            told = decisions.for_tenant(last)
    moving = VmMigration.objects.filter(vm=vm, ended_at__isnull=True).exists()
    context = {"vm": vm, "moving": moving, "told": told, "asked": "ask" in request.GET}
    return pages.show(request, "placement/vm_tenant.html", context, fragment="placement/_vm_tenant.html")


def _set_placement(request: HttpRequest, vm: Vm) -> HttpResponse:
    demand(request.user, Right.FLEET_MANAGE)
    form = PlacementChoiceForm(request.POST)
    if not form.is_valid():
        raise Invalid("There is no such template.")
    vms.set_placement(vm, by=actor_of(request), now=timezone.now(), **form.cleaned_data)
    return pages.done(request, f"What placement knows of {vm} is saved.", to=reverse("vm", args=[vm.pk]))


@needs(Right.FLEET_MANAGE)
def migrate(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """ "Migrate to …": every host with what speaks for or against it, and how to move. Relaxations are in the URL."""
    vm, now, settings = access.vm_for(person(request), vm_id), timezone.now(), runtime.current()
    form = MigrateForm(request.POST or None, initial=MigrateForm.kept(settings))
    relaxed = _relaxed(request)
    if request.method == "POST" and form.is_valid():
        operation = pages.attempt(form, lambda: _start(request, vm, form, relaxed, settings, now))
        if operation is not None:
            return pages.done(request, f"{operation.title}: under way.", to=reverse("vm", args=[vm.pk]), level="info")
    found = foresight.destinations(vm, options=Options.of(settings, **relaxed), now=now)
    context = {
        "vm": vm,
        "form": form,
        "found": found,
        "fits": found.fits[:FITS_SHOWN],
        "others": found.others[:OTHERS_SHOWN],
        "more_fits": max(0, len(found.fits) - FITS_SHOWN),
        "more_others": max(0, len(found.others) - OTHERS_SHOWN),
        "overrule": foresight.may_be_overruled(found.obstacle),
        "relaxed": relaxed,
        "settings": settings,
        "local_disks": _local_disks(vm),
    }
    return pages.show(request, "placement/migrate.html", context, status=200)


def _relaxed(request: HttpRequest) -> dict[str, Any]:
    """What the chips in the address say: options that decide which hosts fit."""
    wanted = pages.filters(request, "pinned", "copy", "soft", "across")
    found: dict[str, Any] = {
        "force_pinned": "pinned" in wanted,
        "copy_storage": "copy" in wanted,
        "drop_soft_tags": "soft" in wanted,
    }
    if "across" in wanted:
        found["across_clusters"] = wanted["across"] == "on"
    return found


def _start(
    request: HttpRequest, vm: Vm, form: MigrateForm, relaxed: dict[str, Any], settings: RuntimeSettings, now: datetime
) -> Any:
    to = get_object_or_404(Host.objects.select_related("endpoint"), pk=form.host_id) if form.host_id else None
    options = Options.of(settings, **relaxed, **form.options)
    return vm_migrations.migrate(vm, to=to, options=options, by=actor_of(request), now=now)


def _local_disks(vm: Vm) -> list[dict[str, Any]]:
    return [disk for disk in vm.disks if disk.get("kind") == "local" and not disk.get("removable")]
