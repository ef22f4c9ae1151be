"""``manage.py create_admin NAME``: the first administrator of a new installation."""

from __future__ import annotations

import getpass
import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from cloudops.accounts import people
from cloudops.accounts.models import Role
from cloudops.core.actors import system
from cloudops.core.errors import Invalid

PASSWORD_VARIABLE = "CLOUDOPS_ADMIN_PASSWORD"  # noqa: S105 - the variable's name


class Command(BaseCommand):
    help = f"Creates an administrator. The password is asked for, or taken from {PASSWORD_VARIABLE}."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--email", default="")

    def handle(self, *args: Any, username: str, email: str, **options: Any) -> None:
        password = os.environ.get(PASSWORD_VARIABLE) or getpass.getpass("Password: ")
        try:
            people.create_user(
                username=username,
                password=password,
                email=email,
                role=Role.ADMIN,
                by=system("create_admin"),
                now=timezone.now(),
            )
        except Invalid as refusal:
            fields = refusal.numbers.get("fields", {})
            lines = [f"{name}: {' '.join(texts)}" for name, texts in fields.items()] if isinstance(fields, dict) else []
            raise CommandError("\n".join([refusal.detail, *lines])) from refusal
        self.stdout.write(f"{username} is an administrator now.")
