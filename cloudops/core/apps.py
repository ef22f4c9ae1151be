from importlib import import_module

from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "cloudops.core"
    label = "core"
    verbose_name = "Core"

    def ready(self) -> None:
        """Makes the Celery application the current one in every process, so that each can queue tasks.

        By name, because the application is a composition root and therefore above this layer.
        """
        import_module("cloudops.celery")
