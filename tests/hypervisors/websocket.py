"""A blocking WebSocket client for TLS, on one thread.

The websockets library's own reads and writes its socket from two threads, which Python's ssl module does not bear: of
some hundred connections one hangs.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

SECONDS = 20.0
READ_BYTES = 1 << 16


class Refused(Exception):
    """A WebSocket handshake answered with another status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Ended(Exception):
    """The other side closed; ``code`` as in its close frame, 1006 without one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class WebSocket:
    """Connected when made. ``line`` is the TLS socket. Raises: Refused, OSError."""

    def __init__(self, url: str, context: ssl.SSLContext, *, subprotocol: str = "binary") -> None:
        place = urlsplit(url)
        self._messages: list[bytes] = []
        self._status = 0
        self._protocol = ClientProtocol(parse_uri(url), subprotocols=[Subprotocol(subprotocol)], max_size=None)
        line = socket.create_connection((place.hostname or "", place.port or 443), SECONDS)
        try:
            self.line = context.wrap_socket(line, server_hostname=place.hostname)
        except BaseException:
            line.close()
            raise
        try:
            self._shake_hands()
        except BaseException:
            self.line.close()
            raise

    def _shake_hands(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._receive()
        if self._protocol.handshake_exc is not None:
            raise Refused(self._status)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.line.sendall(data)

    def _receive(self) -> None:
        try:
            data = self.line.recv(READ_BYTES)
        except (ConnectionResetError, ssl.SSLEOFError):
            data = b""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._status = event.status_code
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._messages.append(bytes(event.data))
        with suppress(OSError):
            self._flush()
        if not data and not self._messages and self._protocol.state is not State.CONNECTING:
            raise Ended(self._protocol.close_code)

    def message(self) -> bytes:
        """The next one. Raises: Ended, TimeoutError."""
        while not self._messages:
            self._receive()
        return self._messages.pop(0)

    def send(self, data: bytes) -> None:
        self._protocol.send_binary(data)
        self._flush()

    def close(self) -> None:
        """Politely, without waiting for the answer."""
        with suppress(OSError, InvalidState):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                self._flush()
        self.line.close()
