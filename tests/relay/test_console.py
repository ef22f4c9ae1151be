"""A console in use: what flows, control messages, what is no RFB; on every path and both event loops."""

from __future__ import annotations

import asyncio
import struct
from unittest import mock

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.reasons import ClosedReason
from consoles.relay import ConsolePolicy, live_consoles
from consoles.relay.frames import BINARY, masked_frame
from tests.relay.browser import KEY_A
from tests.relay.certificates import certificate
from tests.relay.lab import Hooks, Lab, on_every_path, on_fast_path, over_tls, until
from tests.relay.vnc import SERVER_INIT, VncScript, VncServer

UPDATE_REQUEST = b"\3\1\0\0\0\0\2\x80\1\xe0"


@on_every_path
async def test_bytes_flow_both_ways(lab: Lab) -> None:
    vnc = await lab.vnc()
    browser = await lab.browser()
    assert "101" in browser.head
    assert "sec-websocket-protocol: binary" in browser.head.lower()
    await browser.rfb()
    assert await browser.data(28) == SERVER_INIT
    browser.send(KEY_A)
    browser.send(UPDATE_REQUEST)
    await until(lambda: vnc.received == b"\1" + KEY_A + UPDATE_REQUEST)
    vnc.writer.write(b"picture")
    assert await browser.data(7) == b"picture"
    assert lab.console.bytes_up == 1 + len(KEY_A) + len(UPDATE_REQUEST)
    assert lab.console.bytes_down == 28 + 7
    assert lab.console.local_address == vnc.peers[0]
    assert lab.hooks[0].log == ["started"]
    assert live_consoles() == [lab.console]


@on_every_path
async def test_large_update_arrives_whole(lab: Lab) -> None:
    browser, vnc = await lab.open()
    picture = bytes(range(256)) * 12288  # 3 MiB, more than any buffer on the way
    vnc.writer.write(picture)
    assert await browser.data(len(picture)) == picture


@on_every_path
async def test_large_clipboard_arrives_whole(lab: Lab) -> None:
    browser, vnc = await lab.open()
    text = b"\6\0\0\0" + struct.pack("!I", 600_000) + bytes(600_000)
    browser.send(text)
    await until(lambda: len(vnc.received) == 1 + len(text))
    assert lab.hooks[0].outcomes == []


@over_tls
async def test_a_web_server_that_ends_tls_itself(lab: Lab) -> None:
    browser, vnc = await lab.open()
    picture = bytes(range(256)) * 8192
    vnc.writer.write(picture)
    assert await browser.data(len(picture)) == picture
    browser.send(KEY_A * 2000)
    await until(lambda: vnc.received == b"\1" + KEY_A * 2000)
    lab.console.close(ClosedReason.RIGHT_REVOKED)
    assert (await browser.closed())[0] == 4421
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_every_path
async def test_a_vnc_server_behind_vencrypt(lab: Lab) -> None:
    vnc = await lab.vnc(VncScript(types=(19,), vencrypt=(260,), tls=certificate().server))
    lab.endpoint = vnc.endpoint(ca_pem=certificate().pem)
    await relays_both_ways(lab, vnc)


