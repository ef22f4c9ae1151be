"""Add, change, test, cordon, synchronise and remove hosts. What a host looks like is in ``consoles.views``."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages
from cloudops.core.errors import Refusal
from cloudops.core.requests import actor_of
from cloudops.hypervisors.port import Kind
from cloudops.inventory import clusters, hosts, tags
from cloudops.inventory.certificates import CertificateUnconfirmed
from cloudops.inventory.forms import EndpointFields, HostAddForm, HostChangeForm, ProbeForm
from cloudops.inventory.models import Cluster, Host

_ENDPOINT = frozenset(EndpointFields.base_fields) - {"secret"}


def _host(host_id: UUID) -> Host:
    return get_object_or_404(Host.objects.select_related("endpoint", "cluster"), pk=host_id)


@sensitive_post_parameters("secret")
@needs(Right.FLEET_MANAGE)
def add(request: HttpRequest) -> HttpResponse:
    """A new host. One that does not answer is added only when asked twice ("Add it all the same"), and a vCenter only
    once its certificate is confirmed."""
    form = HostAddForm(_confirmed(request) or None, initial={"cluster": Cluster.objects.first()})
    unreachable: Refusal | None = None
    unconfirmed: Refusal | None = None
    if request.method == "POST" and form.is_valid():
        try:
            added = _add(request, dict(form.cleaned_data))
        except hosts.HostUnreachable as refusal:
            unreachable = refusal
        except CertificateUnconfirmed as refusal:
            unconfirmed = refusal
        except Refusal as refusal:
            pages.refuse(form, refusal)
        else:
            text = f"{added[0]} is added. Its" if len(added) == 1 else f"{len(added)} hosts are added. Their"
            to = reverse("host", args=[added[0].pk]) if len(added) == 1 else reverse("fleet")
            return pages.done(request, f"{text} VMs appear in a moment.", to=to)
    context = {"form": form, "unreachable": unreachable, "unconfirmed": unconfirmed, **_form_facts()}
    return pages.show(request, "inventory/host_add.html", context)


def _confirmed(request: HttpRequest) -> QueryDict:
    """What was posted, with the fingerprint of the certificate that was confirmed by the button just pressed."""
    values = request.POST.copy()
    if fingerprint := values.get("confirm_sha256", ""):
        values["certificate_sha256"] = fingerprint
    return values


def _add(request: HttpRequest, values: dict[str, Any]) -> list[Host]:
    by, now = actor_of(request), timezone.now()
    name = values.pop("new_cluster")
    if values["cluster"] is None and name:
        values["cluster"] = Cluster.objects.filter(name=name).first() or clusters.create(name=name, by=by, now=now)
    return hosts.add_host(force="force" in request.POST, by=by, now=now, **values)


def _form_facts() -> dict[str, Any]:
    return {"known_tags": tags.names(), "console_base_url": settings.CONSOLE_BASE_URL}


@sensitive_post_parameters("secret")
@require_POST
@needs(Right.FLEET_MANAGE)
def probe(request: HttpRequest) -> HttpResponse:
    """ "Test connection" of a host that is not saved yet: every step, and the remedy of the one that failed."""
    form = ProbeForm(_confirmed(request))
    report, problem = None, None
    if form.is_valid():
        try:
            report = hosts.test_connection(**form.cleaned_data)
        except Refusal as refusal:
            problem = refusal
    context: dict[str, Any] = {"report": report, "form": form, "problem": problem}
    if "confirm_sha256" in request.POST:  # into the form's own field, which htmx swaps out of band
        context["entry"] = form["certificate_sha256"].as_widget(attrs={"hx-swap-oob": "true"})
    return _probe_page(request, **context)


def _probe_page(request: HttpRequest, **context: Any) -> HttpResponse:
    """The fragment, under the id of the element that it replaces."""
    asked = request.headers.get("HX-Target", "")
    target = asked if asked.replace("-", "").isalnum() else "probe"
    return pages.show(request, "inventory/_probe.html", {**context, "target": target})


@require_POST
@needs(Right.FLEET_MANAGE)
def test(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """ "Test connection" of a saved host, with its stored credentials."""
    host = _host(host_id)
    return _probe_page(request, report=hosts.test_host(host), host=host)


@require_POST
@needs(Right.FLEET_MANAGE)
def accept_certificate(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """From now on the certificate of the host's management service is another one, whose fingerprint was shown."""
    host = _host(host_id)
    fingerprint = request.POST.get("sha256", "")[:200]
    hosts.accept_certificate(host, sha256=fingerprint, by=actor_of(request), now=timezone.now())
    text = f"The new certificate of {host.endpoint.uri} is accepted. Its hosts come back in a moment."
    return pages.done(request, text, to=reverse("host", args=[host_id]))


