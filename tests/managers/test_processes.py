"""Workers and watchers have rows among the management servers' processes, as long as they live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from django.db import connections
from django.utils import timezone

from cloudops.hypervisors.port import EndpointSpec, Kind, PowerAction
from cloudops.hypervisors.simulated import SimulatedHypervisor
from cloudops.managers import processes, watchers, workers
from cloudops.managers.models import ServerProcess
from tests import databases

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], object], *, within_seconds: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_seconds, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.mark.django_db(transaction=True)
def test_a_worker_registers_renews_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RENEW_SECONDS", 0.05)
    workers._started()
    until(lambda: ServerProcess.objects.exists(), within_seconds=5)
    row = ServerProcess.objects.get()
    assert (row.role, row.pid, row.stopped_at) == ("worker", os.getpid(), None)
    until(lambda: ServerProcess.objects.get().renewed_at > row.renewed_at, within_seconds=5)
    ServerProcess.objects.update(lease_until=timezone.now())  # it was frozen: others think it dead
    until(lambda: ServerProcess.objects.count() == 2, within_seconds=5)
    workers._ending()
    assert ServerProcess.objects.order_by("started_at").last().stopped_at is not None  # type: ignore[union-attr]


@pytest.mark.django_db(transaction=True)
def test_a_watcher_registers_and_ends_with_its_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "STEP_SECONDS", 0.05)
    stop = threading.Event()

    def run() -> None:
        try:
            watchers.run(stop=stop, clock=timezone.now, version="1")
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: processes.alive(timezone.now()).filter(role="watcher").exists(), within_seconds=5)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert ServerProcess.objects.get().stopped_at is not None


@pytest.mark.real
@pytest.mark.fault
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_real_watchers_follow_a_simulated_host_take_over_and_end_on_sigterm(
    postgres_url: str, redis_url: str, service_dir: Path, product_env: Callable[..., dict[str, str]]
) -> None:
    """Two processes on PostgreSQL: one is killed, the other takes its endpoint over; a power change of a VM is in the
    database within a second of the event."""
    name = f"watch_{os.getpid()}_{time.monotonic_ns()}"
    database = databases.in_postgres(postgres_url, name, make_env=product_env)
    state = service_dir / "fleet.sqlite"
    uri = f"simulated://{name}?hosts=1&vms=2&state={state}"
    environment = product_env(database_url=database, redis_url=redis_url, CLOUDOPS_SIMULATED_DIR=str(service_dir))

    def manage(*arguments: str) -> None:
        subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, env=environment, check=True, timeout=90)

    manage("shell", "-v0", "-c", ADD.format(uri=uri))
    log = (service_dir / "watch.log").open("wb")
    running: list[subprocess.Popen[bytes]] = []
    try:
        with psycopg.connect(database, autocommit=True) as rows:

            def watched_by() -> str:
                row = rows.execute(
                    "SELECT p.pid::text FROM inventory_endpoint e"
                    " JOIN managers_serverprocess p ON p.id::text = e.watched_by WHERE e.watch_until > now()"
                ).fetchone()
                return row[0] if row else ""

            for _ in range(2):
                running.append(
                    subprocess.Popen([sys.executable, "manage.py", "watch"], cwd=ROOT, env=environment, stderr=log)
                )
                until(watched_by, within_seconds=30)
            first = next(child for child in running if str(child.pid) == watched_by())
            other = next(child for child in running if child is not first)
            alive = "SELECT count(*) FROM managers_serverprocess WHERE role = 'watcher' AND lease_until > now()"
            until(lambda: rows.execute(alive).fetchone() == (2,), within_seconds=30)
            first.kill()
            assert until(lambda: watched_by() == str(other.pid), within_seconds=15) < 12
            until(lambda: rows.execute(RUNNING).fetchone() == (2,), within_seconds=5)
            time.sleep(1.5)  # the subscription of the one that took over
            vm_ref = rows.execute("SELECT ref FROM inventory_vm LIMIT 1").fetchone()
            assert vm_ref is not None
            there = SimulatedHypervisor(EndpointSpec("test", Kind.SIMULATED, uri))
            there.power(vm_ref[0], PowerAction.STOP)  # as somebody at the host would
            there.close()
            assert until(lambda: rows.execute(RUNNING).fetchone() == (1,), within_seconds=5) < 1.5
            other.send_signal(signal.SIGTERM)
            assert other.wait(10) == 0
            ended = "SELECT count(*) FROM managers_serverprocess WHERE stopped_at IS NOT NULL"
            assert rows.execute(ended).fetchone() == (1,)
            assert rows.execute("SELECT watched_by FROM inventory_endpoint").fetchone() == ("",)
    finally:
        for child in running:
            child.kill()
            child.wait(10)
        log.close()


RUNNING = "SELECT count(*) FROM inventory_vm WHERE power_state = 'running'"
ADD = """
from django.utils import timezone
from cloudops.core.actors import system
from cloudops.hypervisors.port import PowerAction
from cloudops.inventory import clusters, endpoints, hosts
from cloudops.inventory.models import Vm
by, now = system("test"), timezone.now()
cluster = clusters.create(name="c", by=by, now=now)
[host] = hosts.add_host(kind="simulated", uri="{uri}", cluster=cluster, by=by, now=now)
for vm in Vm.objects.exclude(power_state="running"):
    endpoints.call(host.endpoint, "power", lambda h: h.power(vm.ref, PowerAction.START))
"""
