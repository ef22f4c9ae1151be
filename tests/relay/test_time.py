"""Idle warnings, limits and signs of life, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from consoles.reasons import ClosedReason
from consoles.relay import ConsolePolicy, RelayedConsole
from consoles.relay import runtime as runtime_module
from consoles.relay.runtime import LoopState, loop_state
from tests.relay.browser import KEY_A
from tests.relay.lab import Clock, Hooks, Lab, on_every_path, on_fast_path, until


class Link:
    """Both links of a console; records what it is told."""

    lends_buffers = False

    def __init__(self, *, can_ping: bool = True) -> None:
        self.can_ping = can_ping
        self.messages: list[dict[str, Any]] = []
        self.pings = 0
        self.held = False
        self.closed: list[Any] = []
        self.written = b""

    def send_data(self, data: bytes | memoryview) -> None:
        self.written += bytes(data)

    def send_text(self, text: str) -> bool:
        self.messages.append(json.loads(text))
        return True

    def ping(self) -> None:
        self.pings += 1

    def splice_target(self) -> None:
        return None

    def unsent_bytes(self) -> int:
        return 0

    def hold_reading(self) -> None:
        self.held = True

    def release_reading(self) -> None:
        self.held = False

    def close(self, *args: Any) -> None:
        self.closed.append(args)

    def write(self, data: bytes) -> None:
        self.written += data


class Bench:
    """A console on recorded links and a standing clock."""

    def __init__(self, policy: ConsolePolicy, *, can_ping: bool = True, idle_seconds: float = 0.0) -> None:
        self.clock = Clock()
        self.hooks = Hooks()
        self.browser = Link(can_ping=can_ping)
        self.upstream = Link()
        self.console = RelayedConsole("c", policy, self.hooks, clock=self.clock, idle_seconds=idle_seconds)
        self.console.start(self.browser, self.upstream, has_control=True)
        self.console.browser_data(b"RFB 003.008\n\1\1")

    def go(self, seconds: int, *, heard: bool = True) -> None:
        """Lets seconds pass, one tick each, as the ticker does."""
        for _ in range(seconds):
            self.clock.now += 1
            if heard:
                self.console.browser_heard()
            self.console.tick()

    def reason(self) -> ClosedReason | None:
        return self.console.outcome.reason if self.console.outcome else None


# Asynchronous only because a console registers with the running loop's ticker, which never turns here.

IDLE = ConsolePolicy(idle_warning_seconds=600, idle_disconnect_seconds=900)


async def test_no_limits_no_messages() -> None:
    bench = Bench(ConsolePolicy())
    bench.go(5000)
    assert bench.reason() is None
    assert bench.browser.messages == []


async def test_warning_counts_down_each_second_then_disconnects() -> None:
    bench = Bench(IDLE)
    bench.go(599)
    assert bench.browser.messages == []
    bench.go(1)
    assert bench.browser.messages == [{"type": "idle", "idle_seconds": 600, "disconnect_in_seconds": 300}]
    bench.go(299)
    left = [message["disconnect_in_seconds"] for message in bench.browser.messages]
    assert left == list(range(300, 0, -1))
    assert bench.reason() is None
    bench.go(1)
    assert bench.reason() is ClosedReason.IDLE
    assert bench.browser.closed == [(4408, ClosedReason.IDLE.text)]
    assert bench.upstream.closed == [()]
    assert bench.console.outcome is not None
    assert bench.console.outcome.idle_seconds == 900


@pytest.mark.parametrize("how", ["key", "stay"])
async def test_input_or_stay_ends_the_warning(how: str) -> None:
    bench = Bench(IDLE)
    bench.go(700)
    if how == "key":
        bench.console.browser_data(KEY_A)
    else:
        bench.console.browser_text('{"type":"stay"}')
    assert bench.browser.messages[-1] == {"type": "active"}
    assert bench.console.idle_seconds == 0
    count = len(bench.browser.messages)
    bench.go(599)
    assert len(bench.browser.messages) == count
    bench.console.browser_data(KEY_A)
    assert len(bench.browser.messages) == count, "no active without a warning before"


async def test_traffic_does_not_count_as_input() -> None:
    bench = Bench(IDLE)
    for _ in range(900):
        bench.console.browser_data(b"\3\1\0\0\0\0\2\x80\1\xe0")
        bench.go(1)
    assert bench.reason() is ClosedReason.IDLE


async def test_idle_time_goes_on_in_a_resumed_session() -> None:
    bench = Bench(IDLE, idle_seconds=590)
    bench.go(10)
    assert bench.browser.messages[-1]["idle_seconds"] == 600


async def test_disconnect_without_a_warning() -> None:
    bench = Bench(ConsolePolicy(idle_disconnect_seconds=60))
    bench.go(60)
    assert bench.reason() is ClosedReason.IDLE
    assert bench.browser.messages == []


async def test_warning_without_a_disconnect() -> None:
    bench = Bench(ConsolePolicy(idle_warning_seconds=60))
    bench.go(61)
    assert bench.browser.messages[-1] == {"type": "idle", "idle_seconds": 61, "disconnect_in_seconds": None}


async def test_longest_duration() -> None:
    bench = Bench(ConsolePolicy(max_seconds=3600))
    for _ in range(3599):
        bench.console.browser_data(KEY_A)
        bench.go(1)
    assert bench.reason() is None
    bench.go(1)
    assert bench.reason() is ClosedReason.MAX_DURATION


async def test_policy_can_change_while_it_runs() -> None:
    bench = Bench(IDLE)
    bench.go(100)
    bench.console.policy = ConsolePolicy(idle_disconnect_seconds=50, view_only=True)
    bench.console.browser_data(KEY_A)
    assert not bench.upstream.written.endswith(KEY_A)
    bench.go(50)
    assert bench.reason() is ClosedReason.IDLE


async def test_silent_browser_is_noticed_within_30_seconds() -> None:
    bench = Bench(ConsolePolicy())
    bench.go(9, heard=False)
    assert bench.browser.pings == 0
    bench.go(1, heard=False)
    assert bench.browser.pings == 1
    bench.go(10, heard=False)
    assert bench.browser.pings == 2
    bench.go(9, heard=False)
    assert bench.reason() is ClosedReason.BROWSER_SILENT
    assert bench.console.duration_seconds <= 29
    assert bench.upstream.closed


async def test_a_browser_that_answers_stays() -> None:
    bench = Bench(ConsolePolicy())
    for _ in range(20):
        bench.go(10, heard=False)
        bench.console.browser_heard()
    assert bench.reason() is None
    assert bench.browser.pings == 20


async def test_no_pings_while_the_browser_talks() -> None:
    bench = Bench(ConsolePolicy())
    for _ in range(100):
        bench.go(1, heard=False)
        bench.console.browser_data(b"\3\1\0\0\0\0\2\x80\1\xe0")
    assert bench.browser.pings == 0


async def test_without_pings_silence_is_the_servers_business() -> None:
    bench = Bench(ConsolePolicy(), can_ping=False)
    bench.go(100, heard=False)
    assert bench.reason() is None
    assert bench.browser.pings == 0


async def test_vnc_server_that_takes_nothing_holds_the_browser_and_is_given_up() -> None:
    bench = Bench(ConsolePolicy())
    bench.console.upstream_full()
    assert bench.browser.held
    bench.go(29, heard=False)
    assert bench.reason() is None, "a browser that is not read cannot be called silent"
    bench.go(1, heard=False)
    assert bench.reason() is ClosedReason.GUEST_UNREACHABLE


async def test_vnc_server_that_takes_data_again() -> None:
    bench = Bench(ConsolePolicy())
    bench.console.upstream_full()
    bench.go(20, heard=False)
    bench.console.upstream_drained()
    assert not bench.browser.held
    bench.go(20, heard=False)
    assert bench.reason() is None


async def test_nothing_happens_after_the_end() -> None:
    bench = Bench(IDLE)
    bench.console.close(ClosedReason.DISCONNECTED)
    written = bench.upstream.written
    bench.console.browser_data(KEY_A)
    bench.console.browser_text('{"type":"bye"}')
    bench.console.browser_gone(1000)
    bench.console.upstream_gone("eof")
    bench.go(2000)
    assert bench.reason() is ClosedReason.DISCONNECTED
    assert len(bench.hooks.outcomes) == 1
    assert bench.upstream.written == written
    assert not bench.console.send_control({"type": "hello"})


async def test_one_timer_for_all_and_none_for_none() -> None:
    state = loop_state()
    first, second = Bench(IDLE), Bench(IDLE)
    assert set(state.members) == {first.console, second.console}
    first_timer = timer(state)
    assert first_timer is not None
    first.console.close(ClosedReason.IDLE)
    assert timer(state) is first_timer
    second.console.close(ClosedReason.IDLE)
    assert timer(state) is None
    assert first_timer.cancelled()


def timer(state: LoopState) -> asyncio.TimerHandle | None:
    return state._timer


@on_every_path
async def test_ticker_reaches_the_page(lab: Lab) -> None:
    """The whole way once, with a fast ticker: warning, key, active, disconnect."""
    original = runtime_module.TICK_SECONDS
    runtime_module.TICK_SECONDS = 0.02  # type: ignore[misc]
    try:
        lab.policy = ConsolePolicy(idle_warning_seconds=10, idle_disconnect_seconds=20)
        browser, _ = await lab.open()
        lab.clock.now += 15
        assert await browser.message() == {"type": "idle", "idle_seconds": 15, "disconnect_in_seconds": 5}
        browser.send(KEY_A)
        while (message := await browser.message())["type"] == "idle":
            pass
        assert message == {"type": "active"}
        lab.clock.now += 20
        assert (await browser.closed())[0] == 4408
    finally:
        runtime_module.TICK_SECONDS = original  # type: ignore[misc]


@on_fast_path
async def test_browser_that_does_not_answer_pings(lab: Lab) -> None:
    browser, vnc = await lab.open()
    browser.answer_pings = False
    lab.clock.now += 10
    lab.console.tick()
    frame = await browser.next()
    assert frame is not None
    assert frame[0] == 9
    lab.clock.now += 15
    lab.console.tick()
    assert (await browser.closed())[0] == 4442
    assert (await lab.hooks[0].outcome()).reason is ClosedReason.BROWSER_SILENT
    await asyncio.wait_for(vnc.closed.wait(), 1.0)


@on_fast_path
async def test_answered_pings_keep_the_console(lab: Lab) -> None:
    browser, vnc = await lab.open()
    for _ in range(4):
        lab.clock.now += 10
        lab.console.tick()
        vnc.writer.write(b"x")
        await browser.data(1)  # answers the ping before it
        now = lab.clock.now
        await until(lambda now=now: lab.console._heard_at == now)  # type: ignore[misc]
    assert lab.console.outcome is None
