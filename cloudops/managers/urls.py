"""Addresses of the installation's own pages."""

from __future__ import annotations

from django.urls import path

from cloudops.managers.views import audit, operations, servers, settings

urlpatterns = [
    path("servers/", servers.servers, name="servers"),
    path("servers/<uuid:process_id>/drain/", servers.drain, name="server-drain"),
    path("servers/<uuid:process_id>/undrain/", servers.undrain, name="server-undrain"),
    path("settings/", settings.settings, name="settings"),
    path("audit/", audit.audit, name="audit"),
    path("my/activity/", audit.my_activity, name="my-activity"),
    path("operations/", operations.operation_list, name="operations"),
    path("operations/tray/", operations.tray, name="operations-tray"),
    path("operations/<uuid:operation_id>/", operations.operation, name="operation"),
    path("operations/<uuid:operation_id>/read/", operations.read, name="operation-read"),
]
