"""The whole product on one machine, from nothing to a login, and cleanly away again: `script/demo` and `script/lab`.

It talks to the product as an operator would: through manage.py, environment variables and HTTP.
"""

from __future__ import annotations

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudops.lab import checks
from cloudops.lab.esxi import Esxi
from cloudops.lab.helper import HostsPlan, HostsProcess
from cloudops.lab.process import ServiceError
from cloudops.lab.screen import Screen
from cloudops.lab.services import PrivateRedis
from cloudops.lab.supervisor import Program, Supervisor

ROOT = Path(__file__).resolve().parents[2]
GUEST_CACHE = ROOT / "var/lab/guest"
PEOPLE = {"admin": "admin", "alice": "tenant", "bob": "tenant"}
CLUSTERS = ("north", "south")
"""Of several hosts; so that moves across clusters can be seen."""
HOST_THREADS = 4
HOST_MEMORY_MIB = 2048
"""What CloudOps is told that a host of several has: each sees the whole machine."""
HOST_RESERVE_MIB = 1024
GUEST_MEMORY_MIB = 192
VMS_PER_SIMULATED_HOST = 20
DISCOVERY_SECONDS = 60.0
MANAGE_SECONDS = 300.0
PASSWORD_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 - no letters that look like others


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. ``command``: as a person types it. ``networked``: the hosts are a `Lab`. ``vsphere``: a simulated
    vCenter with two ESXi hosts too. ``keep``: data and guests' memory stay for the next start."""

    command: str
    state: Path
    port: int
    host: str = "127.0.0.1"
    public_url: str = ""
    hosts: int = 1
    networked: bool = False
    guests: int = 2
    fleet: int = 0
    vsphere: bool = False
    keep: bool = True
    verbose: bool = False
    check: bool = False

    @property
    def has_hosts(self) -> bool:
        """Whether there are libvirt hosts at all; a lab's may be without guests."""
        return self.networked or self.guests > 0


