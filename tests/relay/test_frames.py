"""Conformance of the frame parser with RFC 6455, however the bytes are cut up."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consoles.relay.frames import (
    BINARY,
    CLOSE,
    MAX_FRAME_BYTES,
    PING,
    PONG,
    TEXT,
    Event,
    FrameError,
    FrameParser,
    close_payload,
    header,
    masked_frame,
    parse_close,
)

MASK = b"\x37\xfa\x21\x3d"


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes = MASK) -> bytes:
    raw = bytearray(masked_frame(payload, mask, opcode))
    if not fin:
        raw[0] &= 0x7F
    return bytes(raw)


def parse(data: bytes, cuts: Sequence[int] = ()) -> tuple[list[Event], FrameError | None]:
    """Events with neighbouring binary pieces joined: where they are cut does not matter to a byte stream."""
    parser = FrameParser()
    events: list[Event] = []
    bounds = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(bounds):
        for opcode, payload in parser.feed(data[start:end]):
            if opcode == BINARY and events and events[-1][0] == BINARY:
                events[-1] = (BINARY, events[-1][1] + payload)
            else:
                events.append((opcode, payload))
    return events, parser.failure


def failure_code(data: bytes) -> int | None:
    failure = parse(data)[1]
    return failure.code if failure else None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000, MAX_FRAME_BYTES])
def test_every_length_form(size: int) -> None:
    payload = bytes(i & 255 for i in range(size))
    events, failure = parse(frame(BINARY, payload))
    assert failure is None
    assert b"".join(data for _, data in events) == payload


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_headers_are_read_by_a_client(size: int) -> None:
    parser = FrameParser(masked=False)
    assert parser.feed(header(size, TEXT if size <= 4096 else BINARY) + bytes(size))[0][1] == bytes(size)
    assert parser.failure is None


def test_unmasked_is_refused() -> None:
    assert failure_code(b"\x82\x01a") == 1002


def test_masked_from_a_server_is_refused() -> None:
    parser = FrameParser(masked=False)
    parser.feed(frame(BINARY, b"a"))
    assert parser.failure is not None
    assert parser.failure.code == 1002


@pytest.mark.parametrize("bits", [0x40, 0x20, 0x10, 0x70])
def test_reserved_bits_are_refused(bits: int) -> None:
    raw = bytearray(frame(BINARY, b"a"))
    raw[0] |= bits
    assert failure_code(bytes(raw)) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_opcodes_are_refused(opcode: int) -> None:
    assert failure_code(frame(opcode, b"")) == 1002


def test_too_long_is_1009_before_its_payload_comes() -> None:
    assert failure_code(b"\x82\xff" + struct.pack("!Q", MAX_FRAME_BYTES + 1) + MASK) == 1009
    assert failure_code(b"\x82\xff" + struct.pack("!Q", 1 << 63) + MASK) == 1009


def test_length_must_be_in_its_shortest_form() -> None:
    assert failure_code(b"\x82\xfe\x00\x05" + MASK + b"hello") == 1002
    assert failure_code(b"\x82\xff" + struct.pack("!Q", 500) + MASK + bytes(500)) == 1002


def test_fragments_with_control_frames_between() -> None:
    data = (
        frame(BINARY, b"one ", fin=False)
        + frame(PING, b"p")
        + frame(0, b"two ", fin=False)
        + frame(PONG, b"q")
        + frame(0, b"three")
        + frame(TEXT, b"{", fin=False)
        + frame(PING, b"")
        + frame(0, b"}")
    )
    events, failure = parse(data)
    assert failure is None
    assert events == [
        (BINARY, b"one "),
        (PING, b"p"),
        (BINARY, b"two "),
        (PONG, b"q"),
        (BINARY, b"three"),
        (PING, b""),
        (TEXT, b"{}"),
    ]


def test_continuation_without_a_message() -> None:
    assert failure_code(frame(0, b"x")) == 1002


def test_new_message_inside_a_message() -> None:
    assert failure_code(frame(BINARY, b"x", fin=False) + frame(BINARY, b"y")) == 1002
    assert failure_code(frame(TEXT, b"x", fin=False) + frame(BINARY, b"y")) == 1002


def test_fragmented_control_frame() -> None:
    assert failure_code(frame(PING, b"x", fin=False)) == 1002


def test_control_frame_over_125_bytes() -> None:
    assert failure_code(b"\x89\xfe\x00\x7e" + MASK + bytes(126)) == 1002


def test_text_is_bounded_also_in_fragments() -> None:
    assert failure_code(frame(TEXT, bytes(4096))) is None
    assert failure_code(frame(TEXT, bytes(4097))) == 1009
    assert failure_code(frame(TEXT, bytes(4000), fin=False) + frame(0, bytes(97), fin=False)) == 1009


def test_events_before_a_violation_are_kept_and_after_it_nothing_is() -> None:
    parser = FrameParser()
    assert parser.feed(frame(BINARY, b"good") + b"\x82\x01a") == [(BINARY, b"good")]
    assert parser.failure is not None
    assert parser.feed(frame(BINARY, b"more")) == []


def test_large_payload_is_handed_on_as_it_comes() -> None:
    parser = FrameParser()
    raw = frame(BINARY, bytes(1000))
    assert parser.feed(raw[:108]) == [(BINARY, bytes(100))]
    assert parser.feed(raw[108:]) == [(BINARY, bytes(900))]


def test_close_payloads() -> None:
    assert parse_close(b"") == (None, "")
    assert parse_close(close_payload(4409, "voll")) == (4409, "voll")
    text = close_payload(1000, "é" * 100)
    assert len(text) <= 125
    assert parse_close(text) == (1000, "é" * 61)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x03", 1002),
        (struct.pack("!H", 999), 1002),
        (struct.pack("!H", 1004), 1002),
        (struct.pack("!H", 1005), 1002),
        (struct.pack("!H", 1006), 1002),
        (struct.pack("!H", 1015), 1002),
        (struct.pack("!H", 2999), 1002),
        (struct.pack("!H", 5000), 1002),
        (struct.pack("!H", 1000) + b"\xff\xfe", 1007),
    ],
)
def test_close_payloads_that_break_the_protocol(payload: bytes, code: int) -> None:
    with pytest.raises(FrameError) as raised:
        parse_close(payload)
    assert raised.value.code == code


frames = st.builds(
    frame,
    st.sampled_from([BINARY, BINARY, TEXT, PING, PONG, CLOSE, 0]),
    st.binary(max_size=300),
    fin=st.booleans(),
    mask=st.binary(min_size=4, max_size=4),
)


@given(st.lists(frames, max_size=12), st.data())
def test_how_the_bytes_are_cut_does_not_matter(parts: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=20))
    whole, whole_failure = parse(raw)
    cut, cut_failure = parse(raw, cuts)
    assert cut == whole
    assert (cut_failure and cut_failure.code) == (whole_failure and whole_failure.code)


@given(st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=20))
def test_garbage_never_raises_and_is_bounded(raw: bytes, cuts: list[int]) -> None:
    events, _ = parse(raw, [cut for cut in cuts if cut <= len(raw)])
    assert sum(len(payload) for _, payload in events) <= len(raw)
