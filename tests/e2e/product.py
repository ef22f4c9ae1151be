"""The whole product as an installation runs it: web processes, workers, beat and watcher as real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cloudops.lab.process import Child, free_port

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
READY_SECONDS = 120.0
T = TypeVar("T")


class Product:
    """An installation in a directory of its own. ``make_env`` makes a process environment for one public URL;
    ``migrated``: the database has its tables already."""

    def __init__(
        self,
        folder: Path,
        *,
        make_env: Callable[..., dict[str, str]],
        database_url: str,
        redis_url: str,
        migrated: bool = False,
    ) -> None:
        self.folder = folder
        self.migrated = migrated
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = make_env(
            database_url=database_url,
            redis_url=redis_url,
            public_url=self.url,
            CLOUDOPS_LOG_LEVEL="INFO",
            CLOUDOPS_STATIC_ROOT=str(folder / "static"),
            CLOUDOPS_SIMULATED_DIR=str(folder),
        )
        self.children: dict[str, Child] = {}
        self._more_env: Mapping[str, str] = {}

    def manage(self, *arguments: str, script: str = "") -> str:
        """Runs a management command to its end and returns what it printed; its failure is the test's."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", *arguments],
            cwd=ROOT,
            env=self.env,
            input=script,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"manage.py {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, module: str, **parameters: Any) -> Any:
        """Runs ``tests.e2e.<module>`` inside the installation with JSON parameters; returns its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", f"tests.e2e.{module}", json.dumps(parameters)],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{module}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.migrated:
            self.manage("migrate", "-v0")
        self.start_web("web", self.port)
        self.start_worker()
        self.start_migrations()
        self._start("beat", "-m", "celery", "-A", "cloudops", "beat", "-l", "WARNING", "-s", str(self.folder / "beat"))
        self._start("watcher", "manage.py", "watch")
        return self

    def start_worker(self) -> None:
        """The worker for everything but migrations."""
        self._start("worker", "-m", "celery", "-A", "cloudops", "worker", "--concurrency", "2", "-l", "WARNING")

    def start_migrations(self, name: str = "migrations") -> None:
        """One more worker for what waits for hypervisors: migrations, power, reading hosts."""
        worker = ("-m", "celery", "-A", "cloudops", "worker", "--hostname", f"{name}@%h", "-l", "WARNING")
        self._start(name, *worker, "--queues", "migrations,hypervisors", "--pool", "threads", "--concurrency", "16")

    def start_web(self, name: str, port: int) -> None:
        """One more management server of the same installation."""
        self._start(
            name,
            "-m",
            "uvicorn",
            "cloudops.asgi:application",
            "--ws=consoles.relay.server:RelayProtocol",
            "--loop=uvloop",
            "--no-proxy-headers",
            "--host=127.0.0.1",
            f"--port={port}",
            "--timeout-graceful-shutdown=10",
        )
        self.children[name].wait_ready(lambda: self.answers(port), deadline_seconds=READY_SECONDS)

    def answers(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def kill(self, name: str) -> None:
        """SIGKILL, as in a crash."""
        self.children.pop(name).kill()

    def stop(self, name: str) -> None:
        """SIGTERM, as in an orderly restart."""
        self.children.pop(name).stop((signal.SIGTERM, 20.0))

    def stop_all(self) -> None:
        for child in reversed(self.children.values()):
            child.stop((signal.SIGTERM, 15.0))

    def logs(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, *argv: str) -> None:
        log = self.folder / f"{name}.log"
        self.children[name] = Child(name, [sys.executable, *argv], log=log, env=self.env, cwd=ROOT)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop_all()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()


def eventually(question: Callable[[], T], *, within_seconds: float, what: str) -> T:
    """Asks until the answer is true and returns it; fails the test with the last answer otherwise."""
    deadline = time.monotonic() + within_seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {within_seconds} s; the last answer was {answer!r}"
        time.sleep(0.05)
