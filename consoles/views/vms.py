"""VMs: the list of people who work with the fleet, one's own VMs, and one VM."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts import rights
from cloudops.accounts.models import Project, Role, User
from cloudops.accounts.pages import needs, person, signed_in
from cloudops.accounts.rights import Right, VmRight
from cloudops.accounts.switcher import Switcher
from cloudops.core import listing, pages, runtime
from cloudops.core.errors import Invalid, Refusal
from cloudops.core.events import readable_outside
from cloudops.core.models import Event, subject_of
from cloudops.core.operations_view import NOBODY
from cloudops.core.problems import as_refusal
from cloudops.core.requests import actor_of
from cloudops.hypervisors.port import PowerAction
from cloudops.inventory import access, signals, tags
from cloudops.inventory import vms as verbs
from cloudops.inventory.forms import AssignForm, OfferingChoiceForm
from cloudops.inventory.models import Connection, Offering, Vm
from cloudops.inventory.notices import ask
from consoles import history, limits, overview
from consoles.models import ConsoleSession

FILTERS = ("q", "host", "cluster", "project", "power", "tag", "offering")
_ORDERS = {
    "name": ("name", "id"),
    "host": ("host__name", "name", "id"),
    "vcpus": ("vcpus", "name", "id"),
    "memory": ("memory_mib", "name", "id"),
}
_COLUMNS = [
    ("VM", lambda v: v.name),
    ("state", lambda v: v.power_state),
    ("host", lambda v: v.host.name),
    ("cluster", lambda v: v.host.cluster.name),
    ("project", lambda v: v.project),
    ("offering", lambda v: v.offering),
    ("vCPUs", lambda v: v.vcpus),
    ("memory MiB", lambda v: v.memory_mib),
    ("guest OS", lambda v: v.guest_os),
    ("id", lambda v: v.pk),
    ("id on the host", lambda v: v.ref),
]
HISTORY_SHOWN = 10
EVENTS_SHOWN = 20


def _narrowed(vms: QuerySet[Vm], wanted: dict[str, str]) -> QuerySet[Vm]:
    """By ids (project "none": without one), by power state ("missing": not reported), tag of the host, and words."""
    try:
        for name, column in (("host", "host_id"), ("cluster", "host__cluster_id"), ("offering", "offering_id")):
            if name in wanted:
                vms = vms.filter(**{column: wanted[name]})
        if project := wanted.get("project"):
            vms = vms.filter(project=None) if project == "none" else vms.filter(project_id=project)
    except ValidationError:
        return vms.none()
    if power := wanted.get("power"):
        vms = vms.filter(missing_since__isnull=False) if power == "missing" else vms.filter(power_state=power)
    if tag := wanted.get("tag"):
        vms = vms.filter(host__tags__name=tag)
    if text := wanted.get("q"):
        vms = vms.filter(Q(name__icontains=text) | Q(ref__startswith=text) | Q(guest_os__icontains=text))
    return vms


@require_safe
@needs(Right.FLEET_VIEW)
def vms(request: HttpRequest) -> HttpResponse:
    """Every VM, for people who work with the fleet."""
    wanted = pages.filters(request, *FILTERS)
    found = _narrowed(access.visible_vms(request.user), wanted)
    order = listing.order_of(request, _ORDERS, "name")
    if request.GET.get("format") == "csv":
        return listing.csv_response("vms", _COLUMNS, found.order_by(*order)[: listing.CSV_ROWS])
    page = listing.page(found, order=order, cursor=request.GET.get("cursor", ""))
    ids = [vm.pk for vm in page.rows]
    usage, moving = limits.usage_by_vm(ids, now=timezone.now()), _moving(ids)
    context = {
        "page": page,
        "rows": [{"vm": vm, "usage": usage.get(vm.pk), "moving": moving.get(vm.pk, "")} for vm in page.rows],
        "total": found.count(),
        "filtered": bool(wanted),
        "wanted": wanted,
        "hosts": overview.hosts_by_name(),
        "projects": Project.objects.only("id", "name"),
        "powers": [*Vm.POWER_STATES, ("missing", "Missing")],
        "tags": tags.names(),
    }
    return pages.show(request, "consoles/vms.html", context, fragment="consoles/_vms.html")


@require_POST
@needs(Right.USERS_MANAGE)
def assign(request: HttpRequest) -> HttpResponse:
    """Gives the chosen VMs to a project, or back to the fleet."""
    form = AssignForm({"vm": request.POST.getlist("ids"), "project": request.POST.get("project", "")})
    if not form.is_valid():
        raise Invalid("Choose VMs and a project.", fields={k: list(v) for k, v in form.errors.items()})
    project = form.cleaned_data["project"]
    count = verbs.assign(form.cleaned_data["vm"], project=project, by=actor_of(request), now=timezone.now())
    words = "1 VM belongs" if count == 1 else f"{count} VMs belong"
    text = f"{words} to {project} now." if project else f"{words} to no project now."
    return pages.done(request, text, to=pages.back(request, reverse("vms")))


def _moving(vm_ids: list[UUID]) -> dict[UUID, str]:
    """Those of these VMs that are on their way to another host, with its name."""
    return {key: name for answer in ask(signals.vms_moving, vm_ids=vm_ids) for key, name in answer.items()}


def _memberships(user: User) -> dict[Any, Any]:
    return {row.project_id: row for row in user.memberships.select_related("project")}


@require_safe
@signed_in
def my_vms(request: HttpRequest) -> HttpResponse:
    """The VMs of one's projects, or of the one that ``?project=`` or else the switcher names, and the way into their
    consoles."""
    user, now = person(request), timezone.now()
    mine = _memberships(user)
    wanted = pages.filters(request, "q", "project", "power")
    chosen = None if "project" in wanted else Switcher(user).current
    shown = {**wanted, "project": str(chosen.pk)} if chosen else wanted
    found = _narrowed(access.visible_vms(user).filter(project_id__in=list(mine)), shown)
    page = listing.page(found, order=("name", "id"), cursor=request.GET.get("cursor", ""))
    ids = [vm.pk for vm in page.rows]
    usage, moving = limits.usage_by_vm(ids, now=now), _moving(ids)
    everywhere = rights.everywhere(user, VmRight.CONSOLE)
    scales = rights.everywhere(user, VmRight.SCALE)
    rows = [
        {
            "vm": vm,
            "usage": usage.get(vm.pk),
            "moving": vm.pk in moving,
            "may_scale": scales or mine[vm.project_id].can_scale,
            "why_not": why_no_console(vm, may=everywhere or mine[vm.project_id].can_console),
        }
        for vm in page.rows
    ]
    context = {
        "page": page,
        "rows": rows,
        "memberships": list(mine.values()),
        "chosen": chosen,
        "filtered": bool(wanted),
        "topics": live_topics(user, list(mine)),
        "own": limits.usage_of_user(user, now=now),
    }
    return pages.show(request, "consoles/my_vms.html", context, fragment="consoles/_my_vms.html")


def live_topics(user: User, project_ids: list[UUID]) -> str:
    """What a tenant's page watches: their own consoles and their projects."""
    return " ".join([f"user:{user.pk}", *(f"project:{project_id}" for project_id in project_ids)][:40])


