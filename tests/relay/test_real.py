"""The relay in front of QEMU's own VNC server: no password, password, and VeNCrypt with anonymous TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from cloudops.lab.process import find_program
from consoles.relay import UpstreamAuthenticationFailed, UpstreamTimedOut, open_upstream
from tests.relay.browser import KEY_A
from tests.relay.lab import Lab, on_every_path

pytestmark = pytest.mark.real

SET_ENCODINGS = struct.pack("!BxHi", 2, 1, 0)


class Qemu:
    """A machine without a disk, and its monitor."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: Path, port: int):
        self.process = process
        self.port = port
        self._monitor = monitor

    async def command(self, name: str, **arguments: Any) -> Any:
        """One QMP command; its return value."""
        reader, writer = await asyncio.open_unix_connection(str(self._monitor))
        try:
            await reader.readline()
            for message in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                writer.write(json.dumps(message).encode() + b"\n")
                while "event" in (answer := json.loads(await reader.readline())):
                    pass
            assert "return" in answer, answer
            return answer["return"]
        finally:
            writer.close()

    @property
    def endpoint(self) -> ConsoleEndpoint:
        return ConsoleEndpoint(Transport.TCP, host="127.0.0.1", port=self.port)


@contextlib.asynccontextmanager
async def qemu(tmp_path: Path, vnc: str = "", *more: str) -> AsyncIterator[Qemu]:
    monitor = tmp_path / "qmp.sock"
    qemu = find_program("qemu-system-x86_64", package="qemu-system-x86")
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once, and kill() is wanted
        [
            *(qemu, "-display", "none", "-vnc", f"127.0.0.1:400,to=599{vnc}", "-accel", "tcg", "-m", "32"),
            *("-nodefaults", "-vga", "std", "-qmp", f"unix:{monitor},server=on,wait=off", *more),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        machine = Qemu(process, monitor, 0)
        async with asyncio.timeout(10):
            while not machine.port:
                with contextlib.suppress(OSError, ValueError):  # the monitor is not there yet, or not ready
                    machine.port = int((await machine.command("query-vnc"))["service"])
                await asyncio.sleep(0.02)
        yield machine
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)


async def clients(machine: Qemu) -> list[tuple[str, int]]:
    answer = await machine.command("query-vnc")
    return [(client["host"], int(client["service"])) for client in answer.get("clients", [])]


def temporary(path: str) -> Path:
    """A short directory: a Unix socket's path has at most 107 bytes."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix=f"relay-{path}-"))


@on_every_path
async def test_picture_keys_and_the_connection_qemu_sees(lab: Lab) -> None:
    directory = temporary(lab.path)
    try:
        async with qemu(directory) as machine:
            lab.endpoint = machine.endpoint
            browser = await lab.browser()
            await browser.rfb()
            head = await browser.data(24)
            width, height = struct.unpack("!HH", head[:4])
            name = await browser.data(struct.unpack("!I", head[20:])[0])
            assert name.startswith(b"QEMU")
            browser.send(SET_ENCODINGS + struct.pack("!BBHHHH", 3, 0, 0, 0, width, height))
            update = await browser.data(16)
            assert update[:4] == b"\0\0\0\1"
            x, y, w, h, encoding = struct.unpack("!HHHHi", update[4:])
            assert (x, y, encoding) == (0, 0, 0)
            assert len(await browser.data(w * h * 4)) == w * h * 4
            browser.send(KEY_A)
            assert await clients(machine) == [lab.console.local_address]
            browser.close(1000)
            await lab.hooks[0].outcome(1.0)
            async with asyncio.timeout(2):
                while await clients(machine):
                    await asyncio.sleep(0.02)
    finally:
        shutil.rmtree(directory)


@on_every_path
async def test_qemu_killed_under_an_open_console(lab: Lab) -> None:
    directory = temporary(lab.path)
    try:
        async with qemu(directory) as machine:
            lab.endpoint = machine.endpoint
            browser = await lab.browser()
            await browser.rfb()
            await browser.data(24)
            machine.process.kill()
            assert (await browser.closed())[0] == 4433
            assert lab.hooks[0].log == ["started", "upstream_lost", "ended"]
    finally:
        shutil.rmtree(directory)


async def test_password_set_through_the_monitor(tmp_path: Path) -> None:
    directory = temporary("password")
    try:
        async with qemu(directory, ",password=on") as machine:
            await machine.command("set_password", protocol="vnc", password="opensesm")
            await machine.command("expire_password", protocol="vnc", time="never")
            upstream = await open_upstream(_with_password(machine, "opensesm"), 5)
            assert upstream.security == "vnc"
            upstream.close()
            with pytest.raises(UpstreamAuthenticationFailed, match="Authentication failed"):
                await open_upstream(_with_password(machine, "wrong"), 5)
            with pytest.raises(UpstreamAuthenticationFailed, match="none is known"):
                await open_upstream(machine.endpoint, 5)
    finally:
        shutil.rmtree(directory)


async def test_anonymous_tls(tmp_path: Path) -> None:
    directory = temporary("tls")
    try:
        tls = ("-object", "tls-creds-anon,id=tls0,endpoint=server")
        async with qemu(directory, ",tls-creds=tls0", *tls) as machine:
            upstream = await open_upstream(machine.endpoint, 5)
            assert upstream.security == "tlsnone"
            upstream.close()
    finally:
        shutil.rmtree(directory)


async def test_frozen_qemu_hits_the_deadline(tmp_path: Path) -> None:
    directory = temporary("frozen")
    try:
        async with qemu(directory) as machine:
            os.kill(machine.process.pid, signal.SIGSTOP)
            with pytest.raises(UpstreamTimedOut):
                await open_upstream(machine.endpoint, 0.3)
    finally:
        shutil.rmtree(directory)


def _with_password(machine: Qemu, password: str) -> ConsoleEndpoint:
    return ConsoleEndpoint(Transport.TCP, host="127.0.0.1", port=machine.port, password=password)