@sensitive_post_parameters("secret")
@needs(Right.FLEET_MANAGE)
def edit(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """A host's addresses, limits, tags and the way to it."""
    host = _host(host_id)
    form = HostChangeForm(request.POST or None, initial=_initial(host), host=host)
    if request.method == "POST" and form.is_valid():
        changed = pages.attempt(
            form, lambda: hosts.change_host(host, by=actor_of(request), now=timezone.now(), **form.changes())
        )
        if changed is not None:
            return pages.done(request, f"{changed} is saved.", to=reverse("host", args=[host_id]))
    context = {
        "form": form,
        "host": _host(host_id),
        "has_secret": hosts.has_secret(host.endpoint),
        "platform_tags": hosts.platform_tags(host),
        "is_vsphere": host.endpoint.kind == Kind.VSPHERE,
        "siblings": host.endpoint.hosts.count() - 1,
        **_form_facts(),
    }
    return pages.show(request, "inventory/host_edit.html", context)


def _initial(host: Host) -> dict[str, Any]:
    own = {name: getattr(host, name) for name in HostChangeForm.base_fields if hasattr(host, name)}
    return own | {
        **{name: getattr(host.endpoint, name) for name in (*_ENDPOINT, "takes_clusters_over")},
        "tags": hosts.own_tags(host),
    }


@require_POST
@needs(Right.FLEET_MANAGE)
def cordon(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """No new VMs here."""
    host = _host(host_id)
    reason = request.POST.get("reason", "")[:200]
    hosts.cordon(host, by=actor_of(request), now=timezone.now(), reason=reason)
    return pages.done(request, f"{host} takes no new VMs.", to=pages.back(request, reverse("host", args=[host_id])))


@require_POST
@needs(Right.FLEET_MANAGE)
def uncordon(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """New VMs again."""
    host = _host(host_id)
    hosts.uncordon(host, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{host} takes new VMs again.", to=pages.back(request, reverse("host", args=[host_id])))


@require_POST
@needs(Right.FLEET_MANAGE)
def sync(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """Reads the host again soon."""
    host = _host(host_id)
    hosts.sync_soon(host)
    text = f"{host} is being read again. What changed appears by itself."
    return pages.done(request, text, to=pages.back(request, reverse("host", args=[host_id])))


@require_POST
@needs(Right.FLEET_MANAGE)
def remove(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """Forgets a host and its VMs; nothing on the host itself changes."""
    host = _host(host_id)
    count = hosts.remove_host(
        host,
        by=actor_of(request),
        now=timezone.now(),
        force="force" in request.POST,
        whole_endpoint="whole_endpoint" in request.POST,
    )
    text = f"{host} is removed." if count == 1 else f"{count} hosts are removed."
    return pages.done(request, text, to=reverse("fleet"))


@require_POST
@needs(Right.FLEET_MANAGE)
def set_tags(request: HttpRequest, host_id: UUID) -> HttpResponse:
    """A host's tags, from the little form on its page."""
    host = _host(host_id)
    names = request.POST.get("tags", "").replace(",", " ").split()
    hosts.set_tags(host, names, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"The tags of {host} are saved.", to=reverse("host", args=[host_id]))
