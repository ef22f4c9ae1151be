"""``manage.py watch``: the watcher process."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from cloudops import __version__
from cloudops.managers import watchers


class Command(BaseCommand):
    help = "Listens to the hypervisors' events until SIGTERM or SIGINT. Any number of these share the endpoints."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        watchers.run(stop=stop, clock=timezone.now, version=__version__)
