from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "cloudops.core"
    label = "core"
    verbose_name = "Core"