@on_every_path
async def test_a_vnc_server_behind_a_secure_websocket(lab: Lab) -> None:
    vnc = await lab.vnc()

    async def bridge(outside: ServerConnection) -> None:
        reader, writer = await asyncio.open_connection(vnc.host, vnc.port)

        async def down() -> None:
            while data := await reader.read(65536):
                await outside.send(data)
            await outside.close()

        task = asyncio.create_task(down())
        try:
            async for message in outside:
                assert isinstance(message, bytes)
                writer.write(message)
        finally:
            writer.close()
            task.cancel()

    async with serve(
        bridge, "127.0.0.1", 0, ssl=certificate().server, subprotocols=[Subprotocol("binary")], compression=None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        lab.endpoint = ConsoleEndpoint(
            Transport.WSS, url=f"wss://127.0.0.1:{port}/ticket", certificate_sha256=certificate().sha256
        )
        await relays_both_ways(lab, vnc)


async def relays_both_ways(lab: Lab, vnc: VncServer) -> None:
    """A large picture down, many keys up, and the end of the VNC side seen."""
    browser = await lab.browser()
    await browser.rfb()
    assert await browser.data(28) == SERVER_INIT
    picture = bytes(range(256)) * 8192
    vnc.writer.write(picture)
    assert await browser.data(len(picture)) == picture
    browser.send(KEY_A * 2000)
    await until(lambda: vnc.received == b"\1" + KEY_A * 2000)
    vnc.writer.close()
    assert (await browser.closed())[0] == 4433


@on_every_path
async def test_control_messages(lab: Lab) -> None:
    browser, _ = await lab.open()
    assert lab.console.has_control
    assert lab.console.send_control({"type": "hello", "view_only": False})
    assert await browser.message() == {"type": "hello", "view_only": False}
    browser.control(type="ping", t=12.5)
    assert await browser.message() == {"type": "pong", "t": 12.5}
    browser.control(type="release-answer", yes=True)
    await until(lambda: lab.hooks[0].messages == [{"type": "release-answer", "yes": True}])
    with pytest.raises(ValueError, match="4096"):
        lab.console.send_control({"x": "y" * 5000})


@on_every_path
async def test_no_control_protocol_no_text_frames(lab: Lab) -> None:
    browser, _ = await lab.open(("binary",))
    assert not lab.console.send_control({"type": "hello"})
    browser.control(type="ping", t=1)
    assert (await browser.closed())[0] == 4402


@on_every_path
async def test_text_that_is_no_control_message(lab: Lab) -> None:
    browser, _ = await lab.open()
    browser.frame(1, b'["not", "an", "object"]')
    assert (await browser.closed())[0] == 4402


@on_every_path
async def test_what_is_not_rfb_ends_the_console(lab: Lab) -> None:
    browser, vnc = await lab.open()
    browser.send(b"\x77 no such message")
    code, text = await browser.closed()
    assert code == 4402
    assert "119" in text
    assert (await lab.hooks[0].outcome()).reason is ClosedReason.PROTOCOL_ERROR
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_every_path
async def test_view_only_is_kept_by_the_server(lab: Lab) -> None:
    lab.policy = ConsolePolicy(view_only=True)
    browser, vnc = await lab.open()
    browser.send(KEY_A + UPDATE_REQUEST + b"\5\1\0\5\0\5")
    browser.send(UPDATE_REQUEST)
    await until(lambda: vnc.received == b"\1" + UPDATE_REQUEST * 2)


@on_every_path
async def test_stopping_server_closes_consoles(lab: Lab) -> None:
    browser, vnc = await lab.open()
    assert lab.server is not None
    stopping = asyncio.create_task(lab.server.shutdown())
    code, _ = await browser.closed()
    # A foreign ASGI server closes by itself; ours says why.
    assert code == (1012 if lab.path == "plain" else 4443)
    browser.close(1000)
    assert (await lab.hooks[0].outcome()).reason is ClosedReason.SERVER_STOPPING
    await asyncio.wait_for(vnc.closed.wait(), 1.0)
    await asyncio.wait_for(stopping, 5.0)
    lab.server = None


@on_fast_path
async def test_deflate_is_never_agreed_on(lab: Lab) -> None:
    await lab.vnc()
    browser = await lab.browser(extensions="permessage-deflate; client_max_window_bits")
    assert "permessage-deflate" not in browser.head
    await browser.rfb()


@on_fast_path
async def test_frames_before_the_answer_are_a_violation(lab: Lab) -> None:
    vnc = await lab.vnc()
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async def speak_early(writer: asyncio.StreamWriter) -> None:
        await until(lambda: bool(lab.consoles))
        writer.write(masked_frame(b"RFB 003.008\n", b"abcd"))
        await asyncio.sleep(0.05)
        gate.set()

    lab.before_accept = wait
    browser = await lab.browser(meanwhile=speak_early)
    assert (await browser.closed())[0] == 1002
    assert (await lab.hooks[0].outcome()).reason is ClosedReason.PROTOCOL_ERROR
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_every_path
async def test_broken_hooks_do_not_break_the_console(lab: Lab) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("domain bug")

    with mock.patch.object(Hooks, "started", broken):
        browser, vnc = await lab.open()
    vnc.writer.write(b"x")
    assert await browser.next() == (BINARY, b"x")
