"""The API of maintenance: preview, start, watch, choose, end, bring home."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import Right, demand
from cloudops.core.filters import Choice as ChoiceFilter
from cloudops.core.filters import Filters, Flag, Text, Uuid
from cloudops.core.rest import ApiViewSet, Lists
from cloudops.inventory.models import Host
from placement import maintenance
from placement.maintenance import Choice, Options
from placement.maintenance.jobs import OVER
from placement.models import Maintenance, MaintenanceHost, MaintenanceMove, MaintenanceStatus, MoveStatus
from placement.serializers_maintenance import (
    CancelBody,
    ChooseBody,
    EndBody,
    HomecomingSerializer,
    MaintenanceBody,
    MaintenanceDetailSerializer,
    MaintenanceSerializer,
    MoveSerializer,
    PreviewBody,
    PreviewSerializer,
    RetriedSerializer,
    as_choice,
    hosts_of,
    options_of,
)

BLOCKED_SHOWN: Final = 100
Counts = tuple[int, dict[str, int]]


class MaintenanceFilters(Filters):
    """What may narrow the jobs."""

    current = Flag(method="going_on", help_text="Whether it has not ended.")
    status = ChoiceFilter(choices=MaintenanceStatus.choices)
    mode = ChoiceFilter(choices=Maintenance.Mode.choices)
    host = Uuid("hosts__host_id")
    origin = Uuid("origin_id")
    search = Text(method="matching", max_length=100, help_text="In title or reason.")

    class Meta:
        model = Maintenance
        fields: list[str] = []

    def going_on(self, rows: QuerySet[Maintenance], name: str, value: bool) -> QuerySet[Maintenance]:
        """Jobs that have not ended, or those that have."""
        return rows.exclude(status__in=OVER) if value else rows.filter(status__in=OVER)

    def matching(self, rows: QuerySet[Maintenance], name: str, value: str) -> QuerySet[Maintenance]:
        """Jobs whose title or reason holds ``value``."""
        return rows.filter(Q(title__icontains=value) | Q(reason__icontains=value))


class MoveFilters(Filters):
    """What may narrow a job's VMs."""

    status = ChoiceFilter(choices=MoveStatus.choices)
    vm = Uuid("vm_id")
    source = Uuid("source_id")

    class Meta:
        model = MaintenanceMove
        fields: list[str] = []


MOVES: Final = MaintenanceMove.objects.select_related("vm", "source", "target", "choice_host")


def _counts(ids: list[UUID]) -> dict[UUID, Counts]:
    """Each job's hosts, and its VMs by status. Two queries."""
    rows = MaintenanceHost.objects.filter(maintenance__in=ids).order_by().values_list("maintenance_id")
    hosts = dict(rows.annotate(count=Count("id")))
    moves: dict[UUID, dict[str, int]] = defaultdict(dict)
    found = MaintenanceMove.objects.filter(maintenance__in=ids).order_by().values_list("maintenance_id", "status")
    for job_id, status, count in found.annotate(count=Count("id")):
        moves[job_id][status] = count
    return {pk: (hosts.get(pk, 0), moves[pk]) for pk in ids}


