from django.apps import AppConfig


class ManagersConfig(AppConfig):
    name = "cloudops.managers"
    label = "managers"
    verbose_name = "Management servers"
