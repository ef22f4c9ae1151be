"""/healthz, /readyz and /metrics: for machines, and to whom."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import DjangoAssertNumQueries, Settings

from cloudops.accounts import tokens
from cloudops.accounts.models import Role, User
from cloudops.accounts.rights import Scope
from cloudops.core import metrics as counters
from cloudops.core import runtime
from cloudops.core.actors import system
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from cloudops.managers import health, metrics, processes
from cloudops.managers.models import ServerProcess

BY = system("test")
ROOT = Path(__file__).resolve().parents[2]
STRANGER = "203.0.113.9"


def register(settings: Settings) -> ServerProcess:
    return processes.register(
        role="web", server_name=settings.SERVER_NAME, pid=os.getpid(), version="1", now=timezone.now()
    )


def user(role: str) -> User:
    return User.objects.create_user(username=role, role=role)


@pytest.mark.django_db
def test_healthz_needs_nothing(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(0):
        answer = Client().get("/healthz", REMOTE_ADDR=STRANGER)
    assert (answer.status_code, answer.json()) == (200, {"alive": True})
    assert Client().post("/healthz").status_code == 405


@pytest.mark.real
@pytest.mark.django_db(transaction=True)
class TestReady:
    @pytest.fixture(autouse=True)
    def _redis(self, settings: Settings, redis_url: str) -> None:
        settings.REDIS_URL = redis_url

    def ask(self) -> tuple[int, dict[str, dict[str, object]]]:
        answer = Client().get("/readyz", REMOTE_ADDR=STRANGER)
        assert answer["Cache-Control"].startswith("max-age=0")
        body = answer.json()
        assert body["ready"] is (answer.status_code == 200)
        return answer.status_code, {check["name"]: check for check in body["checks"]}

    def test_all_well(self, settings: Settings) -> None:
        register(settings)
        status, checks = self.ask()
        assert (status, {name: check["ok"] for name, check in checks.items()}) == (
            200,
            {"database": True, "migrations": True, "redis": True, "lease": True},
        )
        assert all(isinstance(check["elapsed_ms"], float) and check["remedy"] == "" for check in checks.values())

    def test_without_a_lease_or_draining_nobody_is_sent_here(self, settings: Settings) -> None:
        status, checks = self.ask()
        assert (status, checks["lease"]["ok"], checks["database"]["ok"]) == (503, False, True)
        assert checks["lease"]["remedy"]
        process = register(settings)
        processes.drain(process=process, by=BY, now=timezone.now())
        status, checks = self.ask()
        assert (status, checks["lease"]["detail"]) == (503, "This process is draining and takes no new consoles.")
        processes.undrain(process=process, by=BY, now=timezone.now())
        assert self.ask()[0] == 200
        ServerProcess.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        assert self.ask()[0] == 503

    def test_migrations_that_are_missing_are_counted(self, settings: Settings) -> None:
        register(settings)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_migrations SET app = 'was_placement' WHERE app = 'placement'")
            cursor.execute("UPDATE django_migrations SET app = 'was_core' WHERE app = 'core'")
        try:
            status, checks = self.ask()
        finally:
            with connection.cursor() as cursor:
                cursor.execute("UPDATE django_migrations SET app = 'placement' WHERE app = 'was_placement'")
                cursor.execute("UPDATE django_migrations SET app = 'core' WHERE app = 'was_core'")
        assert (status, checks["migrations"]["ok"]) == (503, False)
        assert checks["migrations"]["remedy"] == "Run manage.py migrate."

    def test_a_dead_redis_is_told_without_its_address(self, settings: Settings) -> None:
        register(settings)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        settings.REDIS_URL = f"redis://:hidden@127.0.0.1:{port}/0"
        status, checks = self.ask()
        assert (status, checks["redis"]["ok"]) == (503, False)
        assert str(port) not in str(checks)
        assert "hidden" not in str(checks)

    def test_a_part_that_hangs_costs_the_deadline_and_no_more(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        register(settings)
        gate = threading.Event()

        def hang() -> str:
            gate.wait(30)
            return "late"

        monkeypatch.setattr(health, "_database", hang)
        monkeypatch.setattr(health, "_migrations", hang)
        monkeypatch.setattr(health, "DEADLINE_SECONDS", 0.3)
        started = time.monotonic()
        status, checks = self.ask()
        assert time.monotonic() - started < 15, "it waited for the parts that hang"
        gate.set()
        assert (status, checks["database"]["ok"], checks["redis"]["ok"]) == (503, False, True)
        assert str(checks["database"]["detail"]).startswith("No answer within")


@pytest.mark.django_db
class TestMetricsAccess:
    @pytest.mark.parametrize(
        ("who", "status"), [("anonymous", 403), ("tenant", 403), ("operator", 403), ("admin", 200)]
    )
    def test_by_session(self, who: str, status: int) -> None:
        client = Client()
        if who != "anonymous":
            client.force_login(user(who))
        answer = client.get("/metrics", REMOTE_ADDR=STRANGER)
        assert answer.status_code == status
        if status == 403:
            assert answer["Content-Type"] == "application/problem+json"
            assert answer.json()["code"] == "metrics-forbidden"
            assert "CLOUDOPS_METRICS_ALLOWED" in answer.json()["remedy"]

    @pytest.mark.parametrize(("role", "status"), [(Role.TENANT, 403), (Role.OPERATOR, 403), (Role.ADMIN, 200)])
    def test_by_token(self, role: str, status: int) -> None:
        _, secret = tokens.create(
            user=user(role), label="prometheus", scopes=[Scope.READ], days=1, by=BY, now=timezone.now()
        )
        header = {"Authorization": f"Bearer {secret}"}
        assert Client().get("/metrics", REMOTE_ADDR=STRANGER, headers=header).status_code == status
        wrong = {"Authorization": f"Bearer {secret}x"}
        assert Client().get("/metrics", REMOTE_ADDR=STRANGER, headers=wrong).status_code == 403

    def test_by_address_and_never_through_a_proxy_that_is_not_trusted(self, settings: Settings) -> None:
        assert Client().get("/metrics", REMOTE_ADDR="127.0.0.1").status_code == 200
        forwarded = {"X-Forwarded-For": STRANGER}
        assert Client().get("/metrics", REMOTE_ADDR="127.0.0.1", headers=forwarded).status_code == 403
        settings.TRUSTED_PROXIES = [ipaddress.ip_network("127.0.0.1")]
        assert Client().get("/metrics", REMOTE_ADDR="127.0.0.1", headers=forwarded).status_code == 403
        settings.METRICS_ALLOWED = [ipaddress.ip_network("203.0.113.0/24")]
        assert Client().get("/metrics", REMOTE_ADDR="127.0.0.1", headers=forwarded).status_code == 200
        assert Client().get("/metrics", REMOTE_ADDR="nonsense").status_code == 403


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def scrape() -> Callable[[], str]:
    return lambda: Client().get("/metrics", REMOTE_ADDR="127.0.0.1").content.decode()


@pytest.mark.django_db
class TestMetrics:
    def fill(self, hosts: int) -> None:
        endpoint = Endpoint.objects.create(kind="simulated", uri=f"simulated://x{hosts}")
        cluster = Cluster.objects.create(name=f"c{hosts}")
        for number in range(hosts):
            host = Host.objects.create(
                endpoint=endpoint,
                cluster=cluster,
                ref=str(number),
                name=f"h{number}",
                connection="up",
                schedulable=number > 0,
            )
            Vm.objects.create(host=host, ref=f"{hosts}-{number}", name="v", power_state="running")

    def test_the_fleet_is_read_from_the_database(self, scrape: Callable[[], str], settings: Settings) -> None:
        self.fill(3)
        Host.objects.filter(ref="2").update(connection="unreachable", console_limit_override=5)
        register(settings)
        text = scrape()
        assert samples(text, "cloudops_hosts") == {("up",): 2, ("unreachable",): 1, ("unknown",): 0}
        assert samples(text, "cloudops_hosts_cordoned") == {(): 1}
        assert samples(text, "cloudops_vms") == {("running",): 3}
        assert samples(text, "cloudops_processes")[("web",)] == 1
        assert samples(text, "cloudops_endpoints") == {("yes",): 0, ("no",): 1}
        assert sorted(samples(text, "cloudops_console_limit").values()) == [5, 40, 40]
        consoles = samples(text, "cloudops_consoles")
        assert len(consoles) == 12
        assert set(consoles.values()) == {0}

    def test_queries_do_not_grow_with_hosts(self) -> None:
        runtime.current()  # makes its row
        counts = []
        for hosts in (2, 30):
            self.fill(hosts)
            with CaptureQueriesContext(connection) as queries:
                metrics.exposition(now=timezone.now())
            counts.append(len(queries))
        assert counts[0] == counts[1]
        assert counts[0] <= 12

    def test_requests_are_counted_by_route_never_by_path(self, scrape: Callable[[], str]) -> None:
        Client().get("/healthz")
        Client().get("/no/such/path/9f3")
        text = scrape()
        counted = samples(text, "cloudops_http_request_seconds_count")
        assert counted[("GET", "healthz", "200")] >= 1
        assert counted[("GET", "unmatched", "404")] >= 1
        assert "9f3" not in text

    def test_counters_are_there(self, scrape: Callable[[], str]) -> None:
        before = samples(scrape(), "cloudops_consoles_refused_total").get(("host",), 0)
        counters.CONSOLES_REFUSED.labels(scope="host").inc()
        assert samples(scrape(), "cloudops_consoles_refused_total")[("host",)] == before + 1


@pytest.mark.real
def test_processes_of_a_server_count_together(
    redis_url: str, tmp_path: Path, product_env: Callable[..., dict[str, str]]
) -> None:
    """What a worker counted is told by the web process that Prometheus happens to ask."""
    environment = product_env(
        database_url=f"sqlite:///{tmp_path}/x.sqlite3",
        redis_url=redis_url,
        CLOUDOPS_METRICS_DIR=str(tmp_path / "metrics"),
    )

    def run(code: str) -> str:
        script = f"import django; django.setup(); {code}"
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    for _ in range(2):
        run("from cloudops.core.metrics import REAPER_RUNS; REAPER_RUNS.labels(outcome='ok').inc(3)")
    text = run(
        "from cloudops.core import metrics as m; m.COLLECTORS.clear(); from django.utils import timezone; "
        "from cloudops.managers import metrics; print(metrics.exposition(now=timezone.now()).decode())"
    )
    assert samples(text, "cloudops_console_reaper_runs_total") == {("ok",): 6}