@extend_schema_view(list=extend_schema(summary="List maintenance jobs, latest first"))
class MaintenanceViewSet(Lists, ApiViewSet):
    """Jobs that empty hosts live, hold them empty, and bring their VMs home."""

    queryset = Maintenance.objects.all()
    serializer_class = MaintenanceSerializer
    filterset_class = MaintenanceFilters
    ordering = ("-created_at", "id")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "fleet.manage"}
    _page: dict[UUID, Counts] | None = None

    def prepare(self, rows: list[Any]) -> None:
        self._page = _counts([row.pk for row in rows])

    def counts_of(self, job: Maintenance) -> Counts:
        """The job's hosts and VMs by status; a page's jobs are counted together."""
        found = self._page if self._page is not None and job.pk in self._page else _counts([job.pk])
        return found[job.pk]

    def _told(self, job: Maintenance, *, status: int = 200) -> Response:
        report = maintenance.report(job, now=self.now)
        self._page = {job.pk: (len(report.hosts), report.counts)}
        blocked = MOVES.filter(maintenance=job, status=MoveStatus.BLOCKED).order_by("position", "pk")[:BLOCKED_SHOWN]
        context = {**self.get_serializer_context(), "report": report, "blocked": blocked}
        return Response(MaintenanceDetailSerializer(job, context=context).data, status=status)

    def _new(self, job: Maintenance) -> Response:
        """201 with the job's address when this request made it, 200 with the job that there was already."""
        made = job.created_at == self.now
        response = self._told(job, status=201 if made else 200)
        response["Location"] = f"/api/v1/maintenances/{job.pk}/"
        return response

    def _options(self, wanted: dict[str, Any]) -> Options:
        options = options_of(wanted)
        if any(choice.main == Choice.STOP for choice in options.choices.values()):
            demand(self.request.user, Right.HOSTS_FENCE)
        return options

    @extend_schema(
        summary="Read one maintenance job",
        responses=MaintenanceDetailSerializer,
        description="Its VMs are under `moves/`.",
    )
    def retrieve(self, request: Request, pk: str) -> Response:
        return self._told(self.get_object())

    @extend_schema(
        summary="Start to empty hosts",
        description=(
            "From here on they take no VMs. Asked twice, it is one job: the second answer is 200 with the same one. "
            "Letting a VM be stopped (choice `stop`) needs `hosts.fence`."
        ),
        request=MaintenanceBody,
        responses={200: MaintenanceDetailSerializer, 201: MaintenanceDetailSerializer},
    )
    def create(self, request: Request) -> Response:
        wanted = self.body(MaintenanceBody)
        job = maintenance.start(
            host_ids=hosts_of(wanted),
            options=self._options(wanted),
            title=wanted["title"],
            reason=wanted["reason"],
            by=self.by,
            now=self.now,
        )
        return self._new(job)

    @extend_schema(
        summary="See what emptying hosts would do",
        description="Destinations, order, every host before and after, what blocks it with remedies, expected time.",
        request=PreviewBody,
        responses=PreviewSerializer,
        filters=False,
    )
    @action(detail=False, methods=["post"], pagination_class=None)
    def preview(self, request: Request) -> Response:
        wanted = self.body(PreviewBody)
        found = maintenance.preview(host_ids=hosts_of(wanted), options=options_of(wanted), now=self.now)
        return self.shown(found, serializer=PreviewSerializer)

    @extend_schema(
        summary="Cancel a maintenance job",
        description="Its hosts are used again at once; VMs that were moved stay where they are.",
        request=CancelBody,
        responses=MaintenanceDetailSerializer,
    )
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        wanted = self.body(CancelBody)
        return self._told(maintenance.cancel(self.get_object(), by=self.by, now=self.now, **wanted))

    @extend_schema(
        summary="Take a cancelled job up again",
        description="As a new job, with the hosts and choices that were left. Stopping a VM is never carried over.",
        request=None,
        responses={200: MaintenanceDetailSerializer, 201: MaintenanceDetailSerializer},
    )
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        return self._new(maintenance.resume(self.get_object(), by=self.by, now=self.now))

    @extend_schema(summary="Try every blocked VM again", request=None, responses=RetriedSerializer)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        count = maintenance.retry(self.get_object(), by=self.by, now=self.now)
        return self.shown({"retried": count}, serializer=RetriedSerializer)

    @extend_schema(
        summary="Complete a maintenance",
        description="Its hosts are used again. Refused while VMs have yet to leave or hosts wait for their turn.",
        request=EndBody,
        responses=MaintenanceDetailSerializer,
    )
    @action(detail=True, methods=["post"])
    def complete(self, request: Request, pk: str) -> Response:
        wanted = self.body(EndBody)
        return self._told(maintenance.complete(self.get_object(), by=self.by, now=self.now, **wanted))

    @extend_schema(summary="See who could be brought home now", responses=HomecomingSerializer)
    @action(detail=True, methods=["get"])
    def homecoming(self, request: Request, pk: str) -> Response:
        found = maintenance.homecoming(self.get_object(), now=self.now)
        return self.shown(found, serializer=HomecomingSerializer)

    @extend_schema(
        summary="Bring a job's VMs home",
        description="A job of its own. VMs that were moved on meanwhile, or find no room, stay and are told.",
        request=None,
        responses={200: MaintenanceDetailSerializer, 201: MaintenanceDetailSerializer},
    )
    @action(detail=True, methods=["post"], url_path="bring-home")
    def bring_home(self, request: Request, pk: str) -> Response:
        return self._new(maintenance.bring_home(self.get_object(), by=self.by, now=self.now))


@extend_schema(tags=["maintenances"])
class MaintenanceHostViewSet(MaintenanceViewSet):
    """One host of a job."""

    @extend_schema(
        summary="Give one host back to use",
        description="Of several that are emptied in turns: the next one's turn comes. The last one completes the job.",
        request=EndBody,
        responses=MaintenanceDetailSerializer,
    )
    def release(self, request: Request, pk: str, host_id: str) -> Response:
        job, wanted = self.get_object(), self.body(EndBody)
        host = get_object_or_404(Host, pk=host_id)
        return self._told(maintenance.release_host(job, host=host, by=self.by, now=self.now, **wanted))


@extend_schema(tags=["maintenances"])
class MoveViewSet(ApiViewSet):
    """The VMs of a job."""

    queryset = MOVES
    serializer_class = MoveSerializer
    filterset_class = MoveFilters
    ordering = ("position", "id")
    rights = {"list": "fleet.view", "*": "fleet.manage"}

    def _row(self, pk: str, move_id: str) -> MaintenanceMove:
        return get_object_or_404(MOVES.select_related("maintenance"), pk=move_id, maintenance=pk)

    @extend_schema(summary="List a job's VMs, in the plan's order")
    def list(self, request: Request, pk: str) -> Response:
        job = get_object_or_404(Maintenance, pk=pk)
        return self.page(self.filter_queryset(self.get_queryset().filter(maintenance=job)))

    @extend_schema(
        summary="Choose something for one VM",
        description="The job goes on with it at once. The choice `stop` needs `hosts.fence`.",
        request=ChooseBody,
        responses=MoveSerializer,
    )
    def choose(self, request: Request, pk: str, move_id: str) -> Response:
        row, wanted = self._row(pk, move_id), self.body(ChooseBody)
        choice = as_choice(wanted["choice"])
        if choice == Choice.STOP:
            demand(request.user, Right.HOSTS_FENCE)
        maintenance.choose(row, choice=choice, host=wanted.get("host"), by=self.by, now=self.now)
        return self.shown(self._row(pk, move_id))

    @extend_schema(summary="Try one VM again", request=None, responses=MoveSerializer)
    def retry(self, request: Request, pk: str, move_id: str) -> Response:
        row = self._row(pk, move_id)
        maintenance.retry(row.maintenance, move=row, by=self.by, now=self.now)
        return self.shown(self._row(pk, move_id))
