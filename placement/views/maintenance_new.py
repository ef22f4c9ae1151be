"""The maintenance wizard: choose hosts, look at what would happen, change it, confirm."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right, demand, has
from cloudops.core import pages, runtime
from cloudops.core.errors import Refusal
from cloudops.core.requests import actor_of
from cloudops.inventory.models import Host
from placement import maintenance
from placement.forms_maintenance import WizardForm, bound, hosts_by_cluster
from placement.maintenance.outlook import Blocker, HostOutlook, Preview, Remedy, Stay
from placement.views.room import Bar


class ReasonForm(forms.Form):
    """Why, for the people who read it later."""

    reason = forms.CharField(
        required=False,
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "Firmware update, ticket 4711"}),
        help_text="For the people who read it later.",
    )


@require_safe
@needs(Right.FLEET_MANAGE)
def new(request: HttpRequest) -> HttpResponse:
    """Without hosts in the address: which ones? With hosts: the preview."""
    if not request.GET.getlist("host") and not request.GET.get("cluster"):
        return _choose(request, WizardForm())
    form = bound(request.GET)
    if not form.is_valid() or not form.host_ids:
        return _choose(request, form)
    return _preview(request, form, ReasonForm())


@require_POST
@needs(Right.FLEET_MANAGE)
def start(request: HttpRequest) -> HttpResponse:
    """The confirmation: begins the job, or says why not beside the preview."""
    form, reason = bound(request.POST), ReasonForm(request.POST)
    if not form.is_valid() or not form.host_ids:
        return _choose(request, form)
    if form.stops:
        demand(request.user, Right.HOSTS_FENCE)
    if not reason.is_valid():
        return _preview(request, form, reason)
    job = pages.attempt(
        reason,
        lambda: maintenance.start(
            host_ids=form.host_ids,
            options=form.options,
            reason=reason.cleaned_data["reason"],
            by=actor_of(request),
            now=timezone.now(),
        ),
    )
    if job is None:
        return _preview(request, form, reason)
    return HttpResponseRedirect(reverse("maintenance-job", args=[job.pk]))


def _choose(request: HttpRequest, form: WizardForm) -> HttpResponse:
    hosts = Host.objects.select_related("cluster", "endpoint").annotate(vm_count=Count("vms"))
    chosen = {str(pk) for pk in request.GET.getlist("host")}
    context = {"form": form, "clusters": hosts_by_cluster(hosts), "chosen": chosen, "settings": runtime.current()}
    return pages.show(request, "maintenance/choose.html", context)


def _preview(request: HttpRequest, form: WizardForm, reason: ReasonForm) -> HttpResponse:
    context: dict[str, Any] = {"form": form, "reason": reason, "settings": runtime.current()}
    try:
        preview = maintenance.preview(host_ids=form.host_ids, options=form.options, now=timezone.now())
    except Refusal as refusal:
        return pages.show(request, "maintenance/preview.html", {**context, "refusal": refusal}, status=refusal.status)
    may_stop = has(request.user, Right.HOSTS_FENCE)
    context |= {
        "preview": preview,
        "emptied": [_bars(host) for host in preview.hosts if host.emptied],
        "others": [_bars(host) for host in preview.hosts if not host.emptied],
        "blockers": [(one, _buttons(form, one, may_stop=may_stop)) for one in preview.blockers],
        "stays": [(one, _buttons(form, one, may_stop=may_stop)) for one in (*preview.stops, *preview.stays)],
        "chosen": _chosen(form, preview),
        "fields": form.pairs(),
        "change": f"{reverse('maintenance-new')}?{form.address()}",
    }
    return pages.show(request, "maintenance/preview.html", context)


def _buttons(form: WizardForm, one: Blocker | Stay, *, may_stop: bool) -> list[dict[str, Any]]:
    """Each remedy as a link to the preview with that choice added."""
    return [_button(form, one, remedy, may_stop=may_stop) for remedy in one.remedies]


def _button(form: WizardForm, one: Blocker | Stay, remedy: Remedy, *, may_stop: bool) -> dict[str, Any]:
    choices = dict(form.options.choices)
    host_id = UUID(remedy.host_id) if remedy.host_id else None
    choices[one.vm_id] = form.options.choice(one.vm_id).plus(remedy.choice, host_id)
    blocked = remedy.admin_only and not may_stop
    return {
        "label": remedy.label,
        "href": f"{reverse('maintenance-new')}?{form.address(choices)}",
        "why_not": "Only an administrator may have a VM stopped." if blocked else "",
        "danger": remedy.admin_only,
    }


def _chosen(form: WizardForm, preview: Preview) -> list[dict[str, str]]:
    """What was chosen for single VMs so far, each with the way to take it back."""
    names = {one.vm_id: one.vm_name for one in preview.moves}
    names |= {one.vm_id: one.vm_name for one in (*preview.stays, *preview.stops)}
    names |= {one.vm_id: one.vm_name for one in preview.blockers}
    hosts = {host.host_id: host.name for host in preview.hosts}
    found = []
    for vm_id, choice in form.options.choices.items():
        words = [maintenance.Choice(word).label for word in (choice.main, *sorted(choice.relaxed)) if word]
        if choice.host_id:
            words[0] = f"To {hosts.get(choice.host_id, 'the chosen host')}"
        left = {key: value for key, value in form.options.choices.items() if key != vm_id}
        found.append(
            {
                "vm": names.get(vm_id, str(vm_id)),
                "words": ", ".join(words),
                "href": f"{reverse('maintenance-new')}?{form.address(left)}",
            }
        )
    return found


def _bars(host: HostOutlook) -> dict[str, Any]:
    """Before, at most meanwhile, and after: one bar per resource and moment."""
    moments = (("before", host.before), ("at most", host.peak), ("after", host.after))
    return {
        "host": host,
        "moments": [
            {
                "name": name,
                "cpu": Bar(amount.vcpus, 0, host.vcpu_capacity, None),
                "memory": Bar(amount.memory_mib, 0, host.memory_capacity_mib, None),
            }
            for name, amount in moments
        ],
    }
