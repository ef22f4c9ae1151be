"""Just enough of an RFB client to open a console and look at it."""

from __future__ import annotations

import socket
import struct

from cloudops.hypervisors.port import ConsoleEndpoint, Transport

SECONDS = 10.0


class RfbClient:
    """A console past its handshake (security type None)."""

    def __init__(self, endpoint: ConsoleEndpoint) -> None:
        if endpoint.transport is Transport.FD:
            self.line = socket.socket(fileno=endpoint.fd)
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
