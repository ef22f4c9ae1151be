"""Templates: what VMs were made from, and which hosts will do for them."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of
from cloudops.inventory import templates as verbs
from cloudops.inventory.forms import TemplateForm, kept_values
from cloudops.inventory.models import Template

_ORDERS = {"name": ("name", "id")}


def _counted() -> QuerySet[Template]:
    return Template.objects.annotate(vm_count=Count("vms")).prefetch_related("host_tags", "soft_host_tags")


@require_safe
@needs(Right.FLEET_VIEW)
def templates(request: HttpRequest) -> HttpResponse:
    """Every template with its tags and its use."""
    wanted = pages.filters(request, "q")
    found = _counted()
    if text := wanted.get("q"):
        found = found.filter(Q(name__icontains=text) | Q(description__icontains=text))
    order = listing.order_of(request, _ORDERS, "name")
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "filtered": bool(wanted)}
    return pages.show(request, "inventory/templates.html", context, fragment="inventory/_templates.html")


@needs(Right.OFFERINGS_MANAGE)
def add(request: HttpRequest) -> HttpResponse:
    """A new template."""
    form = TemplateForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = pages.attempt(form, lambda: verbs.create(by=actor_of(request), now=timezone.now(), **form.cleaned_data))
        if made is not None:
            return pages.done(request, f"{made} exists. Choose it on its VMs' pages.", to=reverse("templates"))
    return pages.show(request, "inventory/template_form.html", {"form": form})


@needs(Right.OFFERINGS_MANAGE)
def edit(request: HttpRequest, template_id: UUID) -> HttpResponse:
    """Changes a template; its VMs stay where they are."""
    template = get_object_or_404(_counted(), pk=template_id)
    form = TemplateForm(request.POST or None, initial=kept_values(template, TemplateForm, verbs.TAG_FIELDS))
    if request.method == "POST" and form.is_valid():
        changed = pages.attempt(
            form, lambda: verbs.change(template, by=actor_of(request), now=timezone.now(), **form.cleaned_data)
        )
        if changed is not None:
            return pages.done(request, f"{changed} is saved.", to=reverse("templates"))
    return pages.show(request, "inventory/template_form.html", {"form": form, "template": template})


@require_POST
@needs(Right.OFFERINGS_MANAGE)
def delete(request: HttpRequest, template_id: UUID) -> HttpResponse:
    """Removes a template that no VM has."""
    template = get_object_or_404(Template, pk=template_id)
    verbs.delete(template, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{template} is gone.", to=reverse("templates"))
