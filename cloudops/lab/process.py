"""One child process that cannot outlive us, with a log file, a readiness probe and a bounded stop."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LOG_TAIL_LINES = 15
TOOL_SECONDS = 300.0


class ServiceError(RuntimeError):
    """A private service could not be started or stopped; the text names the log file and the remedy."""


def find_program(name: str, *, package: str, folders: Sequence[Path] = ()) -> str:
    """The absolute path of a program, or ServiceError naming the Debian package that has it."""
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise ServiceError(f"{name} is not installed. Remedy: apt-get install {package}")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listened on a moment ago; whoever binds it must still be ready for a refusal."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def kept_password(path: Path) -> str:
    """The password in a file that only its owner can read; made at the first call. Loopback is open to every user of
    the machine, so even a private service has one."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
    return path.read_text()


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log file; empty when there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def tied_command(argv: Sequence[str], *, user: str | None = None, parent_death: signal.Signals) -> list[str]:
    """argv run through setpriv (util-linux): the kernel signals it when we die, however that happens.

    The signal is bound to the thread that starts the process: start long-lived services from the main thread.
    """
    command = ["setpriv", "--pdeathsig", parent_death.name.removeprefix("SIG")]
    if user is not None:
        group = pwd.getpwnam(user).pw_gid
        command += [f"--reuid={user}", f"--regid={group}", "--init-groups"]
    return [*command, "--", *argv]


def run_tool(
    command: Sequence[str],
    purpose: str,
    *,
    cwd: Path | None = None,
    seconds: float = TOOL_SECONDS,
    env: Mapping[str, str] | None = None,
) -> str:
    """What a program of the system printed, run to its end; ``env`` is added to ours. Raises ServiceError, with the
    purpose and the program's own words, when it is missing, fails or takes longer than ``seconds``."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
        )
    except FileNotFoundError as error:
        raise ServiceError(f"Could not {purpose}: {command[0]} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"Could not {purpose}: no answer within {seconds:.0f} s.") from error
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"Could not {purpose}: {error.stderr.strip() or error}") from error
    return done.stdout


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While nobody else, in this process or another, has locked the same file; waits for it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Child:
    """A started process in a session of its own, so that a terminal's Ctrl-C reaches only its parent."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        parent_death: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                tied_command(argv, user=user, parent_death=parent_death),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self, probe: Callable[[], bool], *, deadline_seconds: float) -> None:
        """Returns once probe() is true. Raises ServiceError when the process ends or the deadline passes first."""
        deadline = time.monotonic() + deadline_seconds
        while not probe():
            if not self.is_running():
                raise ServiceError(self._failure(f"{self.name} ended at once (exit code {self.process.returncode})"))
            if time.monotonic() > deadline:
                raise ServiceError(self._failure(f"{self.name} was not ready after {deadline_seconds:.0f} s"))
            time.sleep(0.02)

    def stop(self, *signals: tuple[signal.Signals, float]) -> None:
        """Sends each signal in turn and waits its seconds, then kills the whole process group; never hangs."""
        for number, seconds in signals:
            if not self.is_running():
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the process and to whatever is left of its group, and reaps it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired as error:
            raise ServiceError(f"{self.name} (pid {self.pid}) does not die; it is stuck in the kernel") from error

    def _failure(self, what: str) -> str:
        return f"{what}. Its log is {self.log} and ends:\n{log_tail(self.log)}"
