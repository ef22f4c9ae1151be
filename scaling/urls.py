"""Addresses of the pages about sizes."""

from __future__ import annotations

from django.urls import path

from scaling.views import fleet, resizes, scale, vm

urlpatterns = [
    path("scaling/", fleet.preflight, name="scaling"),
    path("scaling/clusters/<uuid:cluster_id>/", fleet.cluster_headroom, name="cluster-headroom"),
    path("vms/<uuid:vm_id>/size/", vm.card, name="vm-size"),
    path("vms/<uuid:vm_id>/size/prepare/", vm.prepare, name="vm-size-prepare"),
    path("vms/<uuid:vm_id>/size/forget/", vm.forget, name="vm-size-forget"),
    path("vms/<uuid:vm_id>/headroom/", vm.edit_headroom, name="vm-headroom"),
    path("vms/<uuid:vm_id>/scale/", scale.scale, name="vm-scale"),
    path("resizes/<uuid:resize_id>/continue/", resizes.continue_, name="resize-continue"),
    path("resizes/<uuid:resize_id>/roll-back/", resizes.roll_back, name="resize-roll-back"),
    path("resizes/<uuid:resize_id>/cancel/", resizes.cancel, name="resize-cancel"),
]
