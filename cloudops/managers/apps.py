from django.apps import AppConfig


class ManagersConfig(AppConfig):
    name = "cloudops.managers"
    label = "managers"
    verbose_name = "Management servers"

    def ready(self) -> None:
        from cloudops.core.metrics import COLLECTORS
        from cloudops.managers import metrics, workers

        if metrics.collect not in COLLECTORS:
            COLLECTORS.append(metrics.collect)
        workers.connect()
