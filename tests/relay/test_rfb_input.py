"""The parser of browsers' RFB messages: what is forwarded, what counts as input, what is refused."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consoles.relay.rfb_input import (
    ENCODING_EXTENDED_MOUSE,
    ENCODING_GII,
    GREETING,
    MAX_CUT_TEXT_BYTES,
    RfbInput,
    RfbViolation,
)

HANDSHAKE = GREETING + b"\1" + b"\0"


def encodings(*numbers: int) -> bytes:
    return struct.pack(f"!BxH{len(numbers)}i", 2, len(numbers), *numbers)


PIXEL_FORMAT = bytes(4) + bytes((32, 24, 0, 1)) + struct.pack("!HHH", 255, 255, 255) + bytes((16, 8, 0)) + bytes(3)
UPDATE = struct.pack("!BBHHHH", 3, 1, 0, 0, 640, 480)
KEY = struct.pack("!BBHI", 4, 1, 0, 0x61)
POINTER = struct.pack("!BBHH", 5, 0, 10, 10)
CLICK = struct.pack("!BBHH", 5, 1, 10, 10)
WIDE_CLICK = struct.pack("!BBHHB", 5, 0x80, 10, 10, 2)
CUT = b"\6\0\0\0" + struct.pack("!i", 5) + b"hello"
CONTINUOUS = struct.pack("!BBHHHH", 150, 1, 0, 0, 640, 480)
FENCE = b"\xf8\0\0\0" + struct.pack("!IB", 1, 4) + b"abcd"
XVP = bytes((250, 0, 1, 2))
DESKTOP = struct.pack("!BxHHBx", 251, 800, 600, 1) + struct.pack("!IHHHHI", 1, 0, 0, 800, 600, 0)
QEMU_KEY = struct.pack("!BBHII", 255, 0, 1, 0x61, 30)
AUDIO_START = struct.pack("!BBH", 255, 1, 0)
AUDIO_FORMAT = struct.pack("!BBHBBI", 255, 1, 2, 3, 2, 44100)
GII_EVENT = bytes((253, 0x80)) + struct.pack("!H", 3) + b"xyz"


def clipboard(action: int, body: bytes = b"") -> bytes:
    flags = struct.pack("!I", action << 24 | 1)
    return b"\6\0\0\0" + struct.pack("!i", -(4 + len(body))) + flags + body


CAPS, REQUEST, PEEK, NOTIFY, PROVIDE = (clipboard(1 << bit, b"1234" * (bit in (0, 4))) for bit in range(5))
SETUP = encodings(ENCODING_GII, ENCODING_EXTENDED_MOUSE, 7, 16)
TRAFFIC = [PIXEL_FORMAT, SETUP, UPDATE, CONTINUOUS, FENCE, AUDIO_START, AUDIO_FORMAT, CAPS, REQUEST, PEEK]
INPUT = [KEY, POINTER, CLICK, WIDE_CLICK, CUT, QEMU_KEY, GII_EVENT, NOTIFY, PROVIDE]
CHANGES_GUEST = [*INPUT, XVP, DESKTOP, CAPS, REQUEST, PEEK, AUDIO_START, AUDIO_FORMAT]
EVERYTHING = [*TRAFFIC, *INPUT, XVP, DESKTOP]


def ready(*, view_only: bool = False) -> RfbInput:
    parser = RfbInput(view_only=view_only)
    assert parser.feed(HANDSHAKE) == b"\1"
    parser.replies.clear()
    parser.feed(SETUP)
    parser.input_seen = False
    return parser


@pytest.mark.parametrize("message", EVERYTHING)
def test_every_message_is_forwarded_as_it_is(message: bytes) -> None:
    parser = ready()
    assert parser.feed(message) == message
    assert parser.feed(KEY) == KEY, "the next message is understood"


@pytest.mark.parametrize("message", INPUT)
def test_input_is_noticed(message: bytes) -> None:
    parser = ready()
    parser.feed(message)
    assert parser.input_seen


@pytest.mark.parametrize("message", [*TRAFFIC, XVP, DESKTOP])
def test_traffic_is_no_input(message: bytes) -> None:
    parser = ready()
    parser.feed(message)
    assert not parser.input_seen


def test_a_pointer_that_stands_still_is_no_input() -> None:
    parser = ready()
    parser.feed(POINTER)
    parser.input_seen = False
    parser.feed(POINTER * 3)
    assert not parser.input_seen
    parser.feed(CLICK)
    assert parser.input_seen


@pytest.mark.parametrize("message", CHANGES_GUEST)
def test_view_only_drops_what_changes_the_guest(message: bytes) -> None:
    parser = ready(view_only=True)
    assert parser.feed(UPDATE + message + FENCE + message) == UPDATE + FENCE


@pytest.mark.parametrize("message", [PIXEL_FORMAT, SETUP, UPDATE, CONTINUOUS, FENCE])
def test_view_only_keeps_what_is_needed_to_look(message: bytes) -> None:
    assert ready(view_only=True).feed(message) == message


def test_pointer_has_an_eighth_byte_only_when_announced() -> None:
    parser = RfbInput()
    parser.feed(HANDSHAKE)
    six_bytes = struct.pack("!BBHH", 5, 0x80, 1, 1)
    assert parser.feed(six_bytes + KEY) == six_bytes + KEY
    parser.feed(encodings(ENCODING_EXTENDED_MOUSE))
    assert parser.feed(WIDE_CLICK[:6]) == b""
    assert parser.feed(WIDE_CLICK[6:]) == WIDE_CLICK


def test_gii_must_be_announced() -> None:
    parser = RfbInput()
    parser.feed(HANDSHAKE)
    with pytest.raises(RfbViolation, match="gii"):
        parser.feed(GII_EVENT)


@pytest.mark.parametrize(
    ("version", "answer", "rest", "replies"),
    [
        (b"RFB 003.008\n", b"\1\1", b"\1\0", [b"\1\1", b"\0\0\0\0"]),
        (b"RFB 003.007\n", b"\1\1", b"\1\0", [b"\1\1"]),
        (b"RFB 003.003\n", b"\0\0\0\1", b"\0", [b"\0\0\0\1"]),
    ],
)
def test_handshake_versions(version: bytes, answer: bytes, rest: bytes, replies: list[bytes]) -> None:
    parser = RfbInput()
    assert parser.feed(version) == b""
    assert parser.replies == [answer]
    assert parser.feed(rest + UPDATE) == b"\1" + UPDATE, "ClientInit is always shared"
    assert parser.replies == replies
    assert parser.ready


@pytest.mark.parametrize("data", [b"GET / HTTP/1", b"RFB 004.000\n", GREETING + b"\2", b"RFB 003.007\n\x13"])
def test_handshakes_that_are_refused(data: bytes) -> None:
    with pytest.raises(RfbViolation):
        RfbInput().feed(data)


@pytest.mark.parametrize(
    "message",
    [
        b"\1",
        b"\xfe",
        struct.pack("!BxH", 2, 1025),
        b"\6\0\0\0" + struct.pack("!i", MAX_CUT_TEXT_BYTES + 1),
        b"\6\0\0\0" + struct.pack("!i", -MAX_CUT_TEXT_BYTES - 1),
        b"\6\0\0\0" + struct.pack("!i", -2147483648),
        b"\6\0\0\0" + struct.pack("!i", -3) + b"abcd",
        b"\xf8\0\0\0" + struct.pack("!IB", 1, 65),
        bytes((253, 0x80)) + struct.pack("!H", 5000),
        b"\xff\x02\0\0",
        b"\xff\x01\0\x03",
    ],
)
def test_what_no_real_client_sends_is_refused(message: bytes) -> None:
    with pytest.raises(RfbViolation):
        ready().feed(message)


def test_large_clipboard_needs_no_memory() -> None:
    parser = ready()
    head = b"\6\0\0\0" + struct.pack("!i", MAX_CUT_TEXT_BYTES)
    assert parser.feed(head) == head
    for _ in range(MAX_CUT_TEXT_BYTES // 4096):
        assert len(parser.feed(bytes(4096))) == 4096
    assert parser.feed(KEY) == KEY


def feed_in_pieces(raw: bytes, cuts: list[int], *, view_only: bool) -> tuple[bytes, bool]:
    parser = RfbInput(view_only=view_only)
    bounds = [0, *sorted(cuts), len(raw)]
    out = b"".join(parser.feed(raw[a:b]) for a, b in itertools.pairwise(bounds))
    return out, parser.input_seen


@given(st.lists(st.sampled_from(EVERYTHING), max_size=20), st.booleans(), st.data())
def test_how_the_bytes_are_cut_does_not_matter(messages: list[bytes], view_only: bool, data: st.DataObject) -> None:
    raw = HANDSHAKE + SETUP + b"".join(messages)
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=30))
    whole = feed_in_pieces(raw, [], view_only=view_only)
    assert feed_in_pieces(raw, cuts, view_only=view_only) == whole
    kept = [message for message in messages if not (view_only and message in CHANGES_GUEST)]
    assert whole[0] == b"\1" + SETUP + b"".join(kept)


@given(st.binary(max_size=400), st.booleans(), st.lists(st.integers(0, 400), max_size=10))
def test_garbage_raises_nothing_untyped(raw: bytes, view_only: bool, cuts: list[int]) -> None:
    raw = HANDSHAKE + raw
    try:
        out, _ = feed_in_pieces(raw, [cut for cut in cuts if cut <= len(raw)], view_only=view_only)
    except RfbViolation:
        return
    assert len(out) <= len(raw)
