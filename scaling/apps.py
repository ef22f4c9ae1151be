from django.apps import AppConfig


class ScalingConfig(AppConfig):
    name = "scaling"
    verbose_name = "Scaling"

    def ready(self) -> None:
        from cloudops.accounts import signals as accounts
        from cloudops.inventory import signals as inventory
        from placement import signals as placement
        from scaling import headroom, history, next_start, quotas, removals, resizes

        accounts.project_use.connect(quotas.on_project_use)
        inventory.vm_power_on.connect(headroom.on_vm_power_on)
        inventory.vms_changed.connect(next_start.on_vms_changed)
        inventory.vms_changed.connect(history.on_vms_changed)
        inventory.vm_use.connect(removals.on_vm_use)
        inventory.host_use.connect(removals.on_host_use)
        inventory.host_removing.connect(removals.on_host_removing)
        placement.migration_ended.connect(resizes.on_migration_ended)
