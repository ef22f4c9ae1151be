"""`script/demo`: the whole product on one machine, from nothing to a login, and cleanly away again.

It talks to the product as an operator would: through manage.py, environment variables and HTTP.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cloudops.lab import checks
from cloudops.lab.host import HostPlan, HostProcess
from cloudops.lab.process import ServiceError
from cloudops.lab.screen import Screen
from cloudops.lab.services import PrivateRedis
from cloudops.lab.supervisor import Program, Supervisor

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = {"admin": "admin", "alice": "tenant", "bob": "tenant"}
VMS_PER_SIMULATED_HOST = 20
DISCOVERY_SECONDS = 60.0
MANAGE_SECONDS = 300.0
PASSWORD_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 - no letters that look like others


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; see `script/demo --help`."""
    parser = argparse.ArgumentParser(prog="script/demo", description="Runs CloudOps here, with real guests to look at.")
    parser.add_argument("--port", type=int, default=8080, help="port of the web server (default 8080)")
    parser.add_argument("--host", default="127.0.0.1", help="address it listens on (default 127.0.0.1; 0.0.0.0: all)")
    parser.add_argument(
        "--public-url", default="", help="address people type (default http://localhost:PORT, or this machine's name)"
    )
    parser.add_argument("--guests", type=int, default=2, metavar="N", help="real guests to boot (default 2)")
    parser.add_argument("--no-guests", action="store_const", dest="guests", const=0, help="no libvirt, no real guests")
    parser.add_argument("--fleet", type=int, default=0, metavar="N", help="add N simulated hosts with VMs")
    parser.add_argument("--state", type=Path, default=ROOT / "var/demo", metavar="DIR", help="where it keeps its data")
    parser.add_argument("--verbose", action="store_true", help="show what the processes log, not only warnings")
    parser.add_argument("--check", action="store_true", help="start, sign in, look around, stop; for tests")
    options = parser.parse_args(arguments)
    if not 0 < options.port < 65536:
        parser.error("--port must be 1 to 65535")
    if options.guests < 0 or options.fleet < 0:
        parser.error("--guests and --fleet must not be negative")
    return options


