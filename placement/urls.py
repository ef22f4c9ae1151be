"""Addresses of the placement pages."""

from __future__ import annotations

from django.urls import path

from placement.views import decisions, explorer, groups, policies

urlpatterns = [
    path("placement/", explorer.explorer, name="placement"),
    path("placement/try/", decisions.try_it, name="placement-try"),
    path("placement/decisions/", decisions.decisions, name="decisions"),
    path("placement/decisions/<uuid:decision_id>/", decisions.decision, name="decision"),
    path("placement/policies/<uuid:cluster_id>/", policies.policy, name="placement-policy"),
    path("placement/groups/", groups.groups, name="affinity-groups"),
    path("placement/groups/add/", groups.add, name="affinity-group-add"),
    path("placement/groups/<uuid:group_id>/edit/", groups.edit, name="affinity-group-edit"),
    path("placement/groups/<uuid:group_id>/delete/", groups.delete, name="affinity-group-delete"),
]
