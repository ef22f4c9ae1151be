"""WebSocket frames (RFC 6455, section 5): headers out, an incremental parser in. No I/O.

The payload of binary frames is handed on piece by piece as it arrives, never collected: RFB is a byte stream, so the
bounds of frames and messages mean nothing to it and a large frame needs no memory. Text and control frames are small
and come whole.
"""

from __future__ import annotations

import struct
from typing import Final

from websockets.speedups import apply_mask

# Opcodes of RFC 6455, 11.8; an event is an opcode and its bytes.
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
Event = tuple[int, bytes]

MAX_FRAME_BYTES: Final = 1 << 20
MAX_TEXT_BYTES: Final = 4096
MAX_CONTROL_BYTES: Final = 125

_PACK_16 = struct.Struct("!BBH").pack
_PACK_64 = struct.Struct("!BBQ").pack


class FrameError(Exception):
    """The peer broke the protocol. ``code`` is the WebSocket close code to answer with (RFC 6455, 7.4.1)."""

    def __init__(self, code: int, detail: str):
        super().__init__(detail)
        self.code = code


def header(length: int, opcode: int = BINARY) -> bytes:
    """The header of a whole, unmasked frame (server to client)."""
    if length < 126:
        return bytes((0x80 | opcode, length))
    if length < 65536:
        return _PACK_16(0x80 | opcode, 126, length)
    return _PACK_64(0x80 | opcode, 127, length)


def masked_frame(payload: bytes, mask: bytes, opcode: int = BINARY) -> bytes:
    """A whole frame as a client must send it."""
    head = bytearray(header(len(payload), opcode))
    head[1] |= 0x80
    return bytes(head) + mask + apply_mask(payload, mask)


def close_payload(code: int, text: str = "") -> bytes:
    """The body of a close frame; the text is cut at a character's bound to the 123 bytes that fit."""
    raw = text.encode()[: MAX_CONTROL_BYTES - 2]
    return code.to_bytes(2, "big") + raw.decode(errors="ignore").encode()


def parse_close(payload: bytes) -> tuple[int | None, str]:
    """The code (None when the frame has no body) and the text. Raises :class:`FrameError` (1002, 1007)."""
    if not payload:
        return None, ""
    if len(payload) == 1:
        raise FrameError(1002, "A close frame has a body of one byte.")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(1002, f"A close frame has the code {code}.")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(1007, "A close frame's text is not UTF-8.") from None


class FrameParser:
    """Turns bytes as they arrive into events. ``masked``: True for what clients send, False for what servers send.

    After a violation ``failure`` is set and everything further is ignored; the events before it are still returned.
    """

    __slots__ = ("_fin", "_in_message", "_left", "_mask", "_masked", "_op", "_rest", "_small", "failure")

    def __init__(self, *, masked: bool = True):
        self._masked = masked
        self._rest = b""  # an incomplete header
        self._left = -1  # payload bytes of the current frame still to come; -1 between frames
        self._op = 0
        self._fin = False
        self._mask = b""
        self._in_message = 0  # TEXT or BINARY while a fragmented message is open
        self._small: bytearray | None = None  # payload of a text message, whole only at its end
        self.failure: FrameError | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events completed by ``data``: pieces of binary payload, whole text messages, whole control frames."""
        if self._left < 0 and not self._rest and not self._in_message and self.failure is None and self._masked:
            # Nearly always: one key or pointer event, whole, in a frame of its own.
            size = len(data) - 6
            if 0 < size < 126 and data[0] == 0x82 and data[1] == 0x80 + size:
                return [(BINARY, apply_mask(data[6:], data[2:6]))]
        events: list[Event] = []
        if self.failure is not None:
            return events
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            self._parse(data, events)
        except FrameError as error:
            self.failure = error
        return events

    def _parse(self, data: bytes, events: list[Event]) -> None:
        at, end = 0, len(data)
        while True:
            if self._left < 0:
                size = self._header(data, at, end)
                if not size:
                    self._rest = data[at:]
                    return
                at += size
            take = min(self._left, end - at)
            control = self._op >= CLOSE
            if control and take < self._left:
                # At most 125 bytes: wait for all of them, so that a control frame needs no place of its own.
                self._rest, self._left = self._control_again(data[at:]), -1
                return
            if take or not self._left:
                self._payload(data[at : at + take], events, control=control)
                at += take
            if at == end and self._left != 0:
                return
            if self._left == 0:
                self._left = -1
                if at == end:
                    return

    def _control_again(self, payload: bytes) -> bytes:
        """An unfinished control frame, header first, to be parsed again with what follows."""
        second = self._left | (0x80 if self._masked else 0)
        return bytes((0x80 | self._op, second)) + self._mask + payload

    def _header(self, data: bytes, at: int, end: int) -> int:
        """Reads a frame's header at ``at``; its size in bytes, or 0 when it is not all there."""
        if end - at < 2:
            return 0
        first, second = data[at], data[at + 1]
        opcode, length = first & 15, second & 127
        self._check(first, second, opcode, length)
        size = 2 if length < 126 else 4 if length == 126 else 10
        need = size + 4 if self._masked else size
        if end - at < need:
            return 0
        if size > 2:
            length = int.from_bytes(data[at + 2 : at + size], "big")
            if length < (126 if size == 4 else 65536):
                raise FrameError(1002, "A frame's length is not in its shortest form.")
        if length > MAX_FRAME_BYTES:
            raise FrameError(1009, f"A frame has {length} bytes; at most {MAX_FRAME_BYTES} are taken.")
        self._op, self._fin, self._left = opcode, first >= 0x80, length
        self._mask = data[at + size : at + need]
        self._open_message(opcode)
        return need

    def _check(self, first: int, second: int, opcode: int, length: int) -> None:
        if first & 0x70:
            raise FrameError(1002, "A frame has reserved bits set.")
        if (second >= 0x80) is not self._masked:
            raise FrameError(1002, "A frame is not masked." if self._masked else "A frame is masked.")
        if opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise FrameError(1002, f"A frame has the unknown opcode {opcode}.")
        if opcode >= CLOSE:
            if first < 0x80:
                raise FrameError(1002, "A control frame is fragmented.")
            if length > MAX_CONTROL_BYTES:
                raise FrameError(1002, "A control frame is longer than 125 bytes.")
        elif (opcode == 0) is not bool(self._in_message):
            raise FrameError(1002, "A message is continued that was not begun, or begun before the last one ended.")

    def _open_message(self, opcode: int) -> None:
        if opcode in (TEXT, BINARY):
            self._in_message = opcode
            self._small = bytearray() if opcode == TEXT else None

    def _payload(self, piece: bytes, events: list[Event], *, control: bool) -> None:
        self._left -= len(piece)
        if self._masked and piece:
            turn = len(piece) & 3
            mask = self._mask
            piece = apply_mask(piece, mask)
            if turn and self._left:
                self._mask = mask[turn:] + mask[:turn]
        if control:
            events.append((self._op, piece))
            return
        done = self._fin and self._left == 0
        if self._small is None:
            if piece:
                events.append((BINARY, piece))
        else:
            self._small += piece
            if len(self._small) > MAX_TEXT_BYTES:
                raise FrameError(1009, f"A text message has more than {MAX_TEXT_BYTES} bytes.")
            if done:
                events.append((TEXT, bytes(self._small)))
        if done:
            self._in_message, self._small = 0, None
