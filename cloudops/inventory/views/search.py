"""The palette's search: goes to VMs, hosts, people, projects and tags that the person may see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from django.db.models import Q
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from cloudops.accounts.models import Project, User
from cloudops.accounts.pages import person, signed_in
from cloudops.accounts.rights import Right, has
from cloudops.inventory import access
from cloudops.inventory.models import Host, Tag

EACH = 8
Hit = dict[str, str]


def _vms(user: User, text: str) -> Iterator[Hit]:
    found = access.visible_vms(user).filter(Q(name__icontains=text) | Q(ref__startswith=text))
    for vm in found.order_by("name", "id")[:EACH]:
        where = vm.host.name if user.sees_fleet else str(vm.project or "")
        yield {"kind": f"VM · {where}", "label": vm.name, "url": reverse("vm", args=[vm.pk])}


def _hosts(user: User, text: str) -> Iterator[Hit]:
    if has(user, Right.FLEET_VIEW):
        for host in Host.objects.select_related("cluster").filter(name__icontains=text).order_by("name", "id")[:EACH]:
            yield {"kind": f"host · {host.cluster}", "label": host.name, "url": reverse("host", args=[host.pk])}


def _users(user: User, text: str) -> Iterator[Hit]:
    if not has(user, Right.FLEET_VIEW):
        return
    names = Q(username__icontains=text) | Q(first_name__icontains=text) | Q(last_name__icontains=text)
    manages = has(user, Right.USERS_MANAGE)
    for whom in User.objects.filter(names).order_by("username")[:EACH]:
        consoles = f"{reverse('consoles')}?{urlencode({'user': whom.username})}"
        url = reverse("user", args=[whom.pk]) if manages else consoles
        yield {"kind": f"person · {whom.get_role_display()}", "label": whom.username, "url": url}


def _projects(user: User, text: str) -> Iterator[Hit]:
    sees_all = has(user, Right.FLEET_VIEW)
    found = Project.objects.all() if sees_all else user.projects.all()
    for project in found.filter(name__icontains=text).order_by("name")[:EACH]:
        own = f"{reverse('my-vms')}?{urlencode({'project': str(project.pk)})}"
        url = reverse("project", args=[project.pk]) if sees_all else own
        yield {"kind": "project", "label": project.name, "url": url}


def _tags(user: User, text: str) -> Iterator[Hit]:
    if has(user, Right.FLEET_VIEW):
        for tag in Tag.objects.filter(name__icontains=text).order_by("name")[:EACH]:
            url = f"{reverse('fleet')}?{urlencode({'tag': tag.name})}"
            yield {"kind": "tag · hosts", "label": tag.name, "url": url}


_FINDERS: dict[str, Callable[[User, str], Iterator[Hit]]] = {
    "vm": _vms,
    "host": _hosts,
    "user": _users,
    "project": _projects,
    "tag": _tags,
}
MOST = 24


@require_safe
@signed_in
def search(request: HttpRequest) -> JsonResponse:
    """``?q=``, perhaps after ``vm:``, ``host:``, ``user:``, ``tag:`` or ``project:`` → ``[{kind, label, url}]``."""
    text = request.GET.get("q", "").strip()[:100]
    prefix, colon, rest = text.partition(":")
    finder = _FINDERS.get(prefix.lower()) if colon else None
    user = person(request)
    if finder is not None:
        hits = list(finder(user, rest.strip()))
    elif len(text) < 2:
        hits = []
    else:
        hits = list(islice((hit for find in _FINDERS.values() for hit in find(user, text)), MOST))
    response = JsonResponse(hits, safe=False)
    response["Cache-Control"] = "no-store"
    return response
