"""The demo's supervisor: output, readiness, restarts, and a stop that leaves nothing."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudops.lab.process import ServiceError
from cloudops.lab.supervisor import Program, Supervisor

pytestmark = [pytest.mark.fault, pytest.mark.timeout(60)]


def python(name: str, script: str, **options: object) -> Program:
    return Program(name, [sys.executable, "-uc", script], **options)  # type: ignore[arg-type]


def eventually(question: Callable[[], bool], *, within_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not question():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def pids_in(log: Path) -> list[int]:
    return [int(word) for word in log.read_text().split() if word.isdigit()] if log.exists() else []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


FOREVER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_lines_carry_their_programs_name_and_are_kept(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Supervisor(tmp_path, screen=screen) as group:
        group.start(python("web", "print('one'); print('two'); import time; time.sleep(60)"))
        eventually(lambda: "two" in screen.getvalue())
    assert "web      │ one\nweb      │ two\n" in screen.getvalue()
    assert group.log_of("web").read_text() == "one\ntwo\n"


def test_start_waits_for_readiness(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"import time, pathlib; time.sleep(.3); pathlib.Path({str(flag)!r}).touch(); time.sleep(60)"
    with Supervisor(tmp_path, screen=io.StringIO()) as group:
        group.start(python("slow", script, ready=flag.exists))
        assert flag.exists()
        with pytest.raises(ServiceError, match="never was not ready after 0 s"):
            group.start(python("never", FOREVER, ready=lambda: False, ready_seconds=0.2))


def test_a_program_that_ends_at_once_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    failure = pytest.raises(ServiceError, match=r"(?s)bad ended at once \(exit code 3\).*bad\.log.*no such thing")
    with Supervisor(tmp_path, screen=io.StringIO()) as group, failure:
        group.start(python("bad", "print('no such thing'); raise SystemExit(3)", ready=lambda: False))


def test_the_group_ends_when_a_program_does(tmp_path: Path) -> None:
    with Supervisor(tmp_path, screen=io.StringIO()) as group:
        group.start(python("short", "import os, time; time.sleep(.7); os.kill(os.getpid(), 9)"))
        with pytest.raises(ServiceError, match="short ended \\(killed by SIGKILL\\)"):
            group.run()


def test_a_program_that_died_after_the_start_is_told_of_even_if_it_may_be_restarted(tmp_path: Path) -> None:
    with Supervisor(tmp_path, screen=io.StringIO()) as group:
        group.start(
            python("worker", "import os, time; print(os.getpid(), flush=True); time.sleep(.8)", restart=True),
            python("web", FOREVER),
        )
        group.demand_alive()
        eventually(lambda: bool(pids_in(group.log_of("worker"))))
        eventually(lambda: not any(map(is_alive, pids_in(group.log_of("worker")))))
        with pytest.raises(ServiceError, match=r"worker ended \(exit code 0\)"):
            group.demand_alive()


def test_a_killed_program_is_started_again_if_it_may_be(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Supervisor(tmp_path, screen=screen) as group:
        group.start(python("web", FOREVER, restart=True, ready=lambda: bool(pids_in(group.log_of("web")))))
        first = pids_in(group.log_of("web"))[0]
        os.kill(first, signal.SIGKILL)
        group.run(until=lambda: len(pids_in(group.log_of("web"))) == 2)
        second = pids_in(group.log_of("web"))[1]
        assert is_alive(second)
        assert second != first
    assert "web      │ ended (killed by SIGKILL); starting it again in 1 s" in screen.getvalue()
    assert not is_alive(second)


def test_stop_takes_grandchildren_and_the_stubborn_with_it(tmp_path: Path) -> None:
    child = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {child!r}]); exec({child!r})"
    screen = io.StringIO()
    with Supervisor(tmp_path, screen=screen) as group:
        log = group.log_of("stubborn")
        group.start(python("stubborn", parent, stop_seconds=0.5, ready=lambda: len(pids_in(log)) == 2))
        pids = pids_in(log)
        started = time.monotonic()
    assert time.monotonic() - started < 4
    eventually(lambda: not any(map(is_alive, pids)), within_seconds=2)
    assert "did not stop within 0 s; killed" in screen.getvalue()


def test_a_closed_screen_does_not_stop_the_programs(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Supervisor(tmp_path, screen=screen) as group:
        group.start(python("chatty", "import time\nwhile True: print('x' * 100); time.sleep(.01)"))
        screen.close()
        size = group.log_of("chatty").stat().st_size
        eventually(lambda: group.log_of("chatty").stat().st_size > size + 1000)
