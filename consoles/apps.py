from django.apps import AppConfig


class ConsolesConfig(AppConfig):
    name = "consoles"
    verbose_name = "Consoles"

    def ready(self) -> None:
        from cloudops.accounts import signals as accounts
        from cloudops.core.events import keep_inside
        from cloudops.inventory import signals as inventory
        from consoles import changes, metrics

        metrics.register()
        keep_inside("console.display_failed", "console.platform_limit")
        keep_inside("console.connection_dropped", "console.ghosts_dropped")
        accounts.rights_changed.connect(changes.on_rights_changed)
        accounts.project_use.connect(changes.on_project_use)
        inventory.vm_access_changed.connect(changes.on_vm_access_changed)
        inventory.vm_stopped.connect(changes.on_vm_stopped)
        inventory.vm_moved.connect(changes.on_vm_moved)
        inventory.vm_console_changed.connect(changes.on_vm_console_changed)
        inventory.host_lost.connect(changes.on_host_lost)
        inventory.host_removing.connect(changes.on_host_removing)
        inventory.host_fenced.connect(changes.on_host_fenced)
        inventory.host_console_load.connect(changes.on_host_console_load)
        inventory.vm_console_load.connect(changes.on_vm_console_load)
        inventory.host_use.connect(changes.on_host_use)
        inventory.vm_use.connect(changes.on_vm_use)
