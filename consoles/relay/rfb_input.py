"""What a browser may say to a VNC server (RFC 6143, section 7.5, and the extensions noVNC 1.7 uses). No I/O.

The relay speaks the handshake with the browser itself (protocol version, security "None", ClientInit), because it
has already done the real one with the server. Afterwards it passes messages on, tells real input from mere traffic,
and, for those who may only look, leaves out whatever would change the guest. Server to browser nothing is parsed.
"""

from __future__ import annotations

from typing import Final

GREETING: Final = b"RFB 003.008\n"
MAX_CUT_TEXT_BYTES: Final = 1 << 20
MAX_ENCODINGS: Final = 1024
MAX_GII_BYTES: Final = 4096
MAX_FENCE_BYTES: Final = 64  # the extension's own bound

ENCODING_EXTENDED_MOUSE: Final = -316
ENCODING_GII: Final = -305

_SET_PIXEL_FORMAT, _SET_ENCODINGS, _UPDATE_REQUEST, _KEY, _POINTER, _CUT_TEXT = 0, 2, 3, 4, 5, 6
_CONTINUOUS, _FENCE, _XVP, _DESKTOP_SIZE, _GII, _QEMU = 150, 248, 250, 251, 253, 255

# How many bytes must be there before a message's own length can be told.
_HEAD_BYTES: Final[dict[int, int]] = {
    _SET_PIXEL_FORMAT: 20,
    _SET_ENCODINGS: 4,
    _UPDATE_REQUEST: 10,
    _KEY: 8,
    _POINTER: 6,
    _CUT_TEXT: 8,
    _CONTINUOUS: 10,
    _FENCE: 9,
    _XVP: 4,
    _DESKTOP_SIZE: 8,
    _GII: 4,
    _QEMU: 4,
}
_CHANGES_GUEST: Final = frozenset((_KEY, _POINTER, _CUT_TEXT, _XVP, _DESKTOP_SIZE, _GII, _QEMU))

# Steps of the handshake with the browser.
_VERSION, _SECURITY, _SECURITY_37, _CLIENT_INIT, _MESSAGES = range(5)

# Extended clipboard: an action in the flags' top byte. Caps, request and peek are sent by the page by itself.
_CLIPBOARD_BY_PERSON: Final = 0x08 | 0x10  # notify, provide


class RfbViolation(Exception):
    """The browser sent something that is not RFB, or more of it than any real client does."""


