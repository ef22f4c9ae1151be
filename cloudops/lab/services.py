"""Private Redis and PostgreSQL: real servers on free loopback ports, in a directory of their own, gone when we are."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import psycopg.sql

from cloudops.lab.process import Child, ServiceError, find_program, free_port, kept_password, log_tail

HOST = "127.0.0.1"
START_ATTEMPTS = 3
REDIS_READY_SECONDS = 15.0
POSTGRES_READY_SECONDS = 60.0
POSTGRES_USER = "cloudops"


class _Service(ABC):
    """What both services share: a directory, a stable port and password, start/stop/kill/restart, `with`."""

    name = ""

    def __init__(self, state_dir: Path, *, port: int | None = None) -> None:
        self.state_dir = state_dir.absolute()
        self.log = self.state_dir / f"{self.name}.log"
        self._fixed_port = port
        self._child: Child | None = None
        self.port = 0
        self.password = ""

    @property
    def pid(self) -> int:
        """Process id of the running server; ServiceError when it is not started."""
        if self._child is None:
            raise ServiceError(f"{self.name} is not started")
        return self._child.pid

    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    def start(self) -> Self:
        """Starts the server and returns when it answers. The port and the data of an earlier start are kept.

        Raises ServiceError when it does not come up.
        """
        if self.is_running():
            return self
        self._prepare()
        for attempt in range(1, START_ATTEMPTS + 1):
            self.port = self._choose_port(fresh=attempt > 1)
            try:
                self._child = self._launch()
            except ServiceError:
                if self._fixed_port is not None or attempt == START_ATTEMPTS or not _in_use(self.port):
                    raise
            else:
                (self.state_dir / "port").write_text(str(self.port))
                break
        return self

    def kill(self) -> None:
        """SIGKILL, as in a crash."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stop(self) -> None:
        """Stops the server; returns within seconds in any case."""
        if self._child is not None:
            self._child.stop(*self._stop_signals())
            self._child = None

    def restart(self, *, immediate: bool = False) -> None:
        """Stops (immediate: without saying goodbye to clients) and starts again on the same port."""
        if immediate:
            self.kill()
        else:
            self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self) -> None: ...

    @abstractmethod
    def _launch(self) -> Child: ...

    def _stop_signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        return ((signal.SIGTERM, 5.0),)

    def _choose_port(self, *, fresh: bool) -> int:
        if self._fixed_port is not None:
            return self._fixed_port
        with contextlib.suppress(FileNotFoundError, ValueError):
            earlier = int((self.state_dir / "port").read_text())
            if not fresh and (self.port == earlier or not _in_use(earlier)):
                return earlier
        return free_port()


class PrivateRedis(_Service):
    """redis-server on loopback, in memory only: nothing CloudOps keeps in Redis must outlive it."""

    name = "redis"

    def url(self, database: int = 0) -> str:
        """redis://:<password>@127.0.0.1:<port>/<database>"""
        return f"redis://:{self.password}@{HOST}:{self.port}/{database}"

    def _prepare(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.password = kept_password(self.state_dir / "password")

    def _launch(self) -> Child:
        config = self.state_dir / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {HOST}\nport {self.port}\nrequirepass {self.password}\n"
            f'save ""\nappendonly no\ndir "{self.state_dir}"\ndaemonize no\n'
        )
        server = find_program("redis-server", package="redis-server")
        child = Child(self.name, [server, str(config)], log=self.log)
        return _ready_or_killed(child, self._answers, REDIS_READY_SECONDS)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as line:
                line.settimeout(1)
                line.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                reply = b""
                while chunk := line.recv(64):
                    reply += chunk
                    if reply.count(b"\r\n") >= 2:
                        break
        except OSError:
            return False
        return reply == b"+OK\r\n+PONG\r\n"


