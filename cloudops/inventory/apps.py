from django.apps import AppConfig


class InventoryConfig(AppConfig):
    name = "cloudops.inventory"
    label = "inventory"
    verbose_name = "Inventory"

    def ready(self) -> None:
        from cloudops.core import problems
        from cloudops.inventory.errors import from_hypervisor

        if from_hypervisor not in problems.CONVERTERS:
            problems.CONVERTERS.append(from_hypervisor)
