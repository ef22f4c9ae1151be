from django.apps import AppConfig


class ScalingConfig(AppConfig):
    name = "scaling"
    verbose_name = "Scaling"

    def ready(self) -> None:
        from cloudops.accounts import signals as accounts
        from scaling import quotas

        accounts.project_use.connect(quotas.on_project_use)
