"""Addresses of the placement pages."""

from __future__ import annotations

from django.urls import path

from placement.views import (
    decisions,
    drift,
    explorer,
    groups,
    host,
    maintenance,
    maintenance_new,
    migrations,
    policies,
    vm,
)

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
    path("placement/drift/", drift.drift, name="drift"),
    path("placement/drift/mend/", drift.mend, name="drift-mend"),
    path("migrations/", migrations.migrations, name="migrations"),
    path("migrations/several/", migrations.several, name="vms-migrate"),
    path("migrations/<uuid:migration_id>/abort/", migrations.abort, name="migration-abort"),
    path("vms/<uuid:vm_id>/placement/", vm.card, name="vm-placement"),
    path("vms/<uuid:vm_id>/migrate/", vm.migrate, name="vm-migrate"),
    path("hosts/<uuid:host_id>/placement/", host.card, name="host-placement"),
    path("hosts/<uuid:host_id>/fence/", host.fence, name="host-fence"),
    path("hosts/<uuid:host_id>/unfence/", host.unfence, name="host-unfence"),
    path("maintenance/", maintenance.jobs, name="maintenance"),
    path("maintenance/new/", maintenance_new.new, name="maintenance-new"),
    path("maintenance/start/", maintenance_new.start, name="maintenance-start"),
    path("maintenance/<uuid:job_id>/", maintenance.job, name="maintenance-job"),
    path("maintenance/<uuid:job_id>/cancel/", maintenance.cancel, name="maintenance-cancel"),
    path("maintenance/<uuid:job_id>/resume/", maintenance.resume, name="maintenance-resume"),
    path("maintenance/<uuid:job_id>/complete/", maintenance.complete, name="maintenance-complete"),
    path("maintenance/<uuid:job_id>/retry/", maintenance.retry, name="maintenance-retry"),
    path("maintenance/<uuid:job_id>/homecoming/", maintenance.homecoming, name="maintenance-homecoming"),
    path("maintenance/<uuid:job_id>/bring-home/", maintenance.bring_home, name="maintenance-bring-home"),
    path("maintenance/<uuid:job_id>/hosts/<uuid:host_id>/release/", maintenance.release, name="maintenance-release"),
    path("maintenance/<uuid:job_id>/moves/<uuid:move_id>/choose/", maintenance.choose, name="maintenance-choose"),
]
