from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "cloudops.accounts"
    label = "accounts"
    verbose_name = "Accounts"
