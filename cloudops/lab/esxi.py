"""The demo's vCenter: the simulator of tests/vsphere/fake with two ESXi hosts, and a real guest on its consoles.

Nothing else here is VMware's: the simulator speaks its protocols, and the picture is that of a QEMU of our own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cloudops.lab.domain import KERNEL_ARGUMENTS, QUICKER
from cloudops.lab.process import find_program, free_port, kept_password
from cloudops.lab.supervisor import Program

ADDRESS = "127.0.0.1"
GUEST_NAME = "esxi-guest"
GUEST_MEMORY_MIB = 192


class Esxi:
    """What to run for it, and what to tell CloudOps."""

    def __init__(self, state: Path, guest_dir: Path | None = None) -> None:
        """``state`` keeps port, password and certificate, so that CloudOps finds the same vCenter the next time.
        ``guest_dir``: where the guest's kernel and file system will be; None: consoles show the simulator's screen."""
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._state = state
        self._guest_dir = guest_dir
        self._told = state / "endpoint.json"
        self._display = state / "vnc"
        self._port = _kept_port(state / "port")
        kept_password(state / "password")

    def vcenter(self, env: Mapping[str, str], cwd: Path) -> Program:
        """vCenter and its hosts; ready once they listen."""
        command = [sys.executable, "-m", "tests.vsphere.demo", f"--state={self._state}"]
        command += [f"--address={ADDRESS}", f"--port={self._port}"]
        if self._guest_dir is not None:
            command.append(f"--vnc=unix:{self._display}")
        self._told.unlink(missing_ok=True)
        return Program("vcenter", command, env=env, cwd=cwd, ready=self._told.exists, restart=True)

    def guest(self) -> Iterator[Program]:
        """The guest, if there is to be one. Raises ServiceError when QEMU is missing."""
        if self._guest_dir is not None:
            self._display.unlink(missing_ok=True)
            command = guest_command(self._guest_dir, self._display)
            yield Program("esxi-vm", command, ready=lambda: _answers(self._display), restart=True)

    def endpoint(self) -> dict[str, Any]:
        """What ``manage.py demo_seed`` adds to CloudOps, once vCenter is started."""
        told: dict[str, Any] = json.loads(self._told.read_text())
        return told


def guest_command(guest_dir: Path, display: Path) -> list[str]:
    """The lab's guest without libvirt, as whoever runs this; its VNC server listens on the socket ``display``."""
    words = f"{KERNEL_ARGUMENTS} {QUICKER} lab.name={GUEST_NAME}"
    command = [find_program("qemu-system-x86_64", package="qemu-system-x86"), "-name", GUEST_NAME, "-nodefaults"]
    command += ["-machine", "pc", "-accel", "tcg,tb-size=128", "-cpu", "qemu64", "-m", str(GUEST_MEMORY_MIB)]
    command += ["-kernel", str(guest_dir / "vmlinuz"), "-initrd", str(guest_dir / "initrd.img"), "-append", words]
    return [*command, "-vga", "std", "-serial", "null", "-vnc", f"unix:{display},share=ignore"]


def _kept_port(file: Path) -> int:
    """The port of the last time if it is free now, else another one, which is kept."""
    with contextlib.suppress(OSError, ValueError):
        port = int(file.read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((ADDRESS, port))
        return port
    port = free_port(ADDRESS)
    file.write_text(str(port))
    return port


def _answers(display: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(1)
        probe.connect(str(display))
        return True
    return False