class Demo:
    """One run of the demo."""

    def __init__(self, options: argparse.Namespace, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.state: Path = options.state.absolute()
        everywhere = options.host == "0.0.0.0"  # noqa: S104 - asked for
        shown = {"127.0.0.1": "localhost", "0.0.0.0": socket.gethostname()}.get(options.host, options.host)  # noqa: S104
        self.url = options.public_url.rstrip("/") or f"http://{shown}:{options.port}"
        self.local_url = f"http://{'127.0.0.1' if everywhere else options.host}:{options.port}"
        self.secrets: dict[str, str] = {}
        self.env: dict[str, str] = {}

    def run(self) -> None:
        """Until Ctrl-C (KeyboardInterrupt) or, with --check, until everything was looked at. Raises ServiceError."""
        started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._only_one())
            _demand_free(self.options.host, self.options.port)
            self.secrets = load_secrets(self.state / "secrets")
            host = stack.enter_context(self._libvirt_host()) if self.options.guests else None
            with self.screen.step("Private Redis"):
                redis = stack.enter_context(PrivateRedis(self.state / "redis"))
            self.env = self._environment(redis.url())
            with self.screen.step("Database"):
                self._manage("migrate", "--verbosity=0")
            group = stack.enter_context(Supervisor(self.state / "log"))
            stack.callback(self.screen.say, "Stopping …")
            with self.screen.step("Web server, worker, scheduler and watcher"):
                group.start(*self._programs())
            guests = self._await(host)
            with self.screen.step("People, hosts and VMs"):
                seeded = self._seed(guests)
            group.demand_alive()
            if self.options.check:
                with self.screen.step("Checks"):
                    checks.look_around(self.local_url, "alice", self.secrets["alice"], sorted(guests["guests"]))
                self.screen.say(f"all checks passed after {time.monotonic() - started:.1f} s")
                return
            self._greet(seeded, time.monotonic() - started)
            group.run(until=lambda: not redis.is_running() or (host is not None and not host.is_running()))
            raise ServiceError(f"Redis or the libvirt host ended by itself; see {redis.log} and {self.state / 'log'}")

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        (self.state / "log").mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o711)
        with (self.state / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise ServiceError(
                    f"a demo already runs with this state ({lock.read().strip()}). "
                    "Remedy: stop it with Ctrl-C, or use another --state and --port"
                ) from None
            lock.truncate(0)
            lock.write(f"pid {os.getpid()}, {self.url}")
            lock.flush()
            yield

    @contextmanager
    def _libvirt_host(self) -> Iterator[HostProcess]:
        plan = HostPlan(
            state_dir=self.state / "libvirt",
            cache_dir=ROOT / "var/lab/guest",
            name="demo-host",
            guests=tuple(f"demo-{number}" for number in range(1, self.options.guests + 1)),
            socket_gid=os.getgid(),
        )
        with HostProcess(plan, log=self.state / "log/libvirt.log", progress=self.screen.detail) as host:
            yield host

    def _await(self, host: HostProcess | None) -> dict[str, Any]:
        if host is None:
            return {"uri": "", "guests": {}}
        with self.screen.step("Libvirt host and guests"):
            try:
                return host.wait_ready()
            except ServiceError as error:
                raise ServiceError(f"{error}\nWithout real guests: script/demo --no-guests") from error

    def _environment(self, redis_url: str) -> dict[str, str]:
        """The product's environment; nothing of the caller's own CLOUDOPS_ variables gets into it."""
        metrics, static = self.state / "metrics", self.state / "static"
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()
        static.mkdir(exist_ok=True)
        (self.state / "simulated").mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDOPS_", "DJANGO_"))}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "cloudops.settings",
            "CLOUDOPS_SECRET_KEY": self.secrets["secret_key"],
            "CLOUDOPS_ENCRYPTION_KEYS": self.secrets["encryption_key"],
            "CLOUDOPS_DATABASE_URL": f"sqlite:///{self.state / 'cloudops.sqlite3'}",
            "CLOUDOPS_REDIS_URL": redis_url,
            "CLOUDOPS_PUBLIC_URL": self.url,
            "CLOUDOPS_METRICS_DIR": str(metrics),
            "CLOUDOPS_SIMULATED_DIR": str(self.state / "simulated"),
            "CLOUDOPS_STATIC_ROOT": str(static),
            "CLOUDOPS_LOG_LEVEL": "INFO" if self.options.verbose else "WARNING",
            "CLOUDOPS_LOG_FORMAT": "console",
        }

    def _programs(self) -> Iterator[Program]:
        python, env = sys.executable, self.env
        web = [python, "-m", "uvicorn", "cloudops.asgi:application", "--ws=consoles.relay.server:RelayProtocol"]
        web += ["--loop=uvloop", "--no-proxy-headers", "--no-access-log", "--timeout-graceful-shutdown=5"]
        web += [f"--host={self.options.host}", f"--port={self.options.port}"]
        web += [f"--log-level={'info' if self.options.verbose else 'warning'}"]
        yield self._program("web", web, env, ready=lambda: checks.is_ready(self.local_url))
        celery = [python, "-W", "ignore", "-m", "celery", "--quiet", "--app=cloudops"]
        level = f"--loglevel={'info' if self.options.verbose else 'warning'}"
        yield self._program("worker", [*celery, "worker", "--concurrency=2", level], env)
        schedule = f"--schedule={self.state / 'beat-schedule'}"
        yield self._program("beat", [*celery, "beat", "--pidfile=", schedule, level], env)
        yield self._program("watcher", [python, "manage.py", "watch"], env)

    def _program(
        self, name: str, argv: Sequence[str], env: dict[str, str], ready: Callable[[], bool] | None = None
    ) -> Program:
        return Program(name, argv, env=env, cwd=ROOT, ready=ready, restart=not self.options.check)

    def _manage(self, *arguments: str, script: str = "") -> str:
        """Runs a management command; its progress lines are shown, its last line is returned."""
        log = self.state / "log/manage.log"
        with log.open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self.env,
                cwd=ROOT,
                start_new_session=True,
            )
        overdue = threading.Timer(MANAGE_SECONDS, process.kill)
        overdue.daemon = True
        overdue.start()
        try:
            return self._talk(process, script, f"manage.py {arguments[0]}", log)
        finally:
            overdue.cancel()
            process.kill()
            process.wait()

    def _talk(self, process: subprocess.Popen[str], script: str, what: str, log: Path) -> str:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None  # noqa: S101 - PIPE was asked for
        assert stdout is not None  # noqa: S101 - PIPE was asked for
        with stdout:
            stdin.write(script)
            stdin.close()
            last = ""
            for line in stdout:
                last = line.strip()
                if not last.startswith("{"):
                    self.screen.detail(last)
        code = process.wait(MANAGE_SECONDS)
        if code:
            raise ServiceError(f"{what} failed (exit code {code}). Its log is {log} and ends:\n{_tail(log)}")
        return last

    def _seed(self, guests: dict[str, Any]) -> dict[str, Any]:
        wanted = {
            "people": {name: {"password": self.secrets[name], "role": role} for name, role in PEOPLE.items()},
            "libvirt_uri": guests["uri"],
            "guests": list(guests["guests"].values()),
            "fleet": self.options.fleet,
            "vms_per_host": VMS_PER_SIMULATED_HOST,
            "simulated_state": str(self.state / "simulated" / "fleet.sqlite3"),
            "wait_seconds": DISCOVERY_SECONDS,
        }
        answer: dict[str, Any] = json.loads(self._manage("demo_seed", script=json.dumps(wanted)))
        return answer

    def _greet(self, seeded: dict[str, Any], seconds: float) -> None:
        lines = [f"CloudOps is running after {seconds:.1f} s:  {self.url}", ""]
        for name, role in PEOPLE.items():
            password = "(changed since)" if name in seeded["changed_passwords"] else self.secrets[name]
            lines.append(f"{'administrator' if role == 'admin' else 'tenant':<14} {name:<6}  {password}")
        lines += ["", f"{seeded['vms']} VMs; logs in {_short(self.state / 'log')}; Ctrl-C stops everything, data stay"]
        self.screen.box(lines)


def load_secrets(path: Path) -> dict[str, str]:
    """This installation's secrets: made once, kept in a file that only its owner can read."""
    if not path.exists():
        made = {
            "secret_key": secrets.token_urlsafe(64),
            "encryption_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            **{name: _password() for name in PEOPLE},
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(made, file, indent=1)
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded


def _password() -> str:
    return "-".join("".join(secrets.choice(PASSWORD_LETTERS) for _ in range(4)) for _ in range(3))


def _demand_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"port {port} on {host} cannot be used: {error.strerror}. Remedy: script/demo --port {port + 1}"
            ) from error


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _interrupt(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # stopping has deadlines of its own: a second Ctrl-C must not cut it short
    raise KeyboardInterrupt


def main() -> int:
    screen = Screen(sys.stdout)
    options = parse(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        Demo(options, screen).run()
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        screen.say("stopped")
        return 130 if options.check else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