class RfbInput:
    """Incremental parser of one browser's messages. The result does not depend on how the bytes are cut up.

    ``input_seen`` is set when a person did something: a key, a pointer that moved or a button that changed, text put
    on the clipboard. The reader clears it. ``replies`` holds what must be sent back to the browser; the reader empties
    it.
    """

    __slots__ = ("_drop", "_encodings", "_pointer", "_rest", "_skip", "_step", "input_seen", "replies", "view_only")

    def __init__(self, *, view_only: bool = False):
        self.view_only = view_only
        self.input_seen = False
        self.replies: list[bytes] = []
        self._step = _VERSION
        self._rest = b""  # an incomplete message, at most about 4 KiB
        self._skip = 0  # bytes of a clipboard text still to come
        self._drop = False  # whether those are left out
        self._pointer = b""
        self._encodings: frozenset[int] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether the handshake is over."""
        return self._step == _MESSAGES

    def feed(self, data: bytes) -> bytes:
        """What of ``data`` (and of what was kept) goes on to the server. Raises :class:`RfbViolation`."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._step == _MESSAGES:
            return self._messages(data)
        head, data = self._handshake(data)
        return head + self._messages(data) if self._step == _MESSAGES else head

    def _handshake(self, data: bytes) -> tuple[bytes, bytes]:
        """Steps of RFC 6143, 7.1 to 7.3.1, as far as ``data`` goes; what to forward, and what is left of ``data``."""
        if self._step == _VERSION:
            if len(data) < 12:
                if not GREETING.startswith(data[:4]):
                    raise RfbViolation("The browser does not speak RFB.")
                self._rest = data
                return b"", b""
            self._answer_version(data[:12])
            data = data[12:]
        if self._step == _SECURITY and data:
            if data[0] != 1:
                raise RfbViolation(f"The browser chose security type {data[0]}, only 1 (None) was offered.")
            self.replies.append(b"\0\0\0\0")
            self._step = _CLIENT_INIT
            data = data[1:]
        if self._step == _SECURITY_37 and data:
            if data[0] != 1:
                raise RfbViolation(f"The browser chose security type {data[0]}, only 1 (None) was offered.")
            self._step = _CLIENT_INIT
            data = data[1:]
        if self._step == _CLIENT_INIT and data:
            self._step = _MESSAGES
            # Always shared: an exclusive ClientInit would make the server throw everybody else out.
            return b"\1", data[1:]
        return b"", data

    def _answer_version(self, version: bytes) -> None:
        if version == GREETING:
            self.replies.append(b"\1\1")
            self._step = _SECURITY
        elif version == b"RFB 003.007\n":
            self.replies.append(b"\1\1")
            self._step = _SECURITY_37  # no SecurityResult after None (RFC 6143, appendix A)
        elif version in (b"RFB 003.003\n", b"RFB 003.005\n"):
            self.replies.append(b"\0\0\0\1")
            self._step = _CLIENT_INIT
        else:
            raise RfbViolation(f"The browser answered with the version {version!r}.")

    def _messages(self, data: bytes) -> bytes:
        at, end = 0, len(data)
        kept: list[bytes] = []
        start = 0  # data[start:at] is to be forwarded
        while at < end:
            if self._skip:
                take = min(self._skip, end - at)
                self._skip -= take
                size, drop = take, self._drop
            else:
                size, drop = self._one(data, at, end)
                if not size:
                    break
            if drop:
                if at > start:
                    kept.append(data[start:at])
                start = at + size
            at += size
        self._rest = data[at:]
        if not kept and start == 0 and at == end:
            return data
        kept.append(data[start:at])
        return b"".join(kept)

    def _one(self, data: bytes, at: int, end: int) -> tuple[int, bool]:
        """The message at ``at``: how many of its bytes are taken now (0: wait for more), and whether to drop them."""
        kind = data[at]
        head = _HEAD_BYTES.get(kind)
        if head is None:
            raise RfbViolation(f"The browser sent a message of the unknown type {kind}.")
        if end - at < head:
            return 0, False
        size = head
        if kind == _POINTER:
            if data[at + 1] & 0x80 and ENCODING_EXTENDED_MOUSE in self._encodings:
                size = 7
        elif kind not in (_KEY, _UPDATE_REQUEST):
            size = self._size(kind, data, at)
        if end - at < size:
            return 0, False
        if kind == _CUT_TEXT:
            return self._cut_text(data, at, end)
        self._note(kind, data, at, size)
        return size, self.view_only and kind in _CHANGES_GUEST

    def _size(self, kind: int, data: bytes, at: int) -> int:
        """The whole length of a message whose head is there (a clipboard text: without the text)."""
        if kind == _SET_ENCODINGS:
            count = int.from_bytes(data[at + 2 : at + 4], "big")
            if count > MAX_ENCODINGS:
                raise RfbViolation(f"The browser named {count} encodings; at most {MAX_ENCODINGS} are taken.")
            return 4 + 4 * count
        if kind == _FENCE:
            if data[at + 8] > MAX_FENCE_BYTES:
                raise RfbViolation(f"A fence has {data[at + 8]} bytes; at most {MAX_FENCE_BYTES} are allowed.")
            return 9 + data[at + 8]
        if kind == _DESKTOP_SIZE:
            return 8 + 16 * data[at + 6]
        if kind == _GII:
            return self._gii_size(data, at)
        if kind == _QEMU:
            return _qemu_size(data, at)
        return _HEAD_BYTES[kind]

    def _gii_size(self, data: bytes, at: int) -> int:
        if ENCODING_GII not in self._encodings:
            raise RfbViolation("The browser sent a gii message without having announced it.")
        size = 4 + int.from_bytes(data[at + 2 : at + 4], "big" if data[at + 1] & 0x80 else "little")
        if size > MAX_GII_BYTES:
            raise RfbViolation(f"A gii message has {size} bytes; at most {MAX_GII_BYTES} are taken.")
        return size

    def _cut_text(self, data: bytes, at: int, end: int) -> tuple[int, bool]:
        """The head of a clipboard text; the text itself is passed through unseen (:attr:`_skip`)."""
        length = int.from_bytes(data[at + 4 : at + 8], "big", signed=True)
        if abs(length) > MAX_CUT_TEXT_BYTES:
            raise RfbViolation(f"A clipboard text has {abs(length)} bytes; at most {MAX_CUT_TEXT_BYTES} are taken.")
        if length < 0:  # extended clipboard: flags come first
            if length > -4:
                raise RfbViolation("An extended clipboard message has no flags.")
            if end - at < 12:
                return 0, False
            if data[at + 8] & _CLIPBOARD_BY_PERSON:
                self.input_seen = True
        else:
            self.input_seen = True
        self._skip, self._drop = abs(length), self.view_only
        return 8, self.view_only

    def _note(self, kind: int, data: bytes, at: int, size: int) -> None:
        if kind == _POINTER:
            pointer = data[at : at + size]
            if pointer != self._pointer:
                self._pointer = pointer
                self.input_seen = True
        elif kind == _KEY or (kind == _QEMU and data[at + 1] == 0) or (kind == _GII and not data[at + 1] & 0x7F):
            self.input_seen = True
        elif kind == _SET_ENCODINGS:
            raw = data[at + 4 : at + size]
            named = {int.from_bytes(raw[i : i + 4], "big", signed=True) for i in range(0, len(raw), 4)}
            self._encodings = frozenset(named & {ENCODING_EXTENDED_MOUSE, ENCODING_GII})


def _qemu_size(data: bytes, at: int) -> int:
    """QEMU's own messages: extended key (0), audio (1) with start, stop and set-format (rfbproto,
    "QEMU Client Message")."""
    kind = data[at + 1]
    if kind == 0:
        return 12
    if kind == 1:
        operation = int.from_bytes(data[at + 2 : at + 4], "big")
        if operation in (0, 1):
            return 4
        if operation == 2:
            return 10
        raise RfbViolation(f"The browser sent the unknown QEMU audio operation {operation}.")
    raise RfbViolation(f"The browser sent the unknown QEMU message {kind}.")
