from django.apps import AppConfig


class PlacementConfig(AppConfig):
    name = "placement"
    verbose_name = "Placement"

    def ready(self) -> None:
        from django.db.models.signals import post_save

        from cloudops.core import events, operations_view
        from cloudops.core.models import RuntimeSettings
        from cloudops.inventory import signals as inventory
        from placement import capacity, holds, moving, power_claims, removals, signals, vm_migrations
        from placement.maintenance import advancing

        operations_view.keep_inside(vm_migrations.KIND, "Migrate")
        inside = ("vm.migration_unclear", "vm.migration_leftover", f"operation.{vm_migrations.KIND}", "maintenance.")
        events.keep_inside(*inside)
        inventory.vm_starting.connect(power_claims.on_vm_starting)
        inventory.vm_start_failed.connect(power_claims.on_vms_changed)
        inventory.vms_changed.connect(power_claims.on_vms_changed)
        inventory.vms_moving.connect(moving.on_vms_moving)
        inventory.vm_stopped.connect(power_claims.on_vm_stopped)
        inventory.hosts_changed.connect(power_claims.on_hosts_changed)
        inventory.vm_use.connect(removals.on_vm_use)
        inventory.host_hold.connect(holds.on_host_hold)
        inventory.host_use.connect(removals.on_host_use)
        inventory.host_removing.connect(removals.on_host_removing)
        signals.migration_ended.connect(power_claims.on_migration_ended)
        signals.migration_ended.connect(advancing.on_migration_ended)
        post_save.connect(capacity.on_settings_saved, sender=RuntimeSettings)
