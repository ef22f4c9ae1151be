"""Starts and stops what bench/relay.py measures, and reads what the kernel knows of its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.relay_app import SECRET_PREFIX, create_database

HERE = Path(__file__).resolve().parent
KINDS = ("bulk", "echo", "idle")
NOVA = "nova==34.*"
NOVA_INSTALL_SECONDS = 300


@dataclass(frozen=True)
class Subject:
    """Something to measure: the port the load connects to and how it names the source it wants."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None
    raw: bool = False
    process_per_console: bool = False

    def load_arguments(self, kind: str) -> list[str]:
        number = KINDS.index(kind)
        if self.raw:
            return ["-R", "-P", str(self.port + number)]
        if self.name == "ours":
            protocols = f"binary, {SECRET_PREFIX}{kind}, cloudops.control.v1"
            return ["-P", str(self.port), "-u", "/ws/console/", "-S", protocols]
        token = str(number) if self.name == "nova" else kind
        return ["-P", str(self.port), "-u", f"/?token={token}"]


def free_ports(count: int) -> int:
    """The first of ``count`` neighbouring ports that nobody uses."""
    for first in range(21000, 32000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise RuntimeError("No free ports on loopback.")


def compile_c(name: str, target: Path) -> Path:
    """Compiles bench/NAME.c. Raises :class:`RuntimeError` without gcc."""
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        raise RuntimeError("gcc is needed to build the load generator: apt-get install gcc libc6-dev")
    program = target / name
    subprocess.run([gcc, "-O2", "-o", program, HERE / f"{name}.c"], check=True, timeout=60)
    return program


@contextlib.contextmanager
def running(
    command: list[str | Path], *, port: int, log: Path, seconds: float = 20
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that listens on ``port``; stopped as a whole at the end, by its own id."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=HERE.parent)
    try:
        _wait_for(process, port, log, seconds)
        yield process
    finally:
        for what in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, what)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"Nothing listens on {port}: {log.read_text(errors='replace')[-500:]}")


@contextlib.contextmanager
def source(program: Path, log: Path) -> Iterator[Subject]:
    """The VNC-like source; measured itself, it is the "direct" row."""
    base = free_ports(len(KINDS))
    with running([program, str(base)], port=base, log=log):
        yield Subject("direct", base, None, raw=True)


@contextlib.contextmanager
def ours(directory: Path, source_port: int) -> Iterator[Subject]:
    database, port = directory / "sessions.sqlite3", free_ports(1)
    create_database(database, {kind: source_port + i for i, kind in enumerate(KINDS)})
    command: list[str | Path] = [sys.executable, "-m", "bench.relay_app", str(port), database]
    with running(command, port=port, log=directory / "ours.log") as process:
        yield Subject("ours", port, process)


@contextlib.contextmanager
def websockify(directory: Path, source_port: int) -> Iterator[Subject]:
    tokens, port = directory / "tokens", free_ports(1)
    tokens.write_text("".join(f"{kind}: 127.0.0.1:{source_port + i}\n" for i, kind in enumerate(KINDS)))
    command: list[str | Path] = [sys.executable, "-m", "websockify", "--token-plugin", "ReadOnlyTokenFile"]
    command += ["--token-source", tokens, f"127.0.0.1:{port}"]
    with running(command, port=port, log=directory / "websockify.log") as process:
        yield Subject("websockify", port, process, process_per_console=True)


@contextlib.contextmanager
def nova(directory: Path, source_port: int, python: Path) -> Iterator[Subject]:
    port, config = free_ports(1), directory / "nova.conf"
    config.write_text(f"[DEFAULT]\nweb =\n[vnc]\nnovncproxy_host = 127.0.0.1\nnovncproxy_port = {port}\n")
    command: list[str | Path] = [python, HERE / "relay_nova.py", str(port), str(source_port), config]
    with running(command, port=port, log=directory / "nova.log", seconds=60) as process:
        yield Subject("nova", port, process, process_per_console=True)


def install_nova(directory: Path) -> Path:
    """nova in a throw-away virtual environment; its Python. Raises :class:`RuntimeError` when it does not install."""
    ready = os.environ.get("BENCH_NOVA_PYTHON")
    if ready:
        return Path(ready)
    python = directory / "nova" / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", directory / "nova"], check=True, capture_output=True, timeout=60)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NOVA]
        subprocess.run(command, check=True, capture_output=True, timeout=NOVA_INSTALL_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"{NOVA} did not install: {type(error).__name__}") from None
    return python


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, ended children included."""
    ticks = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15] if member == pid else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Proportional set size of a process tree: shared pages are counted once."""
    kilobytes = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
    return kilobytes / 1000
