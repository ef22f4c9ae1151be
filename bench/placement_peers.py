"""Installs what bench/placement.py measures, starts it, and speaks to it by JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.relay_peers import install_nova

HERE = Path(__file__).resolve().parent
OPENSTACK = ("openstack-placement==16.*", "psycopg2-binary")
INSTALL_SECONDS = 300
ANSWER_SECONDS = 300


@dataclass(frozen=True)
class Installed:
    """The Pythons of the peers; None where one did not install."""

    placement: Path | None
    nova: Path | None


def install(folder: Path, notes: list[str]) -> Installed:
    """Each in a throw-away environment of its own from PyPI; ``BENCH_PLACEMENT_PYTHON`` and ``BENCH_NOVA_PYTHON`` name
    ready ones. What does not install is left out, and ``notes`` say so."""
    found: dict[str, Path | None] = {}
    for name, make in (("placement", _install_placement), ("nova", install_nova)):
        try:
            found[name] = make(folder)
        except RuntimeError as error:
            found[name] = None
            notes.append(f"{name} is left out: {error}")
    return Installed(**found)


def _install_placement(folder: Path) -> Path:
    ready = os.environ.get("BENCH_PLACEMENT_PYTHON")
    if ready:
        return Path(ready)
    python = folder / "placement" / "bin" / "python"
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", folder / "placement"], check=True, capture_output=True, timeout=60
        )
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *OPENSTACK]
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"{OPENSTACK[0]} did not install: {type(error).__name__}") from None
    return python


class Peer:
    """A process that obeys."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def tell(self, **order: Any) -> None:
        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("no way to speak to it")
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()

    def hear(self) -> Any:
        stdout = self._process.stdout
        while stdout is not None and (line := stdout.readline()):
            if line.startswith("{"):  # some peers log to where they answer
                return json.loads(line)
        raise SystemExit(f"{self._process.args!r} ended: {self._log.read_text()[-2000:]}")

    def ask(self, **order: Any) -> Any:
        self.tell(**order)
        return self.hear()


class Prepared:
    """Databases on one server, and processes on them."""

    def __init__(self, url: str, redis_url: str, folder: Path) -> None:
        self._server, self._folder = url.rsplit("/", 1)[0], folder
        self._number = 0
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "cloudops.settings",
            "CLOUDOPS_REDIS_URL": redis_url,
            "CLOUDOPS_SECRET_KEY": secrets.token_urlsafe(64),
            "CLOUDOPS_ENCRYPTION_KEYS": "YmVuY2htYXJrLWtleS1vZi10aGlydHktdHdvLWJ5dGU=",
            "CLOUDOPS_PUBLIC_URL": "http://testserver",
            "CLOUDOPS_LOG_LEVEL": "ERROR",
        }

    def url_of(self, name: str) -> str:
        return f"{self._server}/{name}"

    def create(self, name: str, *, migrated: bool = True) -> None:
        """An empty database, with the product's tables unless it is a peer's. An earlier part's is replaced."""
        with psycopg.connect(f"{self._server}/postgres", autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            admin.execute(f'CREATE DATABASE "{name}"')
        if migrated:
            command = [sys.executable, "-W", "ignore", "manage.py", "migrate", "-v0"]
            subprocess.run(command, cwd=HERE.parent, env=self._for(name), check=True, timeout=120)

    def _for(self, name: str) -> dict[str, str]:
        return {**self._environment, "CLOUDOPS_DATABASE_URL": self.url_of(name)}

    @contextlib.contextmanager
    def _running(self, command: list[str], **more: Any) -> Iterator[Peer]:
        self._number += 1
        log = self._folder / f"peer-{self._number}.log"
        with log.open("w") as errors:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            process = subprocess.Popen(command, text=True, **pipes, **more)
        try:
            peer = Peer(process, log)
            peer.hear()
            yield peer
        finally:
            process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def ours(self, database: str) -> contextlib.AbstractContextManager[Peer]:
        command = [sys.executable, "-W", "ignore", "-m", "bench.placement_ours"]
        return self._running(command, cwd=HERE.parent, env=self._for(database))

    def openstack(self, python: Path, hosts: int, *, number: int = 0) -> contextlib.AbstractContextManager[Peer]:
        """Placement on a database of its own; the first process fills it, further ones share it."""
        name = f"openstack_{hosts}"
        with contextlib.suppress(psycopg.errors.DuplicateDatabase):
            self.create(name, migrated=False)
        folder = self._folder / f"openstack-{hosts}-{number}"
        url = self.url_of(name).partition("://")[2]
        command = [str(python), "-W", "ignore", str(HERE / "placement_openstack.py")]
        return self._running([*command, str(folder), f"postgresql+psycopg2://{url}", str(hosts)])

    def nova(self, python: Path, hosts: int) -> contextlib.AbstractContextManager[Peer]:
        return self._running([str(python), "-W", "ignore", str(HERE / "placement_nova.py"), str(hosts)])