class Installation:
    """One run of it."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.state: Path = options.state.absolute()
        everywhere = options.host == "0.0.0.0"  # noqa: S104 - asked for
        shown = {"127.0.0.1": "localhost", "0.0.0.0": socket.gethostname()}.get(options.host, options.host)  # noqa: S104
        self.url = options.public_url.rstrip("/") or f"http://{shown}:{options.port}"
        self.local_url = f"http://{'127.0.0.1' if everywhere else options.host}:{options.port}"
        self.secrets: dict[str, str] = {}
        self.env: dict[str, str] = {}
        self.vcenter: Esxi | None = None

    def run(self) -> None:
        """Until Ctrl-C (KeyboardInterrupt) or, with --check, until everything was looked at. Raises ServiceError."""
        started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._only_one())
            _demand_free(self.options)
            self.secrets = load_secrets(self.state / "secrets")
            if self.options.vsphere:
                self.vcenter = Esxi(self.state / "vsphere", GUEST_CACHE if self.options.has_hosts else None)
            hosts = stack.enter_context(self._libvirt_hosts()) if self.options.has_hosts else None
            with self.screen.step("Private Redis"):
                redis = stack.enter_context(PrivateRedis(self.state / "redis"))
            self.env = self._environment(redis.url())
            with self.screen.step("Database"):
                self._manage("migrate", "--verbosity=0")
            group = stack.enter_context(Supervisor(self.state / "log"))
            stack.callback(self.screen.say, "Stopping …")
            if self.vcenter is not None:
                with self.screen.step("Simulated vCenter with two ESXi hosts"):
                    group.start(self.vcenter.vcenter(self.env, ROOT))
            with self.screen.step("Web server, worker, scheduler and watcher"):
                group.start(*self._programs())
            lab = self._await(hosts)
            if self.vcenter is not None:
                group.start(*self.vcenter.guest())
            with self.screen.step("People, hosts and VMs"):
                seeded = self._seed(lab)
            group.demand_alive()
            if self.options.check:
                with self.screen.step("Checks"):
                    names = sorted([*lab["guests"], *(self.vcenter.endpoint()["vms"] if self.vcenter else ())])
                    checks.look_around(self.local_url, "alice", self.secrets["alice"], names)
                self.screen.say(f"all checks passed after {time.monotonic() - started:.1f} s")
                return
            self._greet(seeded, time.monotonic() - started)
            group.run(until=lambda: not redis.is_running() or (hosts is not None and not hosts.is_running()))
            raise ServiceError(f"Redis or the libvirt hosts ended by itself; see {redis.log} and {self.state / 'log'}")

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        (self.state / "log").mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o711)
        what = "demo" if self.options.keep else "lab"
        with (self.state / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise ServiceError(
                    f"a {what} already runs with this state ({lock.read().strip()}). "
                    "Remedy: stop it with Ctrl-C, or use another --state and --port"
                ) from None
            lock.truncate(0)
            lock.write(f"pid {os.getpid()}, {self.url}")
            lock.flush()
            if self.options.keep:
                yield
                return
            with self._without_trace():
                yield

    @contextmanager
    def _without_trace(self) -> Iterator[None]:
        """Begins with no data and leaves none. Of an installation that failed the logs stay, as its message names them.

        The libvirt hosts' directory is the helper's, who may be another user, to remove.
        """
        self._remove_all_but("lock", "log", "libvirt")
        try:
            yield
        except ServiceError:
            self._remove_all_but("lock", "log", "libvirt")
            raise
        except BaseException:
            shutil.rmtree(self.state, ignore_errors=True)
            raise
        shutil.rmtree(self.state, ignore_errors=True)

    def _remove_all_but(self, *names: str) -> None:
        for entry in self.state.iterdir():
            if entry.name in names:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    @contextmanager
    def _libvirt_hosts(self) -> Iterator[HostsProcess]:
        plan = HostsPlan(
            state_dir=self.state / "libvirt",
            cache_dir=GUEST_CACHE,
            hosts=self.options.hosts,
            guests=tuple(f"demo-{number}" for number in range(1, self.options.guests + 1)),
            socket_gid=os.getgid(),
            networked=self.options.networked,
            keep=self.options.keep,
        )
        with HostsProcess(plan, log=self.state / "log/libvirt.log", progress=self.screen.detail) as hosts:
            yield hosts

    def _await(self, hosts: HostsProcess | None) -> dict[str, Any]:
        if hosts is None:
            return {"hosts": [], "guests": {}}
        with self.screen.step("Libvirt hosts and guests" if self.options.networked else "Libvirt host and guests"):
            try:
                return hosts.wait_ready()
            except ServiceError as error:
                if self.options.networked:
                    raise
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
        threads = ["--hostname=hypervisors@%h", "--queues=migrations,hypervisors", "--pool=threads", "--concurrency=32"]
        yield self._program("migrations", [*celery, "worker", *threads, level], env)
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

    def _seed(self, lab: dict[str, Any]) -> dict[str, Any]:
        wanted = {
            "people": {name: {"password": self.secrets[name], "role": role} for name, role in PEOPLE.items()},
            "hosts": self._as_seen(lab["hosts"]),
            "guests": list(lab["guests"].values()),
            "vsphere": self.vcenter and self.vcenter.endpoint(),
            "fleet": self.options.fleet,
            "vms_per_host": VMS_PER_SIMULATED_HOST,
            "simulated_state": str(self.state / "simulated" / "fleet.sqlite3"),
            "wait_seconds": DISCOVERY_SECONDS,
        }
        answer: dict[str, Any] = json.loads(self._manage("demo_seed", script=json.dumps(wanted)))
        return answer

    def _as_seen(self, hosts: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
        """The hosts with their clusters; of several, each with a share of the machine that its guests half fill."""
        if not self.options.networked:
            return [{**host, "cluster": "lab"} for host in hosts]
        guests_each = -(-self.options.guests // len(hosts))
        memory_mib = max(HOST_MEMORY_MIB, HOST_RESERVE_MIB + 2 * guests_each * GUEST_MEMORY_MIB)
        size = {"cpu_threads": HOST_THREADS, "memory_mib": memory_mib}
        first = -(-len(hosts) // len(CLUSTERS))
        return [{**host, **size, "cluster": CLUSTERS[number >= first]} for number, host in enumerate(hosts)]

    def _greet(self, seeded: dict[str, Any], seconds: float) -> None:
        lines = [f"CloudOps is running after {seconds:.1f} s:  {self.url}", ""]
        for name, role in PEOPLE.items():
            password = "(changed since)" if name in seeded["changed_passwords"] else self.secrets[name]
            lines.append(f"{'administrator' if role == 'admin' else 'tenant':<14} {name:<6}  {password}")
        end = "Ctrl-C stops everything, data stay" if self.options.keep else "Ctrl-C takes everything away"
        lines += ["", f"{seeded['vms']} VMs; logs in {_short(self.state / 'log')}; {end}"]
        if self.options.networked:
            lines += [f"{self.options.hosts} real hosts; faults on request: script/lab --help"]
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


def _demand_free(options: Options) -> None:
    host, port = options.host, options.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"port {port} on {host} cannot be used: {error.strerror}. Remedy: {options.command} --port {port + 1}"
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


def run(options: Options) -> int:
    """Runs an installation until Ctrl-C; returns the command's exit code."""
    screen = Screen(sys.stdout)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        Installation(options, screen).run()
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        screen.say("stopped")
        return 130 if options.check else 0
    return 0
