"""What a project's VMs may have together: counted from rows, and demanded under a lock on the project's row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Q

from cloudops.accounts.models import Project
from cloudops.inventory.models import Vm
from scaling.models import Resize
from scaling.resize_errors import QuotaExceeded
from scaling.values import Size


@dataclass(frozen=True, slots=True)
class Counted:
    """vCPUs and memory of some VMs together, running or not."""

    vcpus: int = 0
    memory_mib: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.vcpus + other.vcpus, self.memory_mib + other.memory_mib)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project's VMs have, and its quotas (None: no quota)."""

    vcpus: int
    memory_mib: int
    quota_vcpus: int | None
    quota_memory_mib: int | None


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a project's quota, None without one; below zero where the quota was lowered afterwards."""

    vcpus: int | None = None
    memory_mib: int | None = None


def usage(project: Project) -> Usage:
    """What the project's VMs have together. Two queries."""
    sums = _together([project.pk]).get(project.pk, Counted())
    return Usage(sums.vcpus, sums.memory_mib, project.quota_vcpus, project.quota_memory_mib)


def left(project_ids: Collection[UUID]) -> dict[UUID, Left]:
    """What is left of each project's quota. Three queries, however many they are."""
    wanted = list(project_ids)
    sums = _together(wanted)
    rows = Project.objects.filter(pk__in=wanted).order_by()
    return {
        pk: Left(_less(vcpus, sums[pk].vcpus), _less(memory_mib, sums[pk].memory_mib))
        for pk, vcpus, memory_mib in rows.values_list("pk", "quota_vcpus", "quota_memory_mib")
    }


def left_beside(vms: Sequence[Vm]) -> dict[UUID, Left]:
    """For each VM what its project's quota leaves it, its own size not counted. Four queries at most."""
    projects = {vm.project_id for vm in vms if vm.project_id is not None}
    if not projects:
        return {vm.pk: Left() for vm in vms}
    found, own = left(projects), counted([vm.pk for vm in vms])
    beside = {}
    for vm in vms:
        of = found.get(vm.project_id, Left()) if vm.project_id is not None else Left()
        mine = own.get(vm.pk, Counted())
        beside[vm.pk] = Left(_plus(of.vcpus, mine.vcpus), _plus(of.memory_mib, mine.memory_mib))
    return beside


def counted(vm_ids: Collection[UUID]) -> dict[UUID, Counted]:
    """What each VM counts as: the largest of what it has, was given, waits for, and is being resized to."""
    return {pk: one for pk, (_, one) in _sizes(Q(pk__in=list(vm_ids)), Q(vm__in=list(vm_ids))).items()}


def demand(vm: Vm, size: Size) -> None:
    """Locks the project's row until the caller's transaction ends, so that two resizes cannot share what is left.

    What does not grow is always allowed, also beyond a quota that was lowered. Raises :class:`QuotaExceeded`.
    """
    if vm.project_id is None:
        return
    project = Project.objects.select_for_update(of=("self",), no_key=True).get(pk=vm.project_id)
    others = usage(project)
    own = counted([vm.pk]).get(vm.pk, Counted())
    beyond: dict[str, Any] = {}
    words = []
    wanted = (
        ("vcpus", size.vcpus, own.vcpus, others.vcpus, project.quota_vcpus, "vCPUs"),
        ("memory_mib", size.memory_mib, own.memory_mib, others.memory_mib, project.quota_memory_mib, "MiB"),
    )
    for name, wants, has, used, quota, unit in wanted:
        if quota is None or wants <= has or used - has + wants <= quota:
            continue
        beyond[name] = {"wanted": wants, "used_by_others": used - has, "quota": quota}
        words.append(f"{used - has + wants:,} of {quota:,} {unit}")
    if beyond:
        raise QuotaExceeded(f"{project.name} would have {' and '.join(words)}.", project=str(project.pk), beyond=beyond)


def on_project_use(*, project_ids: Collection[UUID], **_: Any) -> dict[UUID, dict[str, int]]:
    """Answers ``accounts.signals.project_use``: vCPUs and memory of each project's VMs."""
    return {pk: {"vcpus": one.vcpus, "memory_mib": one.memory_mib} for pk, one in _together(project_ids).items()}


def _less(quota: int | None, used: int) -> int | None:
    return None if quota is None else quota - used


def _plus(rest: int | None, own: int) -> int | None:
    return None if rest is None else rest + own


def _together(project_ids: Iterable[UUID]) -> Mapping[UUID, Counted]:
    wanted = list(project_ids)
    sums: dict[UUID, Counted] = defaultdict(Counted)
    for project, one in _sizes(Q(project__in=wanted), Q(vm__project__in=wanted)).values():
        if project is not None:
            sums[project] += one
    return sums


def _sizes(vms: Q, resizes: Q) -> dict[UUID, tuple[UUID | None, Counted]]:
    columns = ("pk", "project_id", "vcpus", "memory_mib", "size__vcpus", "size__memory_mib", "size__next_size")
    live: dict[UUID, Any] = dict(
        Resize.objects.filter(resizes, ended_at__isnull=True).order_by().values_list("vm_id", "given_size")
    )
    found = {}
    for pk, project, *own, waiting in Vm.objects.filter(vms).order_by().values_list(*columns):
        sizes = [*filter(None, (waiting, live.get(pk)))]
        vcpus = max([own[0], own[2] or 0, *(one["vcpus"] for one in sizes)])
        memory_mib = max([own[1], own[3] or 0, *(one["memory_mib"] for one in sizes)])
        found[pk] = (project, Counted(vcpus, memory_mib))
    return found
