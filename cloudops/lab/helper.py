"""The libvirt hosts and their guests as one process, so that only it needs root: `python -m cloudops.lab hosts`.

It writes one JSON object per line: {"progress": text}, then {"ready": {"hosts": [{"name", "uri"}], "guests": {name:
reference}}}, or {"error": text}. It ends when its standard input does, which also happens when whoever started it dies.
Several hosts are a `Lab`, whose faults are had through `control_socket`; one host is reached over its own socket only.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cloudops.lab import control
from cloudops.lab.domain import GuestSpec
from cloudops.lab.guest import GuestImage, build_guest
from cloudops.lab.lab import Lab, deal
from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.process import ServiceError, log_tail

READY_SECONDS = 600.0
STOP_SECONDS = 30.0
ONLY_HOST = "demo-host"
Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class HostsPlan:
    """What to run. `networked`: a `Lab`, even of one host. `keep`: guests' memory is saved at the end and continued at
    the next start; without it the state is removed. `socket_gid`: the group whose members may use the sockets."""

    state_dir: Path
    cache_dir: Path
    hosts: int
    guests: tuple[str, ...]
    socket_gid: int
    networked: bool = False
    keep: bool = True

    @property
    def control_socket(self) -> Path:
        return self.state_dir / "control"

    def command(self) -> list[str]:
        """The command line that `run` answers; through sudo when we are not root."""
        command = [sys.executable, "-m", "cloudops.lab", "hosts", f"--state={self.state_dir}"]
        command += [f"--cache={self.cache_dir}", f"--hosts={self.hosts}", f"--socket-gid={self.socket_gid}"]
        command += ["--networked"] * self.networked + ["--keep"] * self.keep + list(self.guests)
        return command if os.geteuid() == 0 else ["sudo", "-n", "--", *command]


def run(plan: HostsPlan) -> int:
    """The helper process's main function; returns its exit code."""

    def say(**message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    try:
        image = build_guest(plan.cache_dir, lambda text: say(progress=text))
        if plan.networked:
            _run_lab(plan, image, say)
        else:
            _run_host(plan, image, say)
    except ServiceError as error:
        say(error=str(error))
        return 1
    return 0


def _run_host(plan: HostsPlan, image: GuestImage, say: Say) -> None:
    say(progress="Starting libvirtd")
    with LibvirtHost(plan.state_dir, ONLY_HOST, socket_gid=plan.socket_gid) as host:
        for name in plan.guests:
            say(progress=f"Starting the guest {name}")
            host.ensure_guest(GuestSpec(name=name, image=image))
        say(ready={"hosts": [{"name": host.name, "uri": host.uri}], "guests": host.guests})
        sys.stdin.buffer.read()
        host.stop(save_guests=plan.keep)


def _run_lab(plan: HostsPlan, image: GuestImage, say: Say) -> None:
    say(progress=f"Starting {plan.hosts} libvirt hosts")
    if not plan.keep:
        shutil.rmtree(plan.state_dir, ignore_errors=True)
    with Lab(plan.state_dir, hosts=plan.hosts, socket_gid=plan.socket_gid) as lab:
        guests = {}
        for name, host in deal(plan.guests, lab.names).items():
            say(progress=f"Starting the guest {name}")
            guests[name] = lab.boot(GuestSpec(name=name, image=image), on=host)
        say(ready={"hosts": [{"name": name, "uri": lab.uri(name)} for name in lab.names], "guests": guests})
        control.serve(lab, plan.control_socket, until=sys.stdin.buffer, socket_gid=plan.socket_gid)
        lab.stop(save_guests=plan.keep)
    if not plan.keep:
        shutil.rmtree(plan.state_dir)


class HostsProcess:
    """The helper process, seen from the demo."""

    def __init__(self, plan: HostsPlan, *, log: Path, progress: Callable[[str], None]) -> None:
        self._log = log
        self._progress = progress
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        # A process group, not a session: sudo still finds the terminal on which it was given the password.
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                plan.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                cwd=Path(__file__).parents[2],
                process_group=0,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def wait_ready(self) -> dict[str, Any]:
        """What the helper is ready with. Raises ServiceError with the helper's own words."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ServiceError(
                    f"the libvirt hosts were not ready after {READY_SECONDS:.0f} s: {self._log}"
                ) from None
            if message is None:
                raise ServiceError(f"the libvirt hosts ended. The log is {self._log} and ends:\n{log_tail(self._log)}")
            if "error" in message:
                raise ServiceError(message["error"])
            if "ready" in message:
                ready: dict[str, Any] = message["ready"]
                return ready
            self._progress(message["progress"])

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the hosts, with guests saved if the plan says so; returns within half a minute in any case."""
        assert self._process.stdin is not None  # noqa: S101 - PIPE was asked for
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - PIPE was asked for
        with self._process.stdout as lines:
            for line in lines:
                self._messages.put(json.loads(line))
        self._messages.put(None)
