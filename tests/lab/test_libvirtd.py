"""The lab's own promises: real guests, faults that are real, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudops.lab import serial_line
from cloudops.lab.cpio import CpioArchive
from cloudops.lab.domain import GuestSpec
from cloudops.lab.guest import build_guest
from cloudops.lab.libvirtd import InUse, LibvirtHost
from cloudops.lab.process import ServiceError
from tests.lab.fixtures import guest_image, lab_cache, start_host

FIRMWARE_GUEST = GuestSpec("firmware", memory_mib=32)


@pytest.fixture
def host() -> Iterator[LibvirtHost]:
    host = start_host("lab-of-labs")
    try:
        yield host
    finally:
        host.stop()


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.real
def test_a_guest_boots_saves_and_continues(host: LibvirtHost) -> None:
    guest = GuestSpec("boots", guest_image())
    reference = host.ensure_guest(guest)
    host.wait_booted("boots")
    assert "name=boots" in host.serial_log("boots").read_text()
    assert host.virsh("domuuid", "boots") == reference
    qemu = host.guest_pid("boots")
    host.stop(save_guests=True)
    assert not _alive(qemu)

    host.start()
    began = time.monotonic()
    assert host.ensure_guest(guest) == reference
    host.wait_booted("boots")
    assert time.monotonic() - began < 10
    assert "restored" in host.virsh("domstate", "boots", "--reason")


@pytest.mark.real
@pytest.mark.timeout(180)
def test_a_guest_answers_although_a_question_before_was_cut_short(host: LibvirtHost) -> None:
    """As when a guest moves, or an answer comes, while a question is typed: its shell waits for a quote to be closed,
    and the next question's first quote would do that, and its second open another one."""
    host.ensure_guest(GuestSpec("asked", guest_image()))
    host.wait_booted("asked")
    terminal, log = Path(host.virsh("ttyconsole", "asked")), host.serial_log("asked")
    line = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        os.write(line, b'\recho "cut $(cat /proc/up')
        host.wait_serial("asked", "cut $(cat /proc/up", timeout_seconds=30)
    finally:
        os.close(line)
    assert serial_line.life(terminal, log).uptime_seconds > 0


@pytest.mark.real
def test_stop_ends_every_process(host: LibvirtHost) -> None:
    host.ensure_guest(FIRMWARE_GUEST)
    pids = [host.guest_pid("firmware"), *host.daemon_pids()]
    assert all(map(_alive, pids))
    host.stop()
    assert not any(map(_alive, pids))
    assert not (host.socket.exists() and _accepts(host))


def _accepts(host: LibvirtHost) -> bool:
    try:
        host.virsh("list")
    except ServiceError:
        return False
    return True


@pytest.mark.real
def test_guests_survive_the_daemon_and_die_alone(host: LibvirtHost) -> None:
    host.ensure_guest(FIRMWARE_GUEST)
    guest, (daemon,) = host.guest_pid("firmware"), host.daemon_pids()
    host.kill_daemon()
    deadline = time.monotonic() + 20
    while not _accepts(host):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert _alive(guest)
    assert not _alive(daemon)
    host.kill_guest("firmware")
    deadline = time.monotonic() + 10
    while host.virsh("domstate", "firmware") != "shut off":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.real
def test_a_frozen_host_is_silent_until_it_thaws(host: LibvirtHost) -> None:
    host.freeze()
    try:
        command = ["virsh", "--connect", host.uri, "list"]
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(command, check=True, capture_output=True, timeout=1.5)
    finally:
        host.thaw()
    assert _accepts(host)


@pytest.mark.real
def test_a_state_directory_has_one_host(host: LibvirtHost) -> None:
    with pytest.raises(InUse, match="another process"):
        LibvirtHost(host.state_dir, "second").start()


@pytest.mark.real
def test_two_hosts_side_by_side(host: LibvirtHost) -> None:
    second = start_host("lab-beside")
    try:
        assert second.virsh("hostname") == "lab-beside"
        assert host.virsh("hostname") == "lab-of-labs"
        assert second.uuid != host.uuid
        assert f"<uuid>{second.uuid}</uuid>" in second.virsh("capabilities")
        second.ensure_guest(FIRMWARE_GUEST)
        assert host.virsh("list", "--name") == ""
    finally:
        second.stop()


@pytest.mark.real
def test_the_guest_is_built_once() -> None:
    image = guest_image()
    before = image.initrd.stat()
    messages: list[str] = []
    assert build_guest(lab_cache() / "guest", messages.append) == image
    assert messages == []
    assert image.initrd.stat().st_mtime_ns == before.st_mtime_ns


def test_without_root_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ServiceError, match="sudo"):
        LibvirtHost(tmp_path, "nobody").start()


def test_a_socket_path_too_long_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="shorter state directory"):
        LibvirtHost(tmp_path / ("x" * 100), "long").start()


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = CpioArchive()
    archive.directory("etc")
    archive.file("etc/motd", b"hello\n")
    archive.file("etc/run", b"#!/bin/sh\n", executable=True)
    archive.symlink("etc/link", "motd")
    subprocess.run(["cpio", "-i", "--quiet"], input=archive.finish(), cwd=tmp_path, check=True, timeout=10)
    assert (tmp_path / "etc/link").read_bytes() == b"hello\n"
    assert os.access(tmp_path / "etc/run", os.X_OK)
    assert not (tmp_path / "etc/motd").stat().st_mode & 0o111
