"""The API's composition root: /api/v1/, its description and its browsable reference."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.urls import URLPattern, URLResolver, include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import permissions
from rest_framework.request import Request
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView

from cloudops.accounts.api import MembershipViewSet, MeViewSet, ProjectViewSet, TokenViewSet, UserViewSet
from cloudops.core import schema as _schema  # noqa: F401 - registers converters and schema extensions
from cloudops.core.api import EventViewSet, OperationViewSet, SettingsViewSet
from cloudops.core.errors import NotFound
from cloudops.inventory.api_fleet import ClusterViewSet, OfferingViewSet, TagViewSet, TemplateViewSet
from cloudops.managers.api import ServerViewSet
from consoles.api import SessionViewSet, VmSessionViewSet
from consoles.api_inventory import HostViewSet, VmViewSet
from consoles.api_slots import ForeignConnectionViewSet, HostSessionViewSet, ReleaseRequestViewSet, UsageViewSet
from placement.api import (
    AffinityGroupViewSet,
    CapacityViewSet,
    ClusterPolicyViewSet,
    DecisionViewSet,
    PlacementViewSet,
)
from placement.api_maintenance import MaintenanceHostViewSet, MaintenanceViewSet, MoveViewSet
from placement.api_migrations import FenceViewSet, MigrationViewSet, VmMigrationViewSet
from scaling.api import (
    BulkPreflightViewSet,
    ClusterHeadroomViewSet,
    ResizeViewSet,
    VmHeadroomViewSet,
    VmResizeViewSet,
    VmScalingViewSet,
)

router = SimpleRouter(use_regex_path=False)
router.register("users", UserViewSet, "user")
router.register("projects", ProjectViewSet, "project")
router.register("memberships", MembershipViewSet, "membership")
router.register("tokens", TokenViewSet, "token")
router.register("events", EventViewSet, "event")
router.register("operations", OperationViewSet, "operation")
router.register("servers", ServerViewSet, "server")
router.register("clusters", ClusterViewSet, "cluster")
router.register("hosts", HostViewSet, "host")
router.register("vms", VmViewSet, "vm")
router.register("offerings", OfferingViewSet, "offering")
router.register("templates", TemplateViewSet, "template")
router.register("tags", TagViewSet, "tag")
router.register("console-sessions", SessionViewSet, "console-session")
router.register("release-requests", ReleaseRequestViewSet, "release-request")
router.register("foreign-connections", ForeignConnectionViewSet, "foreign-connection")
router.register("decisions", DecisionViewSet, "decision")
router.register("placements", PlacementViewSet, "placement")
router.register("cluster-policies", ClusterPolicyViewSet, "cluster-policy")
router.register("affinity-groups", AffinityGroupViewSet, "affinity-group")
router.register("migrations", MigrationViewSet, "migration")
router.register("maintenances", MaintenanceViewSet, "maintenance")
router.register("resizes", ResizeViewSet, "resize")

_single: list[URLPattern] = [
    path("me/", MeViewSet.as_view({"get": "retrieve", "patch": "partial_update"}), name="me"),
    path("settings/", SettingsViewSet.as_view({"get": "retrieve", "patch": "partial_update"}), name="settings"),
    path("console-usage/", UsageViewSet.as_view({"get": "summary"}), name="console-usage"),
    path("hosts/<uuid:host_id>/console-usage/", UsageViewSet.as_view({"get": "of_host"}), name="host-console-usage"),
    path("vms/<uuid:vm_id>/console-usage/", UsageViewSet.as_view({"get": "of_vm"}), name="vm-console-usage"),
    path("hosts/<uuid:host_id>/console-sessions/", HostSessionViewSet.as_view({"get": "list"}), name="host-sessions"),
    path(
        "vms/<uuid:vm_id>/console-sessions/",
        VmSessionViewSet.as_view({"get": "list", "post": "create"}),
        name="vm-console-sessions",
    ),
    path("capacity/", CapacityViewSet.as_view({"get": "clusters"}), name="capacity"),
    path("capacity/hosts/", CapacityViewSet.as_view({"get": "list"}), name="capacity-hosts"),
    path("capacity/drift/", CapacityViewSet.as_view({"get": "drift"}), name="capacity-drift"),
    path("capacity/drift/mend/", CapacityViewSet.as_view({"post": "mend"}), name="capacity-drift-mend"),
    path("vms/<uuid:vm_id>/migrations/", VmMigrationViewSet.as_view({"post": "create"}), name="vm-migrations"),
    path("vms/<uuid:vm_id>/migration-targets/", VmMigrationViewSet.as_view({"get": "targets"}), name="vm-targets"),
    path("hosts/<uuid:host_id>/fence/", FenceViewSet.as_view({"post": "fence"}), name="host-fence"),
    path("hosts/<uuid:host_id>/unfence/", FenceViewSet.as_view({"post": "unfence"}), name="host-unfence"),
    path(
        "maintenances/<uuid:pk>/hosts/<uuid:host_id>/release/",
        MaintenanceHostViewSet.as_view({"post": "release"}),
        name="maintenance-release",
    ),
    path("maintenances/<uuid:pk>/moves/", MoveViewSet.as_view({"get": "list"}), name="maintenance-moves"),
    path(
        "maintenances/<uuid:pk>/moves/<uuid:move_id>/choose/",
        MoveViewSet.as_view({"post": "choose"}),
        name="maintenance-choose",
    ),
    path(
        "maintenances/<uuid:pk>/moves/<uuid:move_id>/retry/",
        MoveViewSet.as_view({"post": "retry"}),
        name="maintenance-retry",
    ),
    path("vms/<uuid:vm_id>/size/", VmScalingViewSet.as_view({"get": "size"}), name="vm-size"),
    path("vms/<uuid:vm_id>/offerings/", VmScalingViewSet.as_view({"get": "offerings"}), name="vm-offerings"),
    path(
        "vms/<uuid:vm_id>/resize/preflight/",
        VmScalingViewSet.as_view({"post": "preflight"}),
        name="vm-resize-preflight",
    ),
    path("vms/<uuid:vm_id>/resize/", VmScalingViewSet.as_view({"post": "resize"}), name="vm-resize"),
    path(
        "vms/<uuid:vm_id>/resize/next-start/",
        VmScalingViewSet.as_view({"post": "at_next_start", "delete": "forget_next_start"}),
        name="vm-next-start",
    ),
    path(
        "vms/<uuid:vm_id>/prepare-scaling/",
        VmScalingViewSet.as_view({"post": "prepare_scaling"}),
        name="vm-prepare-scaling",
    ),
    path("vms/<uuid:vm_id>/size-history/", VmScalingViewSet.as_view({"get": "history"}), name="vm-size-history"),
    path("vms/<uuid:vm_id>/resizes/", VmResizeViewSet.as_view({"get": "list"}), name="vm-resizes"),
    path(
        "vms/<uuid:vm_id>/headroom/",
        VmHeadroomViewSet.as_view({"get": "retrieve", "patch": "partial_update"}),
        name="vm-headroom",
    ),
    path(
        "clusters/<uuid:cluster_id>/headroom/",
        ClusterHeadroomViewSet.as_view({"get": "retrieve", "patch": "partial_update"}),
        name="cluster-headroom",
    ),
    path("scaling/preflight/", BulkPreflightViewSet.as_view({"post": "create"}), name="scaling-preflight"),
]


class UnknownView(APIView):
    """Everything under /api/ that is not there: the same problem+json as elsewhere."""

    schema = None
    authentication_classes = ()
    permission_classes = (permissions.AllowAny,)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound(
            f"There is no {request.path[:200]!r} in this API.", remedy="Look at /api/docs/; addresses end with a slash."
        )


class DocsView(SpectacularSwaggerSplitView):
    """The browsable reference: Swagger UI from our own server, its start-up script in a file of its own.

    The template leaves out drf-spectacular's inline style, so that the page lives under the same strict content
    security policy as every other one.
    """

    url_name = "api:schema"
    template_name = "api/docs.html"


app_patterns: list[URLPattern | URLResolver] = [
    path("v1/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", login_required(DocsView.as_view()), name="docs"),
    path("v1/", include([*_single, *router.urls])),
    re_path(r"^.*$", UnknownView.as_view(), name="unknown"),
]
urlpatterns: list[URLPattern | URLResolver] = [path("api/", include((app_patterns, "api")))]
