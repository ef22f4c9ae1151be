"""script/lab as a person uses it: up, faults, status, down, and nothing left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudops.lab.command import FAULTS, main, parser
from cloudops.lab.control import FAULTS as ANSWERED
from cloudops.lab.process import free_port
from tests.lab.test_demo import ROOT, START_SECONDS, processes_of, wait_until_gone

real = [pytest.mark.real, pytest.mark.fault, pytest.mark.timeout(420)]


def lab(state: Path, *arguments: str, seconds: float = 100.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloudops.lab.command", *arguments, f"--state={state}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)


def said(state: Path, *arguments: str) -> str:
    done = lab(state, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(state: Path, log: Path) -> subprocess.Popen[bytes]:
    """A lab of two hosts that has said it runs."""
    command = [sys.executable, "-m", "cloudops.lab.command", "up", "--hosts=2", "--guests=2"]
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*command, f"--port={free_port()}", f"--state={state}"], cwd=ROOT, stdout=output, stderr=output
        )
    deadline = time.monotonic() + START_SECONDS
    try:
        while b"CloudOps is running" not in log.read_bytes():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    except BaseException:
        running.kill()
        running.wait()
        wait_until_gone(state, within_seconds=30)
        raise
    return running


@pytest.fixture
def running(service_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    state = service_dir / "lab"
    process = start(state, service_dir / "output")
    try:
        yield process, state
    finally:
        process.kill()
        process.wait()
        wait_until_gone(state, within_seconds=30)


class TestReal:
    pytestmark = real

    def test_up_faults_killed_up_again_and_down_without_a_trace(
        self, running: tuple[subprocess.Popen[bytes], Path], service_dir: Path
    ) -> None:
        process, state = running
        status = said(state, "status")
        assert "http://localhost:" in status
        assert "kvm-01  up         qemu+tcp://10.77." in status
        assert "demo-1" in status
        assert said(state, "freeze", "kvm-02") == "kvm-02 is frozen\n"
        assert "kvm-02  frozen" in said(state, "status")
        assert said(state, "thaw", "kvm-02") == "kvm-02 is up\n"
        assert said(state, "unplug", "uplink") == "uplink is unplugged\n"
        assert said(state, "plug", "uplink") == "uplink is up\n"
        assert said(state, "kill-libvirtd", "kvm-02") == "kvm-02 is up\n"
        assert said(state, "crash", "kvm-01") == "kvm-01 is off\n"
        assert said(state, "start", "kvm-01") == "kvm-01 is up\n"
        assert "no guests" in said(state, "status")
        wrong = lab(state, "freeze", "kvm-07")
        assert wrong.returncode == 1
        assert wrong.stderr == "error: there is no host kvm-07; there are kvm-01, kvm-02\n"
        second = lab(state, "up", f"--port={free_port()}")
        assert second.returncode == 1
        assert "a lab already runs with this state" in second.stderr
        process.kill()  # a killed lab is no trouble for the next
        process.wait()
        wait_until_gone(state, within_seconds=30)
        again = start(state, service_dir / "again")
        said(state, "down")
        assert again.wait(10) == 0
        assert not state.exists()
        assert processes_of(state) == []


def test_every_fault_of_the_command_line_is_answered() -> None:
    assert set(FAULTS) == set(ANSWERED)


def test_without_a_lab_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in (["status"], ["down"], ["freeze", "kvm-01"]):
        assert main([*action, f"--state={tmp_path}"]) == 1
        assert "no lab runs here. Remedy: script/lab up" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["up", "--hosts=5"], ["up", "--hosts=0"], ["freeze"], []])
def test_what_cannot_be_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage: script/lab" in capsys.readouterr().err


def test_help_names_every_command() -> None:
    text = parser().format_help()
    assert all(name in text for name in ("up", "down", "status", *FAULTS))
