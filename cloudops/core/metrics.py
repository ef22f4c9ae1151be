"""What is counted for Prometheus. Any layer may import this and count; ``cloudops.managers.metrics`` renders it.

Counters and histograms belong to a process; with CLOUDOPS_METRICS_DIR all processes of a server keep them together.
Gauges are never kept: :data:`COLLECTORS` read them from the database at scrape, so that every server tells the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from django.conf import settings

if settings.METRICS_DIR:  # prometheus_client reads this once, when it is imported
    Path(settings.METRICS_DIR).mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = settings.METRICS_DIR

from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric

Collect = Callable[[datetime], Iterable[Metric]]
COLLECTORS: list[Collect] = []
"""Functions of ``now`` that read gauges from the database, each with a constant number of queries."""

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

HTTP_SECONDS = Histogram(
    "cloudops_http_request_seconds", "Time to answer an HTTP request.", ["method", "route", "status"], buckets=_FAST
)
HYPERVISOR_SECONDS = Histogram(
    "cloudops_hypervisor_call_seconds",
    "Time of a call to a hypervisor; outcome is ok or the error's code.",
    ["call", "outcome"],
    buckets=_FAST,
)
SYNC_SECONDS = Histogram(
    "cloudops_inventory_sync_seconds", "Time to synchronise one management endpoint.", ["outcome"], buckets=_FAST
)
WATCH_EVENTS = Counter("cloudops_hypervisor_events", "Events that hypervisors sent to the watcher.", ["kind"])

CONSOLES_OPENED = Counter("cloudops_consoles_opened", "Console sessions that were given a slot.")
CONSOLES_REFUSED = Counter("cloudops_consoles_refused", "Consoles refused because a limit was reached.", ["scope"])
CONSOLES_CLOSED = Counter("cloudops_consoles_closed", "Console sessions that ended, by reason.", ["reason"])
CONSOLE_SECONDS = Histogram(
    "cloudops_console_session_seconds",
    "How long console sessions lasted.",
    buckets=(1, 10, 60, 300, 900, 1_800, 3_600, 14_400, 43_200, 86_400),
)
REAPER_RUNS = Counter("cloudops_console_reaper_runs", "Runs of the console reaper, by outcome.", ["outcome"])
REAPER_REAPED = Counter("cloudops_console_reaper_reaped", "Console sessions that the reaper ended.")
