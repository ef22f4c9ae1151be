"""Choosing another size for a VM: every offering and how it is reached, the plan for one, and carrying it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from cloudops.accounts.models import User
from cloudops.accounts.pages import person, signed_in
from cloudops.accounts.rights import VmRight
from cloudops.core import pages, runtime
from cloudops.core.errors import Invalid, Refusal
from cloudops.core.models import RuntimeSettings
from cloudops.core.problems import as_refusal
from cloudops.core.requests import actor_of
from cloudops.hypervisors.port import ScalingFacts, ScalingState
from cloudops.inventory import access, offering_rules
from cloudops.inventory.models import Connection, Offering, OfferingKind, Vm
from scaling import choosing, planning, quotas, resizes, subjects, telling, telling_resizes, words
from scaling.forms import SizeForm
from scaling.matrix import matrix
from scaling.resize_errors import PlanOutdated
from scaling.telling import NEXT_START, PlanTold, ResourceTold, amount
from scaling.values import Plan, Reach, Size, Wanted
from scaling.views.vm import facts

SIZE: Final = ("vcpus", "memory_mib", "cpu_mhz")
DOWNTIME: Final = (
    "The guest is asked to shut down. It has {seconds} s for that; it is never powered off instead.",
    "Its definition gets the new size{move}.",
    "It is started again and looked at: it must have the new size.",
)


@dataclass
class Choice:
    """What somebody has chosen so far. ``typed``: the size as it was sent, for another look at it."""

    offering: Offering | None = None
    form: SizeForm | None = None
    wanted: Wanted | None = None
    typed: Mapping[str, Any] = field(default_factory=dict)
    problem: Refusal | None = None
    stale: list[str] = field(default_factory=list)
    confirmed: bool = False


@signed_in
def scale(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """GET: every offering, and the plan for the one that the address names. POST: carries that plan out."""
    user, now = person(request), timezone.now()
    vm, settings = access.vm_for(user, vm_id, VmRight.SCALE), runtime.current()
    choice = _choice(vm, request.POST if request.method == "POST" else request.GET)
    status = 200
    if request.method == "POST":
        done = _carry_out(request, vm, choice, now)
        if done is not None:
            return done
        status = choice.problem.status if choice.problem else 409
    context = _context(user, vm, choice, settings, now)
    context["groups"], context["counts"], context["total"] = _offerings(
        vm, user, request.GET.get("reach", ""), settings, now
    )
    return pages.show(request, "scaling/scale.html", context, fragment="scaling/_scale.html", status=status)


def _choice(vm: Vm, sent: Mapping[str, Any]) -> Choice:
    """The offering and size that somebody sent; what is wrong with the size is beside its field."""
    if not sent.get("offering"):
        return Choice()
    try:
        offering = choosing.offerings_for(vm).get(pk=UUID(str(sent["offering"])))
    except (ValueError, Offering.DoesNotExist):
        return Choice(problem=Invalid("There is no such offering.", remedy="Choose one of the list."))
    size = subjects.size_of(vm)
    if offering.kind == OfferingKind.FIXED:
        return Choice(offering=offering, wanted=subjects.wanted(offering))
    typed = {name: sent[name] for name in SIZE if sent.get(name)}
    start = subjects.wanted(offering, like=size).size
    first = {name: getattr(start, name) or "" for name in SIZE}
    form = SizeForm(offering, {**first, **typed}, marks=_marks(vm, size))
    choice = Choice(offering=offering, form=form, typed=typed)
    if form.is_valid():
        given = {name: form.cleaned_data[name] or None for name in form.fields}
        choice.wanted = pages.attempt(form, lambda: subjects.wanted(offering, **given))
    return choice


def _marks(vm: Vm, size: Size) -> dict[str, list[dict[str, Any]]]:
    """What the sliders mark: what it has, and how far it grows live."""
    has = {"vcpus": size.vcpus, "memory_mib": size.memory_mib}
    marks: dict[str, list[dict[str, Any]]] = {name: [{"at": at, "label": "now"}] for name, at in has.items()}
    if vm.scaling:
        ceiling = ScalingFacts.from_json(vm.scaling)
        for name, at in (("vcpus", ceiling.max_vcpus), ("memory_mib", ceiling.max_memory_mib)):
            marks[name].append({"at": at, "label": "live ceiling", "ceiling": True})
    return marks


def _carry_out(request: HttpRequest, vm: Vm, choice: Choice, now: datetime) -> HttpResponse | None:
    """Does what was confirmed; None when it was refused, with the reason in ``choice``."""
    if choice.offering is None or choice.wanted is None:
        choice.problem = choice.problem or Invalid("Choose an offering and a size.")
        return None
    how, token, by = request.POST.get("how", ""), request.POST.get("plan", ""), actor_of(request)
    choice.confirmed = request.POST.get("confirmed") == "yes"
    try:
        if how == NEXT_START:
            resizes.at_next_start(vm, wanted=choice.wanted, token=token, by=by, now=now)
            text = f"{vm} gets {telling.size_words(choice.wanted.size)} at its next start."
            return pages.done(request, text, to=reverse("vm", args=[vm.pk]))
        operation = resizes.resize(vm, wanted=choice.wanted, how=_way(how, choice), token=token, by=by, now=now)
    except PlanOutdated as outdated:
        choice.stale = list(words.changes_words(outdated.changes))
        return None
    except Exception as error:
        choice.problem = as_refusal(error)
        if choice.problem is None:
            raise
        return None
    return pages.done(request, f"{operation.title}: under way.", to=reverse("vm-scale", args=[vm.pk]), level="info")


def _way(how: str, choice: Choice) -> Reach:
    ways = {str(reach): reach for reach in (Reach.LIVE, Reach.MOVE, Reach.RESTART, Reach.NOW)}
    if how not in ways:
        raise Invalid("There is no such way to resize a VM.", remedy="Use one of the buttons.")
    if ways[how] is Reach.RESTART and not choice.confirmed:
        raise Invalid(
            "A restart shuts the VM down. Nothing was done.", remedy="Confirm that it may be shut down, and send again."
        )
    return ways[how]


def _context(user: User, vm: Vm, choice: Choice, settings: RuntimeSettings, now: datetime) -> dict[str, Any]:
    context = facts(vm, user, settings=settings)
    context |= {
        "chosen": choice.offering,
        "form": choice.form,
        "stale": choice.stale,
        "confirmed": choice.confirmed,
        "refusal": choice.problem if choice.wanted is None else None,
        "plan_problem": choice.problem if choice.wanted is not None else None,
        "shown_resize": context["running"] or _just_ended(context["past"], now),
        "why_not_now": "It is being resized already." if context["running"] else "",
        "quota_words": _quota_words(vm),
    }
    if choice.wanted is not None:
        context |= _planned(user, vm, choice, choice.wanted, settings, now)
    return context


JUST_ENDED_SECONDS: Final = 600


def _just_ended(past: list[telling_resizes.ResizeLine], now: datetime) -> telling_resizes.ResizeLine | None:
    """The last resize, as long as somebody may still be looking at how it went, or it is not complete."""
    last = past[0] if past else None
    if last is None or last.row.ended_at is None:
        return None
    lately = (now - last.row.ended_at).total_seconds() < JUST_ENDED_SECONDS
    return last if lately or last.may_continue else None


def _planned(
    user: User, vm: Vm, choice: Choice, wanted: Wanted, settings: RuntimeSettings, now: datetime
) -> dict[str, Any]:
    """The plan as things are this moment: the hypervisor is asked."""
    try:
        _, plan = resizes.plan_now(vm, wanted, now=now)
    except Exception as error:
        problem = as_refusal(error)
        if problem is None:
            raise
        return {"plan_problem": problem}
    told = telling.tell(plan, sees_fleet=user.sees_fleet, ways=telling.ways_to(vm, wanted, plan))
    move = " on another host, as its own has no room" if told.moves and user.sees_fleet else ""
    seconds = settings.scaling_shutdown_seconds
    return {
        "plan": told,
        "rows": [_row(one) for one in told.measured],
        "asked": [(name, value) for name in SIZE if choice.form and (value := getattr(wanted.size, name))],
        "downtime": [step.format(seconds=seconds, move=move) for step in DOWNTIME],
    }


def _row(told: ResourceTold) -> dict[str, Any]:
    numbers = ("current", "wanted", "given", "ceiling", "step", "free_here")
    shown = {name: "" if (n := getattr(told, name)) is None else amount(n, told.unit) for name in numbers}
    word, kind = telling.REACHES[told.reach]
    return {"told": told, "word": word, "kind": kind, **shown}


def _quota_words(vm: Vm) -> str:
    if vm.project is None or (vm.project.quota_vcpus is None and vm.project.quota_memory_mib is None):
        return ""
    used = quotas.usage(vm.project)
    parts = [
        f"{amount(has, unit) if unit == 'MiB' else has} of {amount(quota, unit)}"
        for has, quota, unit in (
            (used.vcpus, used.quota_vcpus, "vCPU"),
            (used.memory_mib, used.quota_memory_mib, "MiB"),
        )
        if quota is not None
    ]
    return f"{vm.project.name} has {' and '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Line:
    """One offering of the matrix."""

    offering: Offering
    plan: PlanTold
    vcpus: str
    memory: str
    speed: str
    why: str
    remedy: str


def _offerings(
    vm: Vm, user: User, only: str, settings: RuntimeSettings, now: datetime
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """The matrix in groups, from the easiest on; the counts for the filter; and how many offerings there are."""
    rows = list(choosing.offerings_for(vm))
    found = matrix([vm], rows, settings=settings, now=now, states=_told(vm))
    lines = [_line(row, found.plan(vm, row), user) for row in rows]
    groups, counts = [], []
    for reach in Reach:
        of_it = [one for one in lines if one.plan.reach is reach]
        if of_it:
            counts.append({"reach": str(reach), "label": telling.GROUPS[reach], "count": len(of_it)})
            if only in ("", str(reach)):
                groups.append({"label": telling.GROUPS[reach], "lines": of_it})
    return groups, counts, len(lines)


def _told(vm: Vm) -> dict[UUID, ScalingState]:
    """What the VM's hypervisor says this moment; nothing where it cannot be asked: the rows do then."""
    if vm.missing_since is not None or vm.host.connection != Connection.UP:
        return {}
    try:
        return {vm.pk: planning.truth(vm)}
    except Exception as error:
        if as_refusal(error) is None:
            raise
        return {}


def _line(offering: Offering, plan: Plan, user: User) -> Line:
    told = telling.tell(plan, sees_fleet=user.sees_fleet, with_token=False)
    size = offering_rules.words(offering_rules.values(offering))
    first = next((one for one in told.reasons if one.code != "busy"), None)
    remedy = first.remedies[0] if first and first.remedies and told.reach is Reach.IMPOSSIBLE else ""
    return Line(offering, told, size.vcpus, size.memory, size.speed, first.words if first else told.headline, remedy)
