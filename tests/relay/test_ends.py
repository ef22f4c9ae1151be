"""Every way a console can end, or never begin; on every path and both event loops."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from consoles.reasons import ClosedReason, Refused
from consoles.relay import live_consoles, swap
from consoles.relay.frames import CLOSE
from tests.relay.lab import Lab, on_every_path, on_fast_path, until
from tests.relay.vnc import VncScript

UPDATE_REQUEST = b"\3\1\0\0\0\0\2\x80\1\xe0"


@on_every_path
async def test_closing_the_tab_ends_both_sides(lab: Lab) -> None:
    browser, vnc = await lab.open()
    browser.close(1001)
    outcome = await lab.hooks[0].outcome(1.0)
    assert outcome.reason is ClosedReason.USER_CLOSED
    await asyncio.wait_for(vnc.closed.wait(), 1.0)
    await browser.ended()
    await until(lambda: bool(lab.returned))
    assert lab.returned == lab.hooks[0].outcomes
    assert lab.hooks[0].log == ["started", "ended"]
    assert live_consoles() == []


@on_every_path
async def test_line_lost_without_close_frame(lab: Lab) -> None:
    browser, vnc = await lab.open()
    browser.drop()
    outcome = await lab.hooks[0].outcome(1.0)
    assert outcome.reason is ClosedReason.LINE_LOST
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_fast_path
async def test_close_frame_without_code_is_deliberate(lab: Lab) -> None:
    browser, _ = await lab.open()
    browser.frame(CLOSE, b"")
    assert (await lab.hooks[0].outcome(1.0)).reason is ClosedReason.USER_CLOSED


@on_every_path
async def test_page_says_bye(lab: Lab) -> None:
    browser, vnc = await lab.open()
    browser.control(type="bye")
    assert await browser.closed() == (1000, ClosedReason.USER_CLOSED.text)
    assert (await lab.hooks[0].outcome()).reason is ClosedReason.USER_CLOSED
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_every_path
async def test_domain_closes(lab: Lab) -> None:
    browser, vnc = await lab.open()
    lab.console.close(ClosedReason.RIGHT_REVOKED)
    assert lab.hooks[0].log == ["started", "ended"], "the slot is free at once"
    lab.console.close(ClosedReason.IDLE)
    assert await browser.closed() == (4421, ClosedReason.RIGHT_REVOKED.text)
    await asyncio.wait_for(vnc.closed.wait(), 1.0)
    browser.close(4421)
    await browser.ended()
    await until(lambda: bool(lab.returned))
    assert lab.returned[0].reason is ClosedReason.RIGHT_REVOKED
    assert len(lab.hooks[0].outcomes) == 1


@on_fast_path
async def test_browser_that_never_answers_the_close_is_cut_off(lab: Lab) -> None:
    browser, _ = await lab.open()
    browser.answer_pings = False
    with mock.patch.object(swap, "CLOSE_REPLY_SECONDS", 0.2):
        lab.console.close(ClosedReason.DISCONNECTED)
    assert (await browser.closed())[0] == 4420
    await browser.ended(2.0)
    await until(lambda: bool(lab.returned))


@on_every_path
async def test_closed_before_it_started(lab: Lab) -> None:
    lab.close_before_start = ClosedReason.RIGHT_REVOKED
    vnc = await lab.vnc()
    browser = await lab.browser()
    assert await browser.closed() == (4421, ClosedReason.RIGHT_REVOKED.text)
    await asyncio.wait_for(vnc.closed.wait(), 1.0)
    await until(lambda: lab.hooks[0].log == ["ended"])


@on_every_path
async def test_browser_gone_before_the_accept(lab: Lab) -> None:
    vnc = await lab.vnc()
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    lab.before_accept = wait

    async def leave(writer: asyncio.StreamWriter) -> None:
        await until(lambda: bool(lab.consoles))
        writer.transport.abort()
        assert lab.server is not None
        state = lab.server.server_state
        await until(lambda: not state.connections)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await lab.browser(meanwhile=leave)
    gate.set()
    outcome = await lab.hooks[0].outcome()
    assert outcome.reason is ClosedReason.LINE_LOST
    assert lab.hooks[0].log == ["ended"]
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_every_path
async def test_refusal_is_accepted_then_closed(lab: Lab) -> None:
    lab.refusal = (Refused.LIMIT.ws_code, "All 40 console slots of host kvm-1 are taken. " + "é" * 80)
    browser = await lab.browser()
    assert "101" in browser.head
    code, text = await browser.closed()
    assert code == 4409
    assert text.startswith("All 40 console slots of host kvm-1 are taken.")
    assert len(text.encode()) <= 123


@on_every_path
async def test_unreachable_vnc_is_a_close_code(lab: Lab) -> None:
    vnc = await lab.vnc()
    await vnc.stop()
    await until(lambda: vnc._server is None or not vnc._server.is_serving())
    browser = await lab.browser()
    assert await browser.closed() == (4434, ClosedReason.GUEST_UNREACHABLE.text)


@on_every_path
async def test_refusing_vnc_is_a_close_code(lab: Lab) -> None:
    await lab.vnc(VncScript(reason="Too many clients"))
    browser = await lab.browser()
    assert (await browser.closed())[0] == 4435


@on_every_path
async def test_vnc_ends_and_the_domain_says_why(lab: Lab) -> None:
    browser, vnc = await lab.open()
    lab.hooks[0].lost_reason = ClosedReason.VM_MOVED
    vnc.writer.close()
    assert await browser.closed() == (4431, ClosedReason.VM_MOVED.text)
    assert lab.hooks[0].log == ["started", "upstream_lost", "ended"]


@on_every_path
async def test_tab_closed_while_the_domain_looks_for_the_reason(lab: Lab) -> None:
    browser, vnc = await lab.open()
    lab.hooks[0].lost_reason = None
    vnc.writer.close()
    await until(lambda: "upstream_lost" in lab.hooks[0].log)
    assert lab.hooks[0].outcomes == []
    browser.close(1000)
    assert (await lab.hooks[0].outcome(1.0)).reason is ClosedReason.USER_CLOSED


@pytest.mark.parametrize("answer", [None, "raises"])
def test_domain_that_cannot_say_why(answer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from consoles.relay import console as module

    monkeypatch.setattr(module, "UPSTREAM_LOST_SECONDS", 0.05)

    async def scenario(lab: Lab) -> None:
        browser, vnc = await lab.open()
        lab.hooks[0].lost_reason = None
        if answer:
            monkeypatch.setattr(lab.hooks[0], "upstream_lost", None)
        vnc.writer.close()
        assert (await browser.closed())[0] == 4433

    async def body() -> None:
        lab = Lab("swap")
        await lab.start()
        try:
            await scenario(lab)
        finally:
            await lab.stop()

    asyncio.run(body())