def why_no_console(vm: Vm, *, may: bool) -> str:
    """Why the Console button does nothing now, or "". A full host is no reason: the page offers a way out."""
    if not may:
        return "You may see this VM, but not open its console. Ask an administrator for the console right."
    if vm.missing_since is not None:
        return "The hypervisor does not report this VM any more."
    if not vm.is_running:
        return f"The VM is {vm.get_power_state_display().lower()}. Start it first."
    if not vm.has_console:
        return "The VM has no VNC display."
    if vm.host.connection == Connection.UNREACHABLE:
        return f"{vm.host.name} cannot be reached now."
    return ""


@require_safe
@signed_in
def vm(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """One VM: facts, picture, power, consoles and what happened."""
    user, now = person(request), timezone.now()
    vm = access.vm_for(user, vm_id)
    may = {right.name.lower(): rights.on_project(user, right, vm.project_id) for right in VmRight}
    sessions = ConsoleSession.objects.visible_to(user).filter(vm=vm).for_display()
    setting = runtime.current()
    context = {
        "vm": vm,
        "now": now,
        "moving": bool(_moving([vm.pk])),
        "settings": setting,
        "usage": limits.usage_of_vm(vm, now=now),
        "host_usage": limits.usage_of_host(vm.host, now=now),
        "sessions": [
            {"session": row, "status": row.shown_status(now), "idle_seconds": row.idle_seconds(now)}
            for row in sessions.current(now).order_by("created_at", "id")
        ],
        "past": [
            {"session": row, "reason": history.why_ended(row, user), "seconds": row.duration_seconds(now)}
            for row in sessions.filter(status="closed").order_by("-ended_at")[:HISTORY_SHOWN]
        ],
        "foreign": limits.fresh_foreign(setting, now).filter(vm=vm),
        "events": _events(vm, user),
        "actions": _power_buttons(vm, may["power"]),
        "why_not": why_no_console(vm, may=may["console"]),
        "may": may,
        "topics": f"vm:{vm.pk} user:{user.pk}"
        + (f" project:{vm.project_id}" if vm.project_id else "")
        + (" operations" if user.sees_fleet else ""),
    }
    if rights.has(user, Right.FLEET_MANAGE):
        context["projects"] = Project.objects.only("id", "name")
        context["offerings"] = Offering.objects.only("id", "name")
    return pages.show(request, "consoles/vm.html", context, fragment="consoles/_vm.html")


def _events(vm: Vm, user: User) -> list[Event]:
    """What happened to a VM; members of its project read only what happened while it was theirs, and no names of those
    who run the fleet."""
    events = Event.objects.filter(subject_type=subject_of(vm)["subject_type"], subject_id=str(vm.pk))
    if rights.has(user, Right.FLEET_VIEW):
        return list(events[:EVENTS_SHOWN])
    found = list(readable_outside(events.filter(project_id=vm.project_id))[:EVENTS_SHOWN])
    actors = {pk for event in found if (pk := event.actor_user_id) is not None and pk != user.pk}
    staff = set(User.objects.filter(pk__in=actors).exclude(role=Role.TENANT).values_list("pk", flat=True))
    for event in found:
        if event.actor_user_id in staff:
            event.actor_name = NOBODY
    return found


_POWER_WORDS = {
    PowerAction.START: ("Start", "", ""),
    PowerAction.SHUTDOWN: ("Shut down", "Shut down {vm}?", "The guest is asked to shut down."),
    PowerAction.REBOOT: ("Restart", "Restart {vm}?", "The guest is asked to restart."),
    PowerAction.PAUSE: ("Pause", "Pause {vm}?", "Its CPUs stand still; its memory stays."),
    PowerAction.RESUME: ("Resume", "", ""),
    PowerAction.STOP: (
        "Power off",
        "Power off {vm}?",
        "Like pulling the plug: what is not on disk is lost. ",
    ),
    PowerAction.RESET: ("Reset", "Reset {vm}?", "Like the reset button: what is not on disk is lost."),
}


def _power_buttons(vm: Vm, may: bool) -> list[dict[str, Any]]:
    blocked = verbs.blocked_actions(vm)
    right = "" if may else "You may not start or stop VMs of this project."
    return [
        {
            "action": action.value,
            "label": label,
            "confirm": title.format(vm=vm.name),
            "body": body,
            "danger": action in {PowerAction.STOP, PowerAction.RESET},
            "why_not": right or blocked.get(action, ""),
        }
        for action, (label, title, body) in _POWER_WORDS.items()
    ]


@require_POST
@signed_in
def power(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """Starts, stops, restarts or pauses a VM, as an operation."""
    vm = access.vm_for(person(request), vm_id, VmRight.POWER)
    try:
        action = PowerAction(request.POST.get("action", ""))
    except ValueError:
        raise Invalid("There is no such power action.") from None
    operation = verbs.power(vm, action=action, by=actor_of(request), now=timezone.now())
    return pages.done(request, f"{operation.title}: under way.", to=reverse("vm", args=[vm_id]), level="info")


@require_POST
@needs(Right.FLEET_MANAGE)
def refresh(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """Reads the VM from its hypervisor now."""
    vm = verbs.refresh(access.vm_for(person(request), vm_id), now=timezone.now())
    return pages.done(request, f"{vm} is up to date.", to=reverse("vm", args=[vm_id]))


@require_POST
@needs(Right.FLEET_MANAGE)
def set_offering(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """Says which offering a VM has; its size does not change by it."""
    vm = access.vm_for(person(request), vm_id)
    form = OfferingChoiceForm(request.POST)
    if not form.is_valid():
        raise Invalid("There is no such offering.")
    verbs.set_offering(vm, by=actor_of(request), now=timezone.now(), **form.cleaned_data)
    return pages.done(request, f"The offering of {vm} is saved.", to=reverse("vm", args=[vm_id]))


@require_safe
@signed_in
def screenshot(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """The VM's display now; the right to it is the right to its console. 204 when there is none to be had."""
    vm = access.vm_for(person(request), vm_id, VmRight.CONSOLE)
    try:
        shot = verbs.screenshot(vm)
    except Exception as error:
        if as_refusal(error) is None:
            raise
        return HttpResponse(status=204, headers={"Cache-Control": "no-store"})
    return HttpResponse(shot.data, content_type=shot.media_type, headers={"Cache-Control": "no-store"})


@require_safe
@signed_in
def thumbnail(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """The fragment with the picture, fetched again now and then; says why when there is none."""
    vm = access.vm_for(person(request), vm_id, VmRight.CONSOLE)
    problem: Refusal | None = None
    try:
        verbs.screenshot(vm)
    except Exception as error:
        problem = as_refusal(error)
        if problem is None:
            raise
    return pages.show(request, "consoles/_thumbnail.html", {"vm": vm, "now": timezone.now(), "problem": problem})
