"""``manage.py render_reference``: writes docs/configuration.md."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from cloudops.core.reference import configuration


class Command(BaseCommand):
    help = "Writes docs/configuration.md from the code."

    def handle(self, *args: Any, **options: Any) -> None:
        path = settings.BASE_DIR / "docs" / "configuration.md"
        path.write_text(configuration(), encoding="utf-8")
        self.stdout.write(f"wrote {path.relative_to(settings.BASE_DIR)}")
