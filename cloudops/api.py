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
from cloudops.inventory.api_fleet import ClusterViewSet, OfferingViewSet, TagViewSet
from cloudops.managers.api import ServerViewSet
from consoles.api import SessionViewSet, VmSessionViewSet
from consoles.api_inventory import HostViewSet, VmViewSet
from consoles.api_slots import ForeignConnectionViewSet, HostSessionViewSet, ReleaseRequestViewSet, UsageViewSet

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
router.register("tags", TagViewSet, "tag")
router.register("console-sessions", SessionViewSet, "console-session")
router.register("release-requests", ReleaseRequestViewSet, "release-request")
router.register("foreign-connections", ForeignConnectionViewSet, "foreign-connection")

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
