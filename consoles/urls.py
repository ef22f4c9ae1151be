"""Addresses of the pages that show consoles."""

from __future__ import annotations

from django.urls import path

from consoles.views import board, console, fleet, mine, vms

urlpatterns = [
    path("fleet/", fleet.fleet, name="fleet"),
    path("hosts/<uuid:host_id>/", fleet.host, name="host"),
    path("hosts/<uuid:host_id>/chart.json", fleet.host_chart, name="host-chart"),
    path("vms/", vms.vms, name="vms"),
    path("vms/assign/", vms.assign, name="vms-assign"),
    path("vms/<uuid:vm_id>/", vms.vm, name="vm"),
    path("vms/<uuid:vm_id>/power/", vms.power, name="vm-power"),
    path("vms/<uuid:vm_id>/refresh/", vms.refresh, name="vm-refresh"),
    path("vms/<uuid:vm_id>/offering/", vms.set_offering, name="vm-offering"),
    path("vms/<uuid:vm_id>/screenshot/", vms.screenshot, name="vm-screenshot"),
    path("vms/<uuid:vm_id>/thumbnail/", vms.thumbnail, name="vm-thumbnail"),
    path("vms/<uuid:vm_id>/console/", console.vm_console, name="vm-console"),
    path("console/<uuid:session_id>/", console.session_console, name="session-console"),
    path("consoles/", board.board, name="consoles"),
    path("consoles/history/", board.history, name="console-history"),
    path("consoles/chart.json", board.chart, name="console-chart"),
    path("consoles/disconnect/", board.disconnect, name="consoles-disconnect"),
    path("consoles/disconnect-idle/", board.disconnect_idle, name="consoles-disconnect-idle"),
    path("consoles/<uuid:session_id>/ask/", board.ask_release, name="console-ask"),
    path("consoles/foreign/<int:connection_id>/drop/", board.drop, name="foreign-drop"),
    path("my/vms/", vms.my_vms, name="my-vms"),
    path("my/consoles/", mine.my_consoles, name="my-consoles"),
    path("my/consoles/disconnect/", mine.disconnect_mine, name="my-consoles-disconnect"),
    path("my/requests/<uuid:request_id>/", mine.answer, name="release-answer"),
]