class PrivatePostgres(_Service):
    """Debian's PostgreSQL on loopback. With fsync off (the default) data survive a crash of it, not of the machine.

    PostgreSQL refuses to run as root: then it runs as user postgres, who must be able to enter state_dir.
    """

    name = "postgres"

    def __init__(self, state_dir: Path, *, port: int | None = None, durable: bool = False) -> None:
        super().__init__(state_dir, port=port)
        self._durable = durable
        self._data = self.state_dir / "data"
        self._run_as = "postgres" if os.geteuid() == 0 else None

    def url(self, database: str = POSTGRES_USER) -> str:
        """postgres://cloudops:<password>@127.0.0.1:<port>/<database>; the user is a superuser."""
        return f"postgres://{POSTGRES_USER}:{self.password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Creates an empty database if it is missing and returns its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=10) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                statement = psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name))
                connection.execute(statement)
        return self.url(name)

    def start(self) -> Self:
        super().start()
        self.create_database(POSTGRES_USER)
        return self

    def _prepare(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.password = kept_password(self.state_dir / "password")
        if self._run_as is not None:
            self._require_reachable()
        if not (self._data / "PG_VERSION").exists():
            self._initdb()

    def _launch(self) -> Child:
        self._clear_stale_pid_file()
        options = {"port": str(self.port), "listen_addresses": HOST, "max_connections": "200"}
        options["unix_socket_directories"] = ""
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        argv = [_postgres_program("postgres"), "-D", str(self._data)]
        argv += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        child = Child(
            self.name,
            argv,
            log=self.log,
            cwd=self._data,
            user=self._run_as,
            parent_death=signal.SIGQUIT,
        )
        return _ready_or_killed(child, self._answers, POSTGRES_READY_SECONDS)

    def _stop_signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        return ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))  # "fast", then "immediate" shutdown

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _require_reachable(self) -> None:
        probe = [*_as_account(pwd.getpwnam("postgres")), "test", "-x", str(self.state_dir)]
        if subprocess.run(probe, check=False, timeout=10).returncode:
            raise ServiceError(
                f"user postgres cannot enter {self.state_dir} (PostgreSQL does not run as root). "
                "Remedy: use a state directory below /var/tmp, or chmod a+x the directories above it"
            )

    def _clear_stale_pid_file(self) -> None:
        """PostgreSQL refuses to start when the pid in an old file is anything alive, after a reboot for instance."""
        pid_file = self._data / "postmaster.pid"
        deadline = time.monotonic() + 10
        with contextlib.suppress(FileNotFoundError, ValueError):
            while _runs_in(int(pid_file.read_text().splitlines()[0]), self._data):
                if time.monotonic() > deadline:
                    raise ServiceError(f"another PostgreSQL uses {self._data}. Remedy: stop that one first")
                time.sleep(0.1)
            pid_file.unlink()

    def _initdb(self) -> None:
        account = pwd.getpwnam(self._run_as) if self._run_as else None
        self._data.mkdir(mode=0o700, exist_ok=True)
        password_file = self.state_dir / "initdb-password"
        password_file.write_text(self.password)
        password_file.chmod(0o600)
        command = [_postgres_program("initdb"), "-D", str(self._data), "--no-sync"]
        command += ["--encoding=UTF8", "--locale=C.UTF-8"]
        command += [f"--username={POSTGRES_USER}", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        if account is not None:
            for path in (self._data, password_file):
                os.chown(path, account.pw_uid, account.pw_gid)
            command = [*_as_account(account), *command]
        with self.log.open("ab") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._data,
                check=False,
                timeout=120,
            )
        password_file.unlink()
        if done.returncode:
            raise ServiceError(f"initdb failed. Its log is {self.log} and ends:\n{log_tail(self.log)}")


def _as_account(account: pwd.struct_passwd) -> list[str]:
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]


def _postgres_program(name: str) -> str:
    versions = Path("/usr/lib/postgresql")
    folders = sorted(versions.glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True)
    return find_program(name, package="postgresql", folders=folders)


def _runs_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == folder.resolve()
    except OSError:
        return False


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
        return False


def _ready_or_killed(child: Child, probe: Callable[[], bool], seconds: float) -> Child:
    try:
        child.wait_ready(probe, deadline_seconds=seconds)
    except BaseException:
        child.kill()
        raise
    return child
