"""Fixtures every test may use, and the rule that a real part is never skipped silently.

Plain `pytest tests/x` needs no server: SQLite in a file, channel layer and cache in memory. A test that asks for
`postgres_url` or `redis_url` gets the run's private server: script/test's, or one started for this pytest process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from pytest_django import DjangoDbBlocker

from cloudops.lab.services import PrivatePostgres, PrivateRedis
from placement import mirror
from tests.longest_first import LongestFirst

ROOT = Path(__file__).resolve().parent.parent
REAL_MARKERS = {"real", "e2e", "fault"}
BROWSER_TESTS = (ROOT / "tests" / "e2e", ROOT / "tests" / "faults")
"""Where script/test looks for tests marked e2e: collecting all others each time would take longer than they do."""
STRICT = os.environ.get("CI") == "true" or os.environ.get("CLOUDOPS_STRICT") == "1"
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
"""pytest-xdist's name of this process, when several run tests side by side."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database-tests", action="store_true", help="only tests that use the Django database")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that are about the other database; script/test runs the suite on both. Refuses browser tests
    that script/test would not find."""
    if lost := [item.nodeid for item in items if item.get_closest_marker("e2e") and _is_out_of_sight(item.path)]:
        raise pytest.UsageError(f"marked e2e: {', '.join(lost)}. Remedy: move them to tests/e2e or tests/faults")
    other = "sqlite" if connection.vendor == "postgresql" else "postgres"
    left_out = [item for item in items if item.get_closest_marker(other)]
    if config.getoption("--database-tests"):
        left_out += [item for item in items if item not in left_out and not _uses_database(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongestFirst | None:
    return LongestFirst(config, log) if config.getoption("dist") == "loadfile" else None


def _is_out_of_sight(path: Path) -> bool:
    return path.is_relative_to(ROOT / "tests") and not any(path.is_relative_to(folder) for folder in BROWSER_TESTS)


def _uses_database(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("django_db") is not None or not {"db", "transactional_db"}.isdisjoint(fixtures)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test that needs a real part fails where real parts must be there (script/test, CI)."""
    report = yield
    real = REAL_MARKERS & {marker.name for marker in item.iter_markers()}
    if STRICT and report.skipped and real and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but a test marked {'/'.join(sorted(real))} must run here: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that skips itself as a whole: its markers are not known then."""
    report = yield
    if STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a whole file was skipped, which must not happen here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """pytest-django's own, and at the end PostgreSQL lets go of connections that background threads still hold."""
    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@dataclass
class Clock:
    """A clock that stands still until it is told otherwise; hand `clock.now` to domain code."""

    now: datetime

    def advance(self, seconds: float) -> datetime:
        """Moves on by `seconds` and returns the new time."""
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(now=datetime(2030, 1, 15, 12, 0, tzinfo=UTC))


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    """Throttles, cached settings and the copy of one test's fleet are none of the next one's business."""
    cache.clear()
    mirror.forget()


def _make_service_dir() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cloudops-svc-"))
    folder.chmod(0o711)
    return folder


@pytest.fixture
def service_dir() -> Iterator[Path]:
    """A directory for a test's own servers: short path (Unix sockets), and user postgres may enter it."""
    folder = _make_service_dir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _session_service_dir() -> Iterator[Path]:
    folder = _make_service_dir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_url(_session_service_dir: Path) -> Iterator[str]:
    """URL of a private Redis that lives as long as the run. Tests that stop or freeze one start their own.

    Tests that run side by side have one each: installations that share a Redis are one installation.
    """
    url = os.environ.get("CLOUDOPS_TEST_REDIS_URL")
    if url and WORKER is None:
        yield url
        return
    with PrivateRedis(_session_service_dir / "redis") as server:
        yield server.url()


@pytest.fixture(scope="session")
def postgres_url(_session_service_dir: Path) -> Iterator[str]:
    """URL of an empty database's server, private to the run; the user may create databases."""
    if url := os.environ.get("CLOUDOPS_TEST_POSTGRES_URL"):
        yield url
        return
    with PrivatePostgres(_session_service_dir / "postgres") as server:
        yield server.url()


@pytest.fixture(scope="session")
def product_env() -> Callable[..., dict[str, str]]:
    """Makes the environment for real product processes: `product_env(database_url=…, redis_url=…, public_url=…)`.

    Further CLOUDOPS_ variables go in as keyword arguments by their full names.
    """

    def make(
        *, database_url: str, redis_url: str, public_url: str = "http://localhost:8080", **more: str
    ) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDOPS_", "DJANGO_"))}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "cloudops.settings",
            "CLOUDOPS_SECRET_KEY": os.environ["CLOUDOPS_SECRET_KEY"],
            "CLOUDOPS_ENCRYPTION_KEYS": os.environ["CLOUDOPS_ENCRYPTION_KEYS"],
            "CLOUDOPS_DATABASE_URL": database_url,
            "CLOUDOPS_REDIS_URL": redis_url,
            "CLOUDOPS_PUBLIC_URL": public_url,
            **more,
        }

    return make


@pytest.fixture
def steady_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Placement's copy of the fleet is brought up to date by differences alone, however slow the machine: whoever
    counts queries would else count now and then those of reading it whole."""
    monkeypatch.setattr("placement.mirror.RELOAD_SHARE", float("inf"))
