"""How script/lib.sh chooses packages on Debian and Ubuntu: its own functions, with apt, snap and node replaced."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.systems import DEBIAN_12, FEDORA, MINT, UBUNTU_22, UBUNTU_24

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "sed", "grep", "tr", "timeout", "id", "dirname", "touch", "cat")
NEED = 'need() { echo "need $*"; }; as_root() { echo "as root: $*"; }; '
STUB = "echo \"Command '/usr/bin/chromium-browser' requires the chromium snap to be installed.\" >&2; exit 1"


class Machine:
    """A machine whose programs are a few tools and whatever ``has`` puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None
            (self.programs / tool).symlink_to(path)
        self.offers()

    def has(self, program: str, script: str) -> None:
        path = self.programs / program
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def offers(self, *packages: str) -> None:
        """What apt can install. ``apt-cache policy`` answers as apt does: nothing at all for unknown names."""
        known = "|".join(packages) or "-"
        self.has(
            "apt-cache", f'case $2 in {known}) printf "%s:\\n  Installed: (none)\\n  Candidate: 1.0\\n" "$2" ;; esac'
        )

    def runs(self, os_release: str, script: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "os-release").write_text(os_release)
        return subprocess.run(
            ["bash", "-c", f"source {ROOT}/script/lib.sh; {NEED}{script}"],
            env={"PATH": str(self.programs), "OS_RELEASE": str(self.folder / "os-release"), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("os_release", "family"),
    [(DEBIAN_12, "debian"), (UBUNTU_22, "ubuntu"), (UBUNTU_24, "ubuntu"), (MINT, "ubuntu"), (FEDORA, "")],
)
def test_the_family_is_that_of_os_release(machine: Machine, os_release: str, family: str) -> None:
    done = machine.runs(os_release, "system_family")
    assert (done.returncode, done.stdout.strip()) == (0, family), done.stderr


NO_PYTHON = (
    'python_command() { [ ! -e "$OS_RELEASE.new" ] || echo python3.11; }; '
    'need() { echo "need $*"; touch "$OS_RELEASE.new"; }; '
)


def test_a_newer_python_is_taken_where_apt_has_one_beside_the_old(machine: Machine) -> None:
    machine.offers("python3-venv", "python3.11-venv", "python3.11")
    done = machine.runs(UBUNTU_22, f"{NO_PYTHON} need_python; python_command")
    assert done.stdout.split("\n")[:2] == ["need python3.11 python3.11-venv python3.11-dev", "python3.11"], done.stderr


def test_an_old_python_alone_is_refused_in_words(machine: Machine) -> None:
    machine.has("python3", "echo Python 3.10.12")
    done = machine.runs(UBUNTU_22, f"{NO_PYTHON} need_python")
    assert done.returncode == 1
    assert "Python 3.11 or newer with venv is needed; this machine's python3 is Python 3.10.12" in done.stderr
    assert "Ubuntu 24.04" in done.stderr


@pytest.mark.parametrize(("version", "fine"), [("v12.22.9", False), ("v18.19.1", True), ("v22.11.0", True)])
def test_an_old_node_is_refused_in_words(machine: Machine, version: str, fine: bool) -> None:
    machine.has("node", f"echo {version}")
    machine.has("npm", "true")
    done = machine.runs(UBUNTU_22, "need_node")
    assert (done.returncode == 0) is fine
    assert fine or f"Node.js 18 or newer is needed for the frontend part; this machine's is {version}" in done.stderr


def test_node_and_npm_are_installed_where_missing(machine: Machine) -> None:
    machine.has("node", "echo v18.19.1")
    assert machine.runs(UBUNTU_24, "need_node").stdout == "need npm\n"


class TestChromium:
    def test_one_that_starts_is_taken(self, machine: Machine) -> None:
        machine.has("chromium-browser", STUB)
        machine.has("google-chrome", "echo Google Chrome 131.0.6778.85")
        done = machine.runs(UBUNTU_24, "need_chromium; chromium_command")
        assert done.stdout == "google-chrome\n", done.stderr

    def test_debian_has_a_package(self, machine: Machine) -> None:
        done = machine.runs(DEBIAN_12, "need_chromium || true")
        assert "need chromium fonts-dejavu-core" in done.stdout

    def test_ubuntu_has_a_snap_where_snapd_runs(self, machine: Machine) -> None:
        machine.has("chromium-browser", STUB)
        machine.has("snap", 'printf "snap    2.66.1\\nsnapd   2.66.1\\nseries  16\\n"')
        done = machine.runs(UBUNTU_24, "need_chromium")
        assert "as root: snap install chromium" in done.stdout
        assert "Chromium is installed but does not start" in done.stderr  # nothing was really installed here

    @pytest.mark.parametrize("snap", ["", 'printf "snap    2.66.1\\nsnapd   unavailable\\n"'])
    def test_ubuntu_without_snapd_is_refused_with_the_ways_out(self, machine: Machine, snap: str) -> None:
        machine.has("chromium-browser", STUB)
        if snap:
            machine.has("snap", snap)
        done = machine.runs(UBUNTU_24, "need_chromium")
        assert done.returncode == 1
        assert "snapd does not run here" in done.stderr
        assert "CLOUDOPS_TEST_CHROMIUM" in done.stderr
        assert "as root" not in done.stdout

    def test_the_one_that_is_named_comes_first(self, machine: Machine) -> None:
        machine.has("chromium", "echo Chromium 130")
        machine.has("my-chromium", "echo Chromium 131")
        done = machine.runs(UBUNTU_24, "CLOUDOPS_TEST_CHROMIUM=my-chromium; chromium_command")
        assert done.stdout == "my-chromium\n"


@pytest.mark.parametrize(
    ("offers", "more"),
    [((), ""), (("libvirt-daemon-log", "libvirt-daemon-lock"), " libvirt-daemon-log libvirt-daemon-lock")],
)
def test_the_parts_of_libvirt_are_those_that_apt_has(machine: Machine, offers: tuple[str, ...], more: str) -> None:
    machine.offers(*offers)
    done = machine.runs(UBUNTU_24, "need_libvirt")
    assert done.stdout.strip().endswith(f"busybox-static zstd{more}")
