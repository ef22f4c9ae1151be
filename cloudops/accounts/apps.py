from django.apps import AppConfig
from requests import RequestException


class AccountsConfig(AppConfig):
    name = "cloudops.accounts"
    label = "accounts"
    verbose_name = "Accounts"

    def ready(self) -> None:
        from cloudops.accounts.sso import ProviderDown
        from cloudops.core.problems import CONVERTERS

        CONVERTERS.append(lambda error: ProviderDown() if isinstance(error, RequestException) else None)
