"""script/demo from nothing to a login and away again, as a person runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudops.lab.demo import parse
from cloudops.lab.installation import HOST_MEMORY_MIB, PEOPLE, load_secrets
from cloudops.lab.process import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 200
real = [pytest.mark.real, pytest.mark.timeout(420)]


def processes_of(state: Path) -> list[str]:
    """Command lines of living processes that were started for `state`: it is in their arguments or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(state).encode() in told and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def wait_until_gone(state: Path, *, within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while left := processes_of(state):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def command(state: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cloudops.lab.demo", f"--state={state}", *options]


@pytest.fixture
def running(service_dir: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A demo without guests, but with vCenter, that has said it runs: its process, its state and its port."""
    state, port = service_dir / "demo", free_port()
    log = service_dir / "output"
    with log.open("w") as output:
        demo = subprocess.Popen(
            command(state, "--no-guests", "--vsphere", f"--port={port}"),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while "CloudOps is running" not in log.read_text():
            assert demo.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield demo, state, port
    finally:
        demo.kill()
        demo.wait()
        wait_until_gone(state, within_seconds=30)


class TestReal:
    pytestmark = real

    def test_it_starts_with_guest_vcenter_and_fleet_twice_and_leaves_nothing(self, service_dir: Path) -> None:
        state = service_dir / "demo"
        options = ("--check", "--guests=1", "--vsphere", f"--port={free_port()}")
        pins = []
        for more in (("--fleet=4",), ()):
            done = subprocess.run(
                command(state, *options, *more),
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=START_SECONDS,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert "all checks passed" in done.stdout
            assert processes_of(state) == []
            with contextlib.closing(sqlite3.connect(state / "cloudops.sqlite3")) as database:
                pins += database.execute(
                    "SELECT e.certificate_sha256, h.name, h.simulator, c.name FROM inventory_host h"
                    " JOIN inventory_endpoint e ON e.id = h.endpoint_id JOIN inventory_cluster c ON c.id = h.cluster_id"
                    " WHERE e.kind = 'vsphere' ORDER BY h.name"
                ).fetchall()
        assert [row[1:] for row in pins] == [("esxi-01", 1, "esxi"), ("esxi-02", 1, "esxi")] * 2
        assert len({row[0] for row in pins}) == 1

    def test_several_hosts_are_in_two_clusters(self, service_dir: Path) -> None:
        state = service_dir / "demo"
        options = ("--check", "--hosts=2", "--guests=2", f"--port={free_port()}")
        done = subprocess.run(
            command(state, *options), cwd=ROOT, capture_output=True, text=True, check=False, timeout=START_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all checks passed" in done.stdout
        assert processes_of(state) == []
        with contextlib.closing(sqlite3.connect(state / "cloudops.sqlite3")) as database:
            hosts = database.execute(
                "SELECT h.name, c.name, h.memory_mib_override, count(v.id) FROM inventory_host h"
                " JOIN inventory_cluster c ON c.id = h.cluster_id LEFT JOIN inventory_vm v ON v.host_id = h.id"
                " GROUP BY h.id ORDER BY h.name"
            ).fetchall()
        assert hosts == [("kvm-01", "north", HOST_MEMORY_MIB, 1), ("kvm-02", "south", HOST_MEMORY_MIB, 1)]

    @pytest.mark.fault
    def test_ctrl_c_stops_everything_within_seconds(self, running: tuple[subprocess.Popen[str], Path, int]) -> None:
        demo, state, port = running
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            assert answer.status == 200
        assert len(processes_of(state)) >= 5
        again = subprocess.run(
            command(state, "--no-guests", f"--port={free_port()}"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert again.returncode == 1
        assert f"a demo already runs with this state (pid {demo.pid}, http://localhost:{port})" in again.stderr
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
        assert processes_of(state) == []

    @pytest.mark.fault
    def test_a_killed_demo_takes_its_processes_with_it(self, running: tuple[subprocess.Popen[str], Path, int]) -> None:
        demo, state, _ = running
        demo.kill()
        wait_until_gone(state, within_seconds=20)


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first = load_secrets(tmp_path / "secrets")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o600
    assert load_secrets(tmp_path / "secrets") == first
    other = load_secrets(tmp_path / "others")
    assert {name for name in first if first[name] == other[name]} == set()
    assert all(len(first[name]) >= 14 for name in PEOPLE)


@pytest.mark.parametrize("options", [["--port", "0"], ["--port", "70000"], ["--guests", "-1"], ["--fleet", "x"]])
def test_options_that_make_no_sense_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(options)
    assert "usage: script/demo" in capsys.readouterr().err


def test_without_guests_means_none() -> None:
    assert parse([]).guests == 2
    assert parse(["--no-guests"]).guests == 0
    several = parse(["--hosts=3"])
    assert (several.guests, several.networked, several.state.name) == (6, True, "demo-3")
