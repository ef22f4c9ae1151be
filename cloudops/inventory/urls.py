"""Addresses of the pages that change the inventory, and of the palette's search."""

from __future__ import annotations

from django.urls import path

from cloudops.inventory.views import clusters, hosts, offerings, search, templates

urlpatterns = [
    path("hosts/add/", hosts.add, name="host-add"),
    path("hosts/probe/", hosts.probe, name="host-probe"),
    path("hosts/<uuid:host_id>/edit/", hosts.edit, name="host-edit"),
    path("hosts/<uuid:host_id>/test/", hosts.test, name="host-test"),
    path("hosts/<uuid:host_id>/certificate/", hosts.accept_certificate, name="host-certificate"),
    path("hosts/<uuid:host_id>/cordon/", hosts.cordon, name="host-cordon"),
    path("hosts/<uuid:host_id>/uncordon/", hosts.uncordon, name="host-uncordon"),
    path("hosts/<uuid:host_id>/sync/", hosts.sync, name="host-sync"),
    path("hosts/<uuid:host_id>/tags/", hosts.set_tags, name="host-tags"),
    path("hosts/<uuid:host_id>/remove/", hosts.remove, name="host-remove"),
    path("clusters/", clusters.clusters, name="clusters"),
    path("clusters/add/", clusters.add, name="cluster-add"),
    path("clusters/<uuid:cluster_id>/edit/", clusters.edit, name="cluster-edit"),
    path("clusters/<uuid:cluster_id>/delete/", clusters.delete, name="cluster-delete"),
    path("offerings/", offerings.offerings, name="offerings"),
    path("offerings/add/", offerings.add, name="offering-add"),
    path("offerings/<uuid:offering_id>/", offerings.offering, name="offering"),
    path("offerings/<uuid:offering_id>/edit/", offerings.edit, name="offering-edit"),
    path("offerings/<uuid:offering_id>/delete/", offerings.delete, name="offering-delete"),
    path("templates/", templates.templates, name="templates"),
    path("templates/add/", templates.add, name="template-add"),
    path("templates/<uuid:template_id>/edit/", templates.edit, name="template-edit"),
    path("templates/<uuid:template_id>/delete/", templates.delete, name="template-delete"),
    path("search/", search.search, name="search"),
]
