"""A small real RFB 3.8 server (RFC 6143) for the console of a simulated VM, on one connected socket.

Its screen is a text terminal that says what it is and echoes what is typed. Raw encoding, security type None.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from cloudops.hypervisors.simulated.font import GLYPH_HEIGHT, GLYPH_WIDTH, glyph

COLUMNS, ROWS = 64, 18
WIDTH, HEIGHT = COLUMNS * GLYPH_WIDTH, ROWS * GLYPH_HEIGHT
CHECK_SECONDS = 0.2
SEND_SECONDS = 30.0
HANDSHAKE_SECONDS = 30.0
MAX_CLIPBOARD_BYTES = 1 << 20

KEY_BACKSPACE, KEY_RETURN, KEY_KEYPAD_ENTER = 0xFF08, 0xFF0D, 0xFF8D


class Message(enum.IntEnum):
    """What a client may send (RFC 6143 section 7.5)."""

    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY_EVENT = 4
    POINTER_EVENT = 5
    CUT_TEXT = 6


FIXED_BYTES = {
    Message.SET_PIXEL_FORMAT: 20,
    Message.SET_ENCODINGS: 4,
    Message.UPDATE_REQUEST: 10,
    Message.KEY_EVENT: 8,
    Message.POINTER_EVENT: 6,
    Message.CUT_TEXT: 8,
}


class Disconnected(Exception):
    """The other side is gone or speaks something else."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """RFC 6143 section 7.4; only true colour is served."""

    bits: int = 32
    big_endian: bool = False
    maxima: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    def pack(self) -> bytes:
        return struct.pack(">BBBBHHHBBB3x", self.bits, 24, self.big_endian, 1, *self.maxima, *self.shifts)

    @classmethod
    def unpack(cls, data: bytes) -> PixelFormat:
        bits, _depth, big_endian, true_colour, *rest = struct.unpack(">BBBBHHHBBB3x", data)
        if bits not in (8, 16, 32) or not true_colour:
            raise Disconnected("a pixel format this server does not have")
        return cls(bits, bool(big_endian), (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5]))

    def pixel(self, colour: tuple[int, int, int]) -> bytes:
        value = 0
        for component, maximum, shift in zip(colour, self.maxima, self.shifts, strict=True):
            value |= (component * maximum // 255) << shift
        return (value & ((1 << self.bits) - 1)).to_bytes(self.bits // 8, "big" if self.big_endian else "little")


BACKGROUND = (16, 20, 28)
TEXT = (205, 214, 224)
ACCENT = (110, 200, 255)
MUTED = (120, 132, 148)


@lru_cache(maxsize=2048)
def _glyph_lines(character: str, colour: tuple[int, int, int], pixels: PixelFormat) -> tuple[bytes, ...]:
    shades = (pixels.pixel(BACKGROUND), pixels.pixel(colour))
    return tuple(b"".join(shades[line >> bit & 1] for bit in range(7, -1, -1)) for line in glyph(character))


@dataclass(slots=True)
class Screen:
    """A text screen with a heading and a scrolling part below it that echoes what is typed."""

    name: str
    lines: list[tuple[str, tuple[int, int, int]]] = field(default_factory=list)
    dirty: set[int] = field(default_factory=lambda: set(range(ROWS)))
    first_line: int = 6

    def __post_init__(self) -> None:
        self.lines = [("", TEXT)] * ROWS
        self.lines[1] = (f"  {self.name}", ACCENT)
        self.lines[2] = ("  Simulated VM: no guest runs here, the screen only echoes.", MUTED)
        self.lines[3] = ("  " + "-" * (COLUMNS - 4), MUTED)
        self.lines[self.first_line] = (self._prompt() + "_", TEXT)
        self._cursor = self.first_line

    _typed: str = ""
    _cursor: int = 0

    def press(self, keysym: int) -> None:
        """One key going down (X11 keysym)."""
        if keysym in (KEY_RETURN, KEY_KEYPAD_ENTER):
            self._show(cursor=False)
            self._next_line()
        elif keysym == KEY_BACKSPACE:
            self._typed = self._typed[:-1]
        elif 32 <= keysym <= 126:
            if len(self._prompt() + self._typed) >= COLUMNS - 2:
                self._show(cursor=False)
                self._next_line()
            self._typed += chr(keysym)
        else:
            return
        self._show(cursor=True)

    def row(self, number: int, pixels: PixelFormat) -> bytes:
        """One text row's pixels, sixteen lines."""
        text, colour = self.lines[number]
        glyphs = [_glyph_lines(character, colour, pixels) for character in text[:COLUMNS].ljust(COLUMNS)]
        return b"".join(cell[line] for line in range(GLYPH_HEIGHT) for cell in glyphs)

    def _prompt(self) -> str:
        return "  > "

    def _show(self, *, cursor: bool) -> None:
        self.lines[self._cursor] = (self._prompt() + self._typed + ("_" if cursor else ""), TEXT)
        self.dirty.add(self._cursor)

    def _next_line(self) -> None:
        self._typed = ""
        if self._cursor < ROWS - 2:
            self._cursor += 1
            return
        self.lines[self.first_line : ROWS - 1] = [*self.lines[self.first_line + 1 : ROWS - 1], ("", TEXT)]
        self.dirty.update(range(self.first_line, ROWS))


