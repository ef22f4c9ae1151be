"""A libvirt host with guests as a process of its own, so that only it needs root: `python -m cloudops.lab host …`.

It writes one JSON object per line: {"progress": text}, then {"ready": {"uri", "guests"}}, or {"error": text}.
It ends when its standard input does, which also happens when whoever started it dies: guests' memory is saved first.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cloudops.lab.domain import GuestSpec
from cloudops.lab.guest import build_guest
from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.process import ServiceError, log_tail

READY_SECONDS = 600.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What to run. `socket_gid`: the group whose members may use the libvirt socket."""

    state_dir: Path
    cache_dir: Path
    name: str
    guests: tuple[str, ...]
    socket_gid: int

    def command(self) -> list[str]:
        """The command line that `run` answers; through sudo when we are not root."""
        command = [
            sys.executable,
            "-m",
            "cloudops.lab",
            "host",
            f"--state={self.state_dir}",
            f"--cache={self.cache_dir}",
        ]
        command += [f"--name={self.name}", f"--socket-gid={self.socket_gid}", *self.guests]
        return command if os.geteuid() == 0 else ["sudo", "-n", "--", *command]


def run(plan: HostPlan) -> int:
    """The helper process's main function; returns its exit code."""

    def say(**message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    try:
        host = LibvirtHost(plan.state_dir, plan.name, socket_gid=plan.socket_gid)
        image = build_guest(plan.cache_dir, lambda text: say(progress=text))
        say(progress="Starting libvirtd")
        with host:
            for name in plan.guests:
                say(progress=f"Starting the guest {name}")
                host.ensure_guest(GuestSpec(name=name, image=image))
            say(ready={"uri": host.uri, "guests": host.guests})
            sys.stdin.buffer.read()
            host.stop(save_guests=True)
    except ServiceError as error:
        say(error=str(error))
        return 1
    return 0


class HostProcess:
    """The helper process, seen from the demo."""

    def __init__(self, plan: HostPlan, *, log: Path, progress: Callable[[str], None]) -> None:
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
        """{"uri": …, "guests": {name: reference}}. Raises ServiceError with the helper's own words."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ServiceError(f"the libvirt host was not ready after {READY_SECONDS:.0f} s: {self._log}") from None
            if message is None:
                raise ServiceError(f"the libvirt host ended. Its log is {self._log} and ends:\n{log_tail(self._log)}")
            if "error" in message:
                raise ServiceError(message["error"])
            if "ready" in message:
                ready: dict[str, Any] = message["ready"]
                return ready
            self._progress(message["progress"])

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Saves the guests and ends the host; returns within half a minute in any case."""
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
