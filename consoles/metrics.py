"""Gauges of consoles, read from the database when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily, Metric

from cloudops.core.metrics import COLLECTORS
from cloudops.inventory.models import Host
from consoles import limits
from consoles.models import ConsoleSession, Status


def register() -> None:
    """Adds these to what ``/metrics`` shows."""
    if collect not in COLLECTORS:
        COLLECTORS.append(collect)


def collect(now: datetime) -> Iterable[Metric]:
    """Consoles by host and state, and each host's limit, in six queries."""
    names = {pk: (str(pk), name) for pk, name in Host.objects.order_by().values_list("pk", "name")}
    consoles = GaugeMetricFamily(
        "cloudops_consoles", "Consoles by host and state; idle ones are active too.", labels=["host", "name", "state"]
    )
    limit = GaugeMetricFamily("cloudops_console_limit", "Consoles that a host may have.", labels=["host", "name"])
    for pk, usage in limits.usage_by_host(None, now=now).items():
        labels = names.get(pk, (str(pk), ""))
        for state in ("active", "idle", "pending", "foreign"):
            consoles.add_metric([*labels, state], getattr(usage, state))
        limit.add_metric(labels, usage.limit)
    yield consoles
    yield limit
    detached = GaugeMetricFamily("cloudops_consoles_detached", "Consoles whose line dropped and that may resume.")
    detached.add_metric([], ConsoleSession.objects.filter(status=Status.DETACHED, resume_until__gt=now).count())
    yield detached
