"""Projects and who belongs to them."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts import people, quotas
from cloudops.accounts.forms import MemberForm, MemberRightsForm, ProjectForm
from cloudops.accounts.models import Membership, Project
from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import listing, pages
from cloudops.core.requests import actor_of

_ORDERS = {"name": ("name",)}
_COLUMNS = [
    ("project", lambda p: p.name),
    ("description", lambda p: p.description),
    ("members", lambda p: p.member_count),
    ("VMs", lambda p: p.vm_count),
    ("vCPU quota", lambda p: p.quota_vcpus),
    ("memory quota MiB", lambda p: p.quota_memory_mib),
    ("console quota", lambda p: p.quota_consoles),
]


def _counted() -> QuerySet[Project]:
    return Project.objects.annotate(
        member_count=Count("memberships", distinct=True), vm_count=Count("vms", distinct=True)
    )


@require_safe
@needs(Right.FLEET_VIEW)
def projects(request: HttpRequest) -> HttpResponse:
    """Every project with its sizes."""
    wanted = pages.filters(request, "q")
    found = _counted()
    if text := wanted.get("q"):
        found = found.filter(Q(name__icontains=text) | Q(description__icontains=text))
    order = listing.order_of(request, _ORDERS, "name")
    if request.GET.get("format") == "csv":
        return listing.csv_response("projects", _COLUMNS, found.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "filtered": bool(wanted)}
    return pages.show(request, "accounts/projects.html", context, fragment="accounts/_projects.html")


@needs(Right.USERS_MANAGE)
def add_project(request: HttpRequest) -> HttpResponse:
    """A new project."""
    form = ProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = pages.attempt(
            form, lambda: people.create_project(by=actor_of(request), now=timezone.now(), **form.cleaned_data)
        )
        if made is not None:
            return pages.done(request, f"{made} exists. Add its members.", to=reverse("project", args=[made.pk]))
    return pages.show(request, "accounts/project_add.html", {"form": form})


@require_safe
@needs(Right.FLEET_VIEW)
def project(request: HttpRequest, project_id: UUID) -> HttpResponse:
    """One project: members, rights, and what its VMs use of its quotas."""
    return _project_page(request, get_object_or_404(_counted(), pk=project_id))


def _project_page(request: HttpRequest, project: Project, **forms: object) -> HttpResponse:
    kept = {name: getattr(project, name) for name in people.PROJECT_FIELDS}
    context = {
        "project": project,
        "memberships": project.memberships.select_related("user"),
        "quotas": quotas.use_of([project], now=timezone.now())[project.pk],
        "form": forms.get("form") or ProjectForm(initial=kept),
        "member_form": forms.get("member_form") or MemberForm(project_id=project.pk),
    }
    return pages.show(request, "accounts/project.html", context, fragment="accounts/_project.html")


@require_POST
@needs(Right.USERS_MANAGE)
def change_project(request: HttpRequest, project_id: UUID) -> HttpResponse:
    """A project's name, description and quotas."""
    project = get_object_or_404(_counted(), pk=project_id)
    form = ProjectForm(request.POST)
    if form.is_valid():
        changed = pages.attempt(
            form,
            lambda: people.change_project(project, by=actor_of(request), now=timezone.now(), **form.cleaned_data),
        )
        if changed is not None:
            return pages.done(request, f"{project} is saved.", to=reverse("project", args=[project_id]))
    return _project_page(request, get_object_or_404(_counted(), pk=project_id), form=form)


@require_POST
@needs(Right.USERS_MANAGE)
def delete_project(request: HttpRequest, project_id: UUID) -> HttpResponse:
    """Removes a project without VMs."""
    project = get_object_or_404(Project, pk=project_id)
    people.delete_project(project, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{project} is gone.", to=reverse("projects"))


@require_POST
@needs(Right.USERS_MANAGE)
def add_member(request: HttpRequest, project_id: UUID) -> HttpResponse:
    """Somebody joins."""
    project = get_object_or_404(_counted(), pk=project_id)
    form = MemberForm(request.POST, project_id=project_id)
    if form.is_valid():
        made = pages.attempt(
            form, lambda: people.add_member(project, by=actor_of(request), now=timezone.now(), **form.cleaned_data)
        )
        if made is not None:
            return pages.done(request, f"{made.user} is a member.", to=reverse("project", args=[project_id]))
    return _project_page(request, project, member_form=form)


def _membership(project_id: UUID, membership_id: int) -> Membership:
    found = Membership.objects.select_related("user", "project")
    return get_object_or_404(found, pk=membership_id, project_id=project_id)


@require_POST
@needs(Right.USERS_MANAGE)
def change_member(request: HttpRequest, project_id: UUID, membership_id: int) -> HttpResponse:
    """Somebody's rights in a project."""
    membership = _membership(project_id, membership_id)
    form = MemberRightsForm(request.POST)
    form.full_clean()
    people.change_member(membership, by=actor_of(request), now=timezone.now(), **form.cleaned_data)
    return pages.done(request, f"The rights of {membership.user} are saved.", to=reverse("project", args=[project_id]))


@require_POST
@needs(Right.USERS_MANAGE)
def remove_member(request: HttpRequest, project_id: UUID, membership_id: int) -> HttpResponse:
    """Somebody leaves; their consoles of the project's VMs end."""
    membership = _membership(project_id, membership_id)
    people.remove_member(membership, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{membership.user} is no longer a member.", to=reverse("project", args=[project_id]))