class RfbServer:
    """Serves one client until either side ends it."""

    def __init__(self, line: socket.socket, name: str, is_live: Callable[[], bool]) -> None:
        self._line = line
        self._is_live = is_live
        self._name = name
        self._screen = Screen(name)
        self._pixels = PixelFormat()
        self._update_wanted = False

    def serve(self) -> None:
        """Returns when the client is gone or ``is_live`` says that the console must end; closes the socket."""
        with self._line, contextlib.suppress(Disconnected, OSError):
            self._line.settimeout(HANDSHAKE_SECONDS)
            self._handshake()
            self._line.settimeout(SEND_SECONDS)
            while self._is_live():
                if select.select([self._line], [], [], CHECK_SECONDS)[0]:
                    self._message()
                if self._update_wanted and self._screen.dirty:
                    self._send_update()

    def _handshake(self) -> None:
        self._line.sendall(b"RFB 003.008\n")
        version = self._read(12)
        if version == b"RFB 003.003\n":
            self._line.sendall(struct.pack(">I", 1))
        else:
            self._line.sendall(b"\x01\x01")
            if self._read(1) != b"\x01":
                raise Disconnected("a security type that was not offered")
            if version != b"RFB 003.007\n":
                self._line.sendall(struct.pack(">I", 0))
        self._read(1)  # ClientInit: every client shares
        name = self._name.encode()
        self._line.sendall(
            struct.pack(">HH", WIDTH, HEIGHT) + self._pixels.pack() + struct.pack(">I", len(name)) + name
        )

    def _message(self) -> None:
        first = self._read(1)
        if first[0] not in FIXED_BYTES:
            raise Disconnected(f"message {first[0]}")
        kind = Message(first[0])
        body = first + self._read(FIXED_BYTES[kind] - 1)
        match kind:
            case Message.SET_PIXEL_FORMAT:
                self._pixels = PixelFormat.unpack(body[4:])
                self._screen.dirty.update(range(ROWS))
            case Message.SET_ENCODINGS:
                self._read(4 * struct.unpack(">H", body[2:])[0])
            case Message.UPDATE_REQUEST:
                self._update_wanted = True
                if not body[1]:
                    self._screen.dirty.update(range(ROWS))
            case Message.KEY_EVENT:
                if body[1]:
                    self._screen.press(struct.unpack(">I", body[4:])[0])
            case Message.CUT_TEXT:
                self._skip_clipboard(struct.unpack(">i", body[4:])[0])
            case Message.POINTER_EVENT:
                pass  # nothing to point at

    def _skip_clipboard(self, length: int) -> None:
        # A negative length announces an extended clipboard message, its size is the absolute value.
        if abs(length) > MAX_CLIPBOARD_BYTES:
            raise Disconnected("a clipboard larger than any")
        self._read(abs(length))

    def _send_update(self) -> None:
        rows = sorted(self._screen.dirty)
        self._screen.dirty.clear()
        self._update_wanted = False
        parts = [struct.pack(">BxH", 0, len(rows))]
        for row in rows:
            parts.append(struct.pack(">HHHHi", 0, row * GLYPH_HEIGHT, WIDTH, GLYPH_HEIGHT, 0))
            parts.append(self._screen.row(row, self._pixels))
        self._line.sendall(b"".join(parts))

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self._line.recv(count - len(data))
            if not chunk:
                raise Disconnected("closed")
            data += chunk
        return data


def open_console(name: str, is_live: Callable[[], bool], on_end: Callable[[], None]) -> int:
    """Starts a server thread on one end of a socket pair and returns the other end, which the caller owns."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            RfbServer(ours, name, is_live).serve()
        finally:
            on_end()

    threading.Thread(target=serve, name=f"simulated console of {name}", daemon=True).start()
    return theirs.detach()
