"""Server time and query count of every page and list at 500 hosts, 10,000 VMs and 2,000 sessions, on PostgreSQL.

The goal is 100 ms for each page. There is no peer: the yardstick is the fixed part of any answer, measured in the same
rounds as `/healthz` (middleware, routing, no database).
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import Goal, OtherLoad, Report, arguments
from cloudops.lab.services import PrivatePostgres, PrivateRedis

GOAL_MS = 100.0
SIZE = {"hosts": 500, "vms": 10_000, "sessions": 2_000, "events": 50_000}


def main() -> None:
    """Starts a private PostgreSQL and Redis, fills the database, and measures inside this process."""
    options = arguments("Server time of every page at 500 hosts, 10,000 VMs and 2,000 sessions.")
    with tempfile.TemporaryDirectory(prefix="cloudops-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with PrivatePostgres(folder / "pg") as postgres, PrivateRedis(folder / "redis") as redis:
            _configure(postgres.url(), redis.url())
            others = OtherLoad()
            report = _measure(rounds=7 if options.quick else 31)
            report.notes.append(others.note())
    report.publish(options.json)


def _configure(database_url: str, redis_url: str) -> None:
    from cryptography.fernet import Fernet

    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "cloudops.settings",
        "CLOUDOPS_DATABASE_URL": database_url,
        "CLOUDOPS_REDIS_URL": redis_url,
        "CLOUDOPS_SECRET_KEY": secrets.token_urlsafe(64),
        "CLOUDOPS_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "CLOUDOPS_PUBLIC_URL": "http://testserver",
        "CLOUDOPS_LOG_LEVEL": "WARNING",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _measure(*, rounds: int) -> Report:
    from django.db import connection
    from django.test import Client
    from django.utils import timezone

    from bench import fleet

    admin = fleet.make(now=timezone.now(), **SIZE)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    client = Client()
    client.force_login(admin)
    report = Report("dashboard", ["ours", "floor"], ["floor"])
    goal = Goal(GOAL_MS, at_least=False)
    for number in range(rounds + 1):
        floor_ms, _, _ = _visit(client, "/healthz")
        for label, path in _paths().items():
            elapsed_ms, queries, size = _visit(client, path)
            if number == 0:  # warms templates and plans
                continue
            row = report.row(label, "ms", goal)
            row.add("ours", elapsed_ms)
            row.add("floor", floor_ms)
            report.row(f"{label}: queries", "").add("ours", queries)
            report.row(f"{label}: size", "KiB").add("ours", size / 1024)
    report.notes.append(", ".join(f"{count:,} {what}" for what, count in SIZE.items()))
    report.notes.append(f"medians of {rounds} rounds; floor: /healthz in the same rounds")
    return report


def _visit(client: Any, path: str) -> tuple[float, int, int]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        started = time.perf_counter()
        answer = client.get(path)
        elapsed_ms = (time.perf_counter() - started) * 1000
    if answer.status_code != 200:
        raise RuntimeError(f"{path} answered {answer.status_code}")
    return elapsed_ms, len(captured), len(answer.content)


def _paths() -> dict[str, str]:
    from cloudops.inventory.models import Host, Vm
    from consoles.models import ConsoleSession

    host = Host.objects.filter(console_sessions__isnull=False).order_by("name")[0]
    vm = Vm.objects.filter(console_sessions__isnull=False).order_by("name")[0]
    session = ConsoleSession.objects.order_by("created_at")[0]
    return {
        "Fleet": "/fleet/",
        "Host": f"/hosts/{host.pk}/",
        "VMs": "/vms/",
        "VMs, searched": "/vms/?q=vm-09",
        "VM": f"/vms/{vm.pk}/",
        "Consoles": "/consoles/",
        "Console history": "/consoles/history/",
        "Offerings": "/offerings/",
        "Audit": "/audit/",
        "Servers": "/servers/",
        "Settings": "/settings/",
        "Projects": "/projects/",
        "People": "/users/",
        "API: hosts": "/api/v1/hosts/?page_size=100",
        "API: VMs": "/api/v1/vms/?page_size=100",
        "API: sessions": "/api/v1/console-sessions/?page_size=100",
        "API: one session": f"/api/v1/console-sessions/{session.pk}/",
        "API: events": "/api/v1/events/?page_size=100",
        "Metrics": "/metrics",
    }


if __name__ == "__main__":
    main()
