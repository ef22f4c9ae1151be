"""``/metrics`` in Prometheus' text format: this server's counters, and gauges that are read from the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from django.conf import settings
from django.db.models import Count, Q
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from cloudops.core.metrics import COLLECTORS
from cloudops.core.models import Operation
from cloudops.inventory.models import Connection, Endpoint, Host, Vm
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Gauges(Collector):
    def __init__(self, now: datetime) -> None:
        self._now = now

    def collect(self) -> Iterator[Metric]:
        for collect in COLLECTORS:
            yield from collect(self._now)


def exposition(*, now: datetime) -> bytes:
    """Everything that is counted, ready to send."""
    counters = REGISTRY
    if settings.METRICS_DIR:
        counters = CollectorRegistry()
        MultiProcessCollector(counters, settings.METRICS_DIR)  # type: ignore[no-untyped-call]
    gauges = CollectorRegistry()
    gauges.register(_Gauges(now))
    return generate_latest(counters) + generate_latest(gauges)


def collect(now: datetime) -> Iterable[Metric]:
    """The fleet's and the management servers' gauges, in six queries."""
    yield _counts(
        "cloudops_hosts",
        "Hosts by connection.",
        "connection",
        dict.fromkeys(Connection.values, 0)
        | dict(Host.objects.order_by().values_list("connection").annotate(n=Count("pk"))),
    )
    schedulable = Host.objects.aggregate(on=Count("pk", filter=Q(schedulable=True)), off=Count("pk"))
    cordoned = GaugeMetricFamily("cloudops_hosts_cordoned", "Hosts on which no new VMs are placed.")
    cordoned.add_metric([], schedulable["off"] - schedulable["on"])
    yield cordoned
    yield _counts(
        "cloudops_vms",
        "VMs by power state.",
        "power_state",
        dict(Vm.objects.order_by().values_list("power_state").annotate(n=Count("pk"))),
    )
    watched = Endpoint.objects.aggregate(all=Count("pk"), watched=Count("pk", filter=Q(watch_until__gt=now)))
    yield _counts(
        "cloudops_endpoints",
        "Management endpoints, by whether a watcher listens to them.",
        "watched",
        {"yes": watched["watched"], "no": watched["all"] - watched["watched"]},
    )
    alive = dict(processes.alive(now).order_by().values_list("role").annotate(n=Count("pk")))
    yield _counts(
        "cloudops_processes",
        "Processes of the management servers that are alive.",
        "role",
        dict.fromkeys(ServerProcess.Role.values, 0) | alive,
    )
    live = Operation.objects.filter(status__in=[Operation.Status.PENDING, Operation.Status.RUNNING])
    yield _counts(
        "cloudops_operations",
        "Operations that are waiting or at work.",
        "status",
        {"pending": 0, "running": 0} | dict(live.order_by().values_list("status").annotate(n=Count("pk"))),
    )


def _counts(name: str, words: str, label: str, counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
