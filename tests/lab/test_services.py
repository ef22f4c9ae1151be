"""The private servers start, answer, keep their data and port, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from cloudops.lab.process import Child, ServiceError, find_program
from cloudops.lab.services import PrivatePostgres, PrivateRedis

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]


def _gone(pid: int, *, within_seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_redis_answers_and_is_gone_afterwards(service_dir: Path) -> None:
    with PrivateRedis(service_dir) as server:
        client = redis.Redis.from_url(server.url())
        assert client.ping() is True
        client.close()
        with pytest.raises(redis.exceptions.AuthenticationError), redis.Redis(port=server.port) as stranger:
            stranger.ping()
        pid = server.pid
    assert _gone(pid, within_seconds=0.1)
    assert (service_dir / "password").stat().st_mode & 0o777 == 0o600


@pytest.mark.fault
def test_redis_restarts_on_its_port_after_a_crash(service_dir: Path) -> None:
    with PrivateRedis(service_dir) as server:
        url, pid = server.url(), server.pid
        server.restart(immediate=True)
        assert server.url() == url
        assert server.pid != pid
    with PrivateRedis(service_dir) as again:
        assert again.url() == url


def test_redis_takes_another_port_when_its_own_is_taken(service_dir: Path) -> None:
    with PrivateRedis(service_dir) as server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)), PrivateRedis(service_dir) as server:
        assert server.port != port


def test_a_fixed_port_that_is_taken_is_an_error_that_names_the_log(service_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = PrivateRedis(service_dir, port=taken.getsockname()[1])
        with pytest.raises(
            ServiceError, match=r"(?s)redis ended at once.*redis\.log.*Address already in use"
        ) as failure:
            server.start()
    assert not server.is_running()
    assert str(service_dir / "redis.log") in str(failure.value)


@pytest.mark.fault
def test_postgres_keeps_its_data_over_a_crash_and_a_second_start(service_dir: Path) -> None:
    with PrivatePostgres(service_dir) as server:
        url = server.create_database("shop")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 41 AS n")
        server.restart(immediate=True)
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE t SET n = n + 1")
        pid = server.pid
    assert _gone(pid, within_seconds=0.1)
    (service_dir / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")  # as after a reboot: someone else's pid
    with PrivatePostgres(service_dir) as server, psycopg.connect(server.create_database("shop")) as connection:
        row = connection.execute("SELECT n FROM t").fetchone()
    assert row == (42,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_postgres_says_when_its_user_cannot_enter_the_directory(service_dir: Path) -> None:
    service_dir.chmod(0o700)
    with pytest.raises(
        ServiceError, match=r"user postgres cannot enter .* Remedy: use a state directory below /var/tmp"
    ):
        PrivatePostgres(service_dir / "state").start()


@pytest.mark.fault
def test_services_die_with_a_killed_parent(service_dir: Path) -> None:
    script = f"""
import time
from pathlib import Path
from cloudops.lab.services import PrivatePostgres, PrivateRedis
folder = Path({str(service_dir)!r})
servers = PrivateRedis(folder / "r").start(), PrivatePostgres(folder / "p").start()
print(*(server.pid for server in servers), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    assert all(_gone(pid) for pid in pids)


def test_a_child_that_ignores_sigterm_is_killed_within_its_deadline(service_dir: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    child = Child("stubborn", [sys.executable, "-c", script], log=service_dir / "log")
    child.wait_ready(lambda: "up" in child.log.read_text(), deadline_seconds=10)
    started = time.monotonic()
    child.stop((signal.SIGTERM, 0.3))
    assert 0.3 <= time.monotonic() - started < 3
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_is_never_ready_is_reported_with_its_log(service_dir: Path) -> None:
    child = Child(
        "slow", [sys.executable, "-uc", "print('still thinking'); import time; time.sleep(60)"], log=service_dir / "log"
    )
    try:
        child.wait_ready(lambda: "thinking" in child.log.read_text(), deadline_seconds=10)
        with pytest.raises(ServiceError, match=r"(?s)slow was not ready after 0 s.*still thinking"):
            child.wait_ready(lambda: False, deadline_seconds=0.1)
    finally:
        child.kill()


def test_a_missing_program_names_the_package() -> None:
    with pytest.raises(ServiceError, match="Remedy: apt-get install nosuch-package"):
        find_program("nosuch-program", package="nosuch-package")
