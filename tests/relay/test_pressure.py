"""Back-pressure, bounded memory and fairness, on both paths and both event loops."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from unittest import mock

from consoles.reasons import ClosedReason
from consoles.relay import asgi, swap
from consoles.relay.frames import BINARY, PING, PONG, TEXT, masked_frame
from consoles.relay.runtime import BROWSER_READ_BYTES, SHARED_READ_BYTES, UPSTREAM_READ_BYTES, loop_state
from consoles.relay.splice import SHARED_SPLICE_BYTES, SPLICE_BYTES
from tests.relay.browser import KEY_A
from tests.relay.lab import Lab, on_every_path, on_fast_path, until

UPDATE_REQUEST = b"\3\1\0\0\0\0\2\x80\1\xe0"
# One read, the high-water mark, and what both sides may add before they are stopped.
TURN_BYTES = max(UPSTREAM_READ_BYTES, SPLICE_BYTES)
BOUND_BYTES = TURN_BYTES + 128 * 1024


def unsent(lab: Lab) -> int:
    browser = lab.console._browser
    return browser.unsent_bytes() if browser is not None else 0


async def stall(lab: Lab) -> tuple[object, asyncio.Task[None]]:
    """A browser that stops reading while its VNC server floods."""
    browser, vnc = await lab.open()
    sock = browser.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    browser.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def flood() -> None:
        while True:
            vnc.writer.write(bytes(65536))
            await vnc.writer.drain()

    return browser, asyncio.create_task(flood())


async def settled(read: object) -> int:
    """Waits until a counter stands still for a tenth of a second; its value."""
    assert callable(read)
    last = -1
    while (value := read()) != last:
        last = value
        await asyncio.sleep(0.1)
    return int(value)


@on_every_path
async def test_stalled_browser_stops_the_vnc_server(lab: Lab) -> None:
    _, flood = await stall(lab)
    try:
        moved = await settled(lambda: lab.console.bytes_down)
        assert moved > 65536, "it did flow at first"
        assert 0 < unsent(lab) <= BOUND_BYTES
        assert lab.console.outcome is None
    finally:
        flood.cancel()


@on_every_path
async def test_flow_goes_on_when_the_browser_reads_again(lab: Lab) -> None:
    browser, flood = await stall(lab)
    try:
        moved = await settled(lambda: lab.console.bytes_down)
        browser.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await browser.data(1 << 21)  # type: ignore[attr-defined]
        assert lab.console.bytes_down > moved
    finally:
        flood.cancel()


@on_every_path
async def test_control_messages_to_a_stalled_browser_are_bounded(lab: Lab) -> None:
    _, flood = await stall(lab)
    try:
        await settled(lambda: lab.console.bytes_down)
        sent = [lab.console.send_control({"type": "idle", "pad": "x" * 200}) for _ in range(2000)]
        assert sent[0]
        assert not sent[-1]
        assert unsent(lab) <= BOUND_BYTES + 64 * 1024
    finally:
        flood.cancel()


@on_fast_path
async def test_pongs_to_a_stalled_browser_are_bounded_and_the_last_comes(lab: Lab) -> None:
    browser, flood = await stall(lab)
    try:
        await settled(lambda: lab.console.bytes_down)
        before = unsent(lab)
        pings = b"".join(masked_frame(b"%04d" % number * 30, b"abcd", PING) for number in range(3000))
        browser.raw(pings)  # type: ignore[attr-defined]
        browser.send(KEY_A)  # type: ignore[attr-defined]
        await until(lambda: lab.console.bytes_up == 1 + len(KEY_A))
        assert unsent(lab) == before
        browser.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while True:
            frame = await browser.next()  # type: ignore[attr-defined]
            assert frame is not None
            if frame[0] == PONG:
                assert frame[1] == b"2999" * 30
                break
    finally:
        flood.cancel()


@on_every_path
async def test_stalled_browser_can_still_be_closed(lab: Lab) -> None:
    _, flood = await stall(lab)
    try:
        await settled(lambda: lab.console.bytes_down)
        with mock.patch.object(swap, "CLOSE_REPLY_SECONDS", 0.2), mock.patch.object(asgi, "CLOSE_SECONDS", 0.2):
            lab.console.close(ClosedReason.DISCONNECTED)
        assert lab.hooks[0].log == ["started", "ended"]
        await until(lambda: bool(lab.returned), 2.0)
    finally:
        flood.cancel()


@on_every_path
async def test_vnc_server_that_does_not_read_pauses_the_browser(lab: Lab) -> None:
    vnc = await lab.vnc()
    vnc.read_input = False
    browser = await lab.browser()
    await browser.rfb()
    await browser.data(28)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            browser.send(UPDATE_REQUEST * 400)
            await browser.writer.drain()
            sent += 4000

    task = asyncio.create_task(flood())
    try:
        await settled(lambda: lab.console.bytes_up)
        assert lab.console._stuck_since is not None
        await settled(lambda: sent)
        upstream = lab.console._upstream
        assert upstream is not None
        waiting = upstream._transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert waiting <= 128 * 1024
        assert sent - lab.console.bytes_up < 16 << 20, "the rest waits in the sockets, the browser was stopped"
    finally:
        task.cancel()


@on_every_path
async def test_a_flood_leaves_every_other_console_its_turn(lab: Lab) -> None:
    """An echo is never further away than a few reads of the flood, however much of it waits."""
    flooded, source = await lab.open()
    quiet, echo = await lab.open()
    flooding = lab.consoles[0]

    async def drain() -> None:
        while await flooded.reader.read(1 << 20):
            pass

    async def flood() -> None:
        while True:
            source.writer.write(bytes(1 << 18))
            await source.writer.drain()

    tasks = [asyncio.create_task(drain()), asyncio.create_task(flood())]
    try:
        await until(lambda: flooding.bytes_down > 1 << 22)
        between: list[int] = []
        for number in range(40):
            quiet.send(KEY_A)
            await until(lambda number=number: len(echo.received) == 1 + len(KEY_A) * (number + 1))  # type: ignore[misc]
            before = flooding.bytes_down
            echo.writer.write(b"echo")
            await quiet.data(4)
            between.append(flooding.bytes_down - before)
        assert sorted(between)[len(between) // 2] <= 16 * max(SHARED_READ_BYTES, SHARED_SPLICE_BYTES)
        assert flooding.bytes_down > 1 << 23, "it flooded all the while"
    finally:
        for task in tasks:
            task.cancel()


@on_every_path
async def test_slow_browser_gets_every_byte_and_whole_control_frames_between(lab: Lab) -> None:
    """Stalls again and again in the middle of frames; the frame parser of the test would see any that is torn."""
    browser, vnc = await lab.open()
    sock = browser.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    picture = b"".join(number.to_bytes(4, "big") for number in range(3 << 19))  # 6 MiB
    vnc.writer.write(picture)
    got: list[bytes] = []
    said = heard = size = turn = 0
    while size < len(picture):
        turn += 1
        if turn % 5 == 0:
            said += lab.console.send_control({"type": "slots", "in_use": turn, "limit": 40})
            await asyncio.sleep(0.002)
        frame = await browser.next()
        assert frame is not None
        heard += frame[0] == TEXT
        if frame[0] == BINARY:
            got.append(frame[1])
            size += len(frame[1])
    assert b"".join(got) == picture
    assert said
    while heard < said:
        heard += (await browser.message())["type"] == "slots"


@on_every_path
async def test_closed_in_the_middle_of_a_frame(lab: Lab) -> None:
    """The frame that is under way is finished, so that the close frame with its reason arrives."""
    browser, flood = await stall(lab)
    try:
        await settled(lambda: lab.console.bytes_down)
        lab.console.close(ClosedReason.RIGHT_REVOKED)
        browser.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await browser.closed() == (4421, ClosedReason.RIGHT_REVOKED.text)  # type: ignore[attr-defined]
        browser.close(4421)  # type: ignore[attr-defined]
        await browser.ended()  # type: ignore[attr-defined]
        await until(lambda: bool(lab.returned))
    finally:
        flood.cancel()


@on_fast_path
async def test_descriptors_are_given_back(lab: Lab) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for drop in (True, False):
        browser, flood = await stall(lab)
        await settled(lambda: lab.console.bytes_down)
        if drop:
            browser.drop()  # type: ignore[attr-defined]
        else:
            lab.console.close(ClosedReason.IDLE)
            browser.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await browser.closed()  # type: ignore[attr-defined]
            browser.drop()  # type: ignore[attr-defined]
        flood.cancel()
        await until(lambda: len(lab.returned) == len(lab.consoles))
        await lab.vncs[-1].stop()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@on_fast_path
async def test_one_read_is_all_a_flood_gets_in_one_turn(lab: Lab) -> None:
    """Counts reads per turn of the loop: libuv would do up to 32 in a row."""
    browser, source = await lab.open()
    source.writer.transport.set_write_buffer_limits(high=1 << 24)
    turns: list[int] = []
    running = True

    def count() -> None:
        turns.append(lab.console.bytes_down)
        if running:
            asyncio.get_running_loop().call_soon(count)

    reading = asyncio.create_task(browser.data(1 << 23))
    asyncio.get_running_loop().call_soon(count)
    source.writer.write(bytes(1 << 23))
    await reading
    running = False
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= TURN_BYTES
    assert lab.console.bytes_down >= 1 << 23
    assert len(steps) > (1 << 23) // TURN_BYTES // 2


@on_fast_path
async def test_a_browser_gets_one_small_read_in_one_turn(lab: Lab) -> None:
    browser, vnc = await lab.open()
    payload = UPDATE_REQUEST * 100_000
    turns: list[int] = []
    running = True

    def count() -> None:
        turns.append(lab.console.bytes_up)
        if running:
            asyncio.get_running_loop().call_soon(count)

    asyncio.get_running_loop().call_soon(count)
    browser.send(payload)
    await until(lambda: len(vnc.received) == 1 + len(payload))
    running = False
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= BROWSER_READ_BYTES + len(UPDATE_REQUEST)


@on_fast_path
async def test_a_flood_gets_smaller_turns_while_somebody_else_types(lab: Lab) -> None:
    flooding, _ = await lab.open()
    quiet, echo = await lab.open()
    state, (first, second) = loop_state(), lab.consoles
    assert state.upstream_share(first) == UPSTREAM_READ_BYTES
    flooding.send(KEY_A)
    await until(lambda: first in state.typing)
    assert state.upstream_share(first) == UPSTREAM_READ_BYTES, "its own input does not count"
    quiet.send(UPDATE_REQUEST)
    await until(lambda: echo.received.endswith(UPDATE_REQUEST))
    assert state.upstream_share(first) == UPSTREAM_READ_BYTES, "traffic is no input"
    quiet.send(KEY_A)
    await until(lambda: second in state.typing)
    assert state.upstream_share(first) == SHARED_READ_BYTES
    state._tick()
    assert state.upstream_share(first) == UPSTREAM_READ_BYTES
    quiet.close()
    await lab.hooks[1].outcome()
    assert second not in state.typing
