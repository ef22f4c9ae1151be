"""A cgroup of its own for a lab host, so that its libvirt can weigh and limit the CPU time of guests.

Only where the machine has version 1 of the CPU controller, and where we may make groups there. Everything works without
it too; the host then says that it cannot weigh CPUs (libvirt: "cgroup CPU controller is not mounted").
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
PREFIX = "cloudops-lab-"
SHARES = 4096
"""The weight of a whole host: a group counts as one process of 1024 otherwise, however many guests are in it."""
LEAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CpuCgroup:
    """A group in the machine's hierarchy, of which the host sees nothing else."""

    path: Path

    def remove(self) -> None:
        """Once all processes in it have ended; gives up quietly after some seconds, for whoever comes next."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while not _removed(self.path) and time.monotonic() < deadline:
            time.sleep(0.05)


def make_cpu_cgroup(name: str, mounts: Path = MOUNTS) -> CpuCgroup | None:
    """An empty group of this process; None where none can be had. Those that killed processes left are removed."""
    mount_point = _mount_point(mounts)
    if mount_point is None:
        return None
    group = CpuCgroup(mount_point / f"{PREFIX}{os.getpid()}-{name}")
    try:
        for left in mount_point.glob(f"{PREFIX}*-*"):
            if left == group.path or not Path("/proc", left.name.removeprefix(PREFIX).partition("-")[0]).exists():
                _removed(left)
        group.path.mkdir(exist_ok=True)
        (group.path / "cpu.shares").write_text(str(SHARES))
    except OSError:
        return None
    return group


def _mount_point(mounts: Path) -> Path | None:
    """Where version 1 of the CPU controller is mounted (proc(5): device, directory, type, options)."""
    for line in mounts.read_text().splitlines():
        _, directory, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(directory)
    return None


def _removed(path: Path) -> bool:
    """Whether a group and those in it are gone; those that hold processes stay."""
    if path.is_dir():
        with contextlib.suppress(OSError):
            for inner in path.iterdir():
                if inner.is_dir():
                    _removed(inner)
            path.rmdir()
    return not path.exists()
