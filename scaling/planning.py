"""The plan as it is this moment: the VM's hypervisor is asked first, and what it says is used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from cloudops.accounts.models import User
from cloudops.core import runtime
from cloudops.core.actors import Actor
from cloudops.hypervisors.port import ScalingState
from cloudops.inventory import endpoints
from cloudops.inventory.models import Connection, Offering, Vm
from scaling import fingerprint, subjects, words
from scaling.preflight import preflight
from scaling.resize_errors import NotReachable, PlanOutdated
from scaling.rooms import Rooms
from scaling.values import Plan, Reach, Subject, Wanted

WAYS: Final[Mapping[Reach, tuple[Reach, ...]]] = {
    Reach.SAME: (),
    Reach.NOW: (Reach.NOW,),
    Reach.LIVE: (Reach.LIVE, Reach.RESTART),
    Reach.MOVE: (Reach.MOVE, Reach.RESTART),
    Reach.RESTART: (Reach.RESTART,),
    Reach.IMPOSSIBLE: (),
}
"""By which ways a plan of this reach can be carried out at once; by restart also where live would do."""
_OF_HOSTS: Final = frozenset(
    fingerprint.NAMES[name][0] for name in ("host_name", "host_threads", "host_memory_mib", "host_mhz", "host_tags")
)
JOINS: Final = ("host__endpoint", "host__cluster__headroom", "project", "offering", "template", "size", "headroom")


def read(vm: Vm) -> Vm:
    """The VM's row now, with everything joined that planning reads."""
    return Vm.objects.select_related(*JOINS).get(pk=vm.pk)


def truth(vm: Vm) -> ScalingState:
    """What the VM's hypervisor says this moment, within its deadline. Raises ``HypervisorError``."""
    return endpoints.call(vm.host.endpoint, "scaling", lambda hypervisor: hypervisor.scaling(vm.ref))


def subject_now(vm: Vm, *, now: datetime) -> Subject:
    """The VM as its hypervisor tells it; as the rows do where it cannot be asked. ``vm`` as :func:`read` gives it.

    Raises ``HypervisorError`` when its host is taken to be up and does not answer."""
    subject = subjects.subjects([vm], settings=runtime.current(), now=now)[vm.pk]
    if vm.missing_since is not None or vm.host.connection != Connection.UP:
        return subject
    return subjects.with_state(subject, truth(vm))


def plan_now(vm: Vm, wanted: Wanted, *, now: datetime) -> tuple[Subject, Plan]:
    """How the VM gets to this size. Raises ``HypervisorError`` when its hypervisor does not answer in time."""
    vm = read(vm)
    subject = subject_now(vm, now=now)
    room = Rooms.read([vm], now=now).room(vm, wanted)
    return subject, preflight(subject, wanted, room)


def offering_of(wanted: Wanted) -> Offering | None:
    """The offering's row; None where there is none any more, or none is wanted."""
    return Offering.objects.filter(pk=UUID(wanted.offering)).first() if wanted.offering else None


def demand_current(token: str, plan: Plan, *, by: Actor) -> None:
    """Raises :class:`PlanOutdated` when the plan is another one than was shown; an empty token compares nothing."""
    changes = fingerprint.changes(token, plan) if token else []
    if changes:
        if not sees_fleet(by):
            changes = [one for one in changes if one.name not in _OF_HOSTS]
        raise PlanOutdated(" ".join(words.changes_words(changes)), changes=changes)


def sees_fleet(by: Actor) -> bool:
    """Whether who asks may read hosts' names and numbers: people who run the fleet, and CloudOps itself."""
    reader = User.objects.filter(pk=by.user_id).first() if by.user_id is not None else None
    return reader is None or reader.sees_fleet


def demand_possible(vm: Vm, plan: Plan) -> None:
    """Raises :class:`NotReachable` when there is no way at all."""
    if plan.reach is Reach.IMPOSSIBLE:
        raise not_reachable(vm, plan, how="")


def not_reachable(vm: Vm, plan: Plan, *, how: str) -> NotReachable:
    """With the reasons, their remedies and the ways that there are. Its words name no host."""
    told = words.for_tenant(plan)
    ways = [str(way) for way in WAYS[plan.reach]]
    reasons = [
        {
            "code": reason.code,
            "words": words.sentence(reason, vm.name),
            "remedies": [words.remedy(code, tenant=True) for code in reason.remedies],
        }
        for reason in told.reasons
    ]
    detail = " ".join([f"{vm.name}: {words.headline(told)}", *(str(one["words"]) for one in reasons)])
    return NotReachable(detail, how=how, reach=str(plan.reach), ways=ways, reasons=reasons)
