"""The kernel moves the bytes: when it does, when it does not, and that nothing is kept for it (see also pressure)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from consoles.reasons import ClosedReason
from consoles.relay import server, splice
from consoles.relay.flow import UpstreamFlow
from consoles.relay.frames import BINARY, TEXT
from consoles.relay.runtime import loop_state
from tests.relay.browser import KEY_A, Browser
from tests.relay.lab import Lab, on_splice_path, over_tls, until
from tests.relay.vnc import VncServer

PICTURE = b"".join(number.to_bytes(4, "big") for number in range(1 << 20))  # 4 MiB


def flow_of(lab: Lab) -> UpstreamFlow:
    flow = lab.console._upstream
    assert isinstance(flow, UpstreamFlow)
    return flow


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def pumps_made() -> Iterator[list[splice.SplicePump | None]]:
    """What every attempt to splice came to."""
    made: list[splice.SplicePump | None] = []
    original = splice.try_splice

    def watched(*args: object) -> splice.SplicePump | None:
        made.append(original(*args))  # type: ignore[arg-type]
        return made[-1]

    with mock.patch.object(splice, "try_splice", watched):
        yield made


async def show(browser: Browser, vnc: VncServer) -> None:
    """A large picture, whole and in order."""
    vnc.writer.write(PICTURE)
    assert await browser.data(len(PICTURE)) == PICTURE


async def flooding(lab: Lab, browser: Browser, vnc: VncServer) -> splice.SplicePump:
    """A console that the kernel serves just now; everything sent so far was read."""
    sent = 0
    while flow_of(lab).splicing is None:
        vnc.writer.write(bytes(1 << 20))
        sent += 1 << 20
        await browser.data(1 << 20)
        assert sent < 1 << 26, "it never spliced"
    pump = flow_of(lab).splicing
    assert pump is not None
    return pump


@on_splice_path
async def test_a_flood_is_moved_by_the_kernel_and_counted(lab: Lab) -> None:
    browser, vnc = await lab.open()
    before = lab.console.bytes_down
    with pumps_made() as made:
        for _ in range(4):
            await show(browser, vnc)
    assert any(made)
    assert lab.console.bytes_down - before == 4 * len(PICTURE)


@on_splice_path
async def test_an_interactive_console_never_holds_a_pipe(lab: Lab) -> None:
    browser, vnc = await lab.open()
    before = descriptors()
    with pumps_made() as made:
        for _ in range(20):
            vnc.writer.write(bytes(2000))
            await browser.data(2000)
    assert not made
    assert descriptors() == before


@on_splice_path
async def test_small_portions_go_back_to_copying(lab: Lab) -> None:
    browser, vnc = await lab.open()
    await flooding(lab, browser, vnc)
    for number in range(splice.FEW_TURNS):
        portion = bytes((number,)) * 100
        vnc.writer.write(portion)
        assert await browser.data(100) == portion
    await until(lambda: flow_of(lab).splicing is None)
    assert not loop_state().pumps
    await show(browser, vnc)


@on_splice_path
async def test_descriptors_are_given_back_when_the_flood_ends(lab: Lab) -> None:
    browser, vnc = await lab.open()
    before = descriptors()
    pump = await flooding(lab, browser, vnc)
    assert descriptors() > before
    pump.tick()
    pump.tick()
    assert flow_of(lab).splicing is None
    assert descriptors() <= before + 2, "one empty pipe is kept for the next"
    await show(browser, vnc)


@on_splice_path
async def test_no_pipe_to_be_had(lab: Lab) -> None:
    browser, vnc = await lab.open()
    with (
        mock.patch.object(os, "pipe2", side_effect=OSError(errno.EMFILE, "Too many open files")),
        pumps_made() as made,
    ):
        await show(browser, vnc)
        await show(browser, vnc)
        await until(lambda: flow_of(lab).splicing is None)
    assert any(made), "it was tried"
    assert not loop_state().pumps


@on_splice_path
async def test_no_descriptor_to_be_had(lab: Lab) -> None:
    browser, vnc = await lab.open()
    before = descriptors()
    with (
        mock.patch.object(os, "dup", side_effect=OSError(errno.EMFILE, "Too many open files")),
        pumps_made() as made,
    ):
        await show(browser, vnc)
        await show(browser, vnc)
    assert made
    assert not any(made)
    assert descriptors() == before


@on_splice_path
async def test_a_pipe_that_may_not_grow_does_too(lab: Lab) -> None:
    browser, vnc = await lab.open()
    original = fcntl.fcntl

    def refuse(fd: int, command: int, value: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        found: int = original(fd, command, value)
        return found

    with mock.patch.object(fcntl, "fcntl", refuse), pumps_made() as made:
        for _ in range(4):
            await show(browser, vnc)
    assert any(made)


@on_splice_path
async def test_only_so_many_consoles_at_once(lab: Lab) -> None:
    browser, vnc = await lab.open()
    with mock.patch.object(splice, "MAX_PUMPS", 0), pumps_made() as made:
        await show(browser, vnc)
        await show(browser, vnc)
    assert made
    assert not any(made)


@on_splice_path
async def test_the_end_of_the_line_while_the_kernel_moves(lab: Lab) -> None:
    """All that the server said before it went away arrives, and then the reason."""
    browser, vnc = await lab.open()
    await flooding(lab, browser, vnc)
    vnc.writer.write(PICTURE)
    vnc.writer.close()
    assert await browser.data(len(PICTURE)) == PICTURE
    assert await browser.closed() == (ClosedReason.GUEST_CLOSED.ws_code, ClosedReason.GUEST_CLOSED.text)
    assert not loop_state().pumps


@on_splice_path
async def test_keys_and_control_messages_beside_it(lab: Lab) -> None:
    """Frames of the transport and of the kernel take turns; none is torn."""
    browser, vnc = await lab.open()
    await flooding(lab, browser, vnc)
    typed = len(vnc.received)
    got = said = 0
    pieces: list[bytes] = []
    vnc.writer.write(PICTURE)
    while got < len(PICTURE) or not said:
        browser.control(type="ping", t=1)
        browser.send(KEY_A)
        frame = await browser.next()
        assert frame is not None
        assert frame[0] in (BINARY, TEXT)
        if frame[0] == TEXT:
            said += 1
        else:
            pieces.append(frame[1])
            got += len(frame[1])
    assert b"".join(pieces) == PICTURE
    await until(lambda: len(vnc.received) > typed)


@on_splice_path
async def test_a_flood_rests_while_somebody_else_types(lab: Lab) -> None:
    browser, vnc = await lab.open()
    quiet, echo = await lab.open()
    lab.consoles.reverse()  # lab.console is the one that floods
    pump = await flooding(lab, browser, vnc)
    turns: list[int] = []
    original = splice.SplicePump._rested

    def watched(self: splice.SplicePump) -> None:
        turns.append(lab.console.bytes_down)
        original(self)

    with mock.patch.object(splice.SplicePump, "_rested", watched):
        quiet.send(KEY_A)
        await until(lambda: len(echo.received) == 1 + len(KEY_A))
        vnc.writer.write(PICTURE)
        assert await browser.data(len(PICTURE)) == PICTURE
    assert pump is flow_of(lab).splicing
    assert len(turns) > 4
    assert max(after - before for before, after in itertools.pairwise(turns)) <= splice.SHARED_SPLICE_BYTES


@on_splice_path
async def test_closed_while_it_rests(lab: Lab) -> None:
    browser, vnc = await lab.open()
    quiet, _ = await lab.open()
    lab.consoles.reverse()
    pump = await flooding(lab, browser, vnc)
    quiet.send(KEY_A)
    await until(lambda: bool(loop_state().typing))
    with mock.patch.object(splice, "REST_SECONDS", 0.5):
        vnc.writer.write(bytes(1 << 18))
        await until(lambda: pump._rest is not None)
        lab.console.close(ClosedReason.IDLE)
    assert (await browser.closed())[0] == ClosedReason.IDLE.ws_code
    assert pump._rest is not None
    assert pump._rest.cancelled()
    assert not loop_state().pumps


@over_tls
async def test_what_is_encrypted_is_copied(lab: Lab) -> None:
    browser, vnc = await lab.open()
    with pumps_made() as made:
        await show(browser, vnc)
        await show(browser, vnc)
    assert not any(made)


@on_splice_path
async def test_frames_get_smaller_for_a_browser_that_does_not_keep_pace(lab: Lab) -> None:
    browser, vnc = await lab.open()
    pump = await flooding(lab, browser, vnc)
    limits: list[int] = []
    original = splice.SplicePump._more

    def watched(self: splice.SplicePump) -> None:
        original(self)
        limits.append(self._limit)

    with mock.patch.object(splice.SplicePump, "_more", watched):
        pump._limit = splice.SPLICE_BYTES
        browser.writer.transport.pause_reading()  # type: ignore[attr-defined]
        vnc.writer.write(PICTURE * 3)
        await until(lambda: bool(pump.waiting_bytes))
        await asyncio.sleep(2 * splice.SLOW_SECONDS)
        browser.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await browser.data(3 * len(PICTURE)) == 3 * PICTURE
    assert min(limits) < splice.SPLICE_BYTES


def test_pipes_are_kept_only_while_there_are_consoles() -> None:
    before = descriptors()
    pipes = splice.Pipes()
    pipes.keep(True)
    taken = [pipe for _ in range(splice.Pipes.MAX_SPARE + 2) if (pipe := pipes.take()) is not None]
    assert all(pipe.size >= 4096 for pipe in taken)
    for pipe in taken:
        pipes.give_back(pipe)
    assert descriptors() == before + 2 * splice.Pipes.MAX_SPARE
    again = pipes.take()
    assert again in taken
    pipes.keep(False)
    assert again is not None
    pipes.give_back(again)
    assert descriptors() == before


def allowed_congestion_control() -> list[str]:
    return Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()


@pytest.mark.parametrize("wanted", ["bbr", "reno", "cubic"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_pacing_is_taken_off_listeners_inside_this_machine(address: str, wanted: str) -> None:
    with socket.create_server((address, 0)) as listener:
        if wanted in allowed_congestion_control():
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
        before = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
        server.unpace_local_listeners()
        after = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
        paced_inside = before == b"bbr" and address == "127.0.0.1"
        assert after == (b"reno" if paced_inside else before)
