"""Groups of the CPU controller for lab hosts, where the machine has it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cloudops.lab.cpu_cgroup import MOUNTS, PREFIX, make_cpu_cgroup


@pytest.mark.parametrize(
    "mounts",
    [
        "",
        "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0",
        "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0",
        "cgroup /nowhere/at/all cgroup rw,relatime,cpu,cpuacct 0 0",
    ],
)
def test_none_where_none_can_be_had(tmp_path: Path, mounts: str) -> None:
    file = tmp_path / "mounts"
    file.write_text(mounts)
    assert make_cpu_cgroup("cloudops-lab-none", file) is None


def _dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait(timeout=10)
    return process.pid


def _writable() -> list[str]:
    mounts = [line.split() for line in MOUNTS.read_text().splitlines()]
    version_1 = [found for found in mounts if found[2] == "cgroup" and "cpu" in found[3].split(",")]
    return [found[1] for found in version_1 if os.access(found[1], os.W_OK)]


@pytest.mark.real
def test_a_group_is_made_anew_and_leaves_nothing_behind() -> None:
    group = make_cpu_cgroup("test")
    if group is None:  # this machine has none, or it does not let us
        assert not _writable()
        return
    dead = group.path.parent / f"{PREFIX}{_dead_pid()}-test"
    (dead / "machine").mkdir(parents=True)
    (group.path / "machine" / "guest").mkdir(parents=True)
    again = make_cpu_cgroup("test")
    assert not dead.exists()
    assert again == group
    assert (group.path / "cpu.shares").exists()
    assert not (group.path / "machine").exists()
    (group.path / "machine").mkdir()
    group.remove()
    assert not group.path.exists()
