"""Just enough of an RFB client to open a console and look at it."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
from typing import Any, Protocol

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from tests.hypervisors.websocket import Ended, WebSocket

SECONDS = 10.0


class Line(Protocol):
    """What is used of a socket."""

    def recv(self, count: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float, /) -> None: ...
    def getsockname(self) -> Any: ...
    def close(self) -> None: ...


class WebSocketLine:
    """A ``WSS`` endpoint as a socket; the certificate must be the one that the endpoint names."""

    def __init__(self, endpoint: ConsoleEndpoint) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._socket = WebSocket(endpoint.url, context)
        served = self._socket.line.getpeercert(binary_form=True) or b""
        for name, expected in (("sha256", endpoint.certificate_sha256), ("sha1", endpoint.certificate_sha1)):
            assert expected.replace(":", "").lower() in ("", hashlib.new(name, served).hexdigest())
        assert endpoint.certificate_sha256 or endpoint.certificate_sha1
        self._socket.line.settimeout(SECONDS)
        self._rest = b""

    def recv(self, count: int, /) -> bytes:
        try:
            while not self._rest:
                self._rest = self._socket.message()
        except Ended:
            return b""
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def sendall(self, data: bytes, /) -> None:
        self._socket.send(data)

    def settimeout(self, seconds: float, /) -> None:
        self._socket.line.settimeout(seconds)

    def getsockname(self) -> Any:
        return self._socket.line.getsockname()

    def close(self) -> None:
        self._socket.close()


class RfbClient:
    """A console past its handshake (security type None)."""

    def __init__(self, endpoint: ConsoleEndpoint) -> None:
        self.line: Line
        if endpoint.transport is Transport.FD:
            self.line = socket.socket(fileno=endpoint.fd)
        elif endpoint.transport is Transport.WSS:
            self.line = WebSocketLine(endpoint)
        else:
            self.line = socket.create_connection((endpoint.host, endpoint.port), SECONDS)
        self.line.settimeout(SECONDS)
        assert self.read(12) == b"RFB 003.008\n"
        self.line.sendall(b"RFB 003.008\n")
        types = self.read(self.read(1)[0])
        assert 1 in types, f"security types {list(types)}"
        self.line.sendall(b"\x01")
        assert self.read(4) == b"\0\0\0\0"
        self.line.sendall(b"\x01")
        self.width, self.height = struct.unpack(">HH", self.read(4))
        self.pixel_format = self.read(16)
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()

    def picture(self, *, incremental: bool = False) -> dict[tuple[int, int], bytes]:
        """One framebuffer update in raw encoding: the pixels of each rectangle by its place."""
        request = struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height)
        self.line.sendall(struct.pack(">BxHi", 2, 1, 0) + request)
        kind, count = struct.unpack(">BxH", self.read(4))
        assert kind == 0
        rectangles = {}
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self.read(12))
            assert encoding == 0
            rectangles[x, y] = self.read(width * height * self.pixel_format[0] // 8)
        return rectangles

    def press(self, keysym: int) -> None:
        for down in (1, 0):
            self.line.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.line.recv(count - len(data))
            if not chunk:
                raise EOFError(f"closed after {len(data)} of {count} bytes")
            data += chunk
        return data

    def is_ended(self) -> bool:
        """Whether the other side closes within the time allowed."""
        try:
            while self.line.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> RfbClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
