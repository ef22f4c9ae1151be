"""A WebSocket client for tests that can also do what no browser would."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from consoles.relay.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameParser, close_payload, masked_frame, parse_close

KEY_A = b"\4\1\0\0\0\0\0\x61"
CONTROL = ("binary", "cloudops.control.v1")
Frame = tuple[int, bytes]


class Browser:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str):
        self.reader = reader
        self.writer = writer
        self.head = head
        self.answer_pings = True
        self._parser = FrameParser(masked=False)
        self._frames: list[Frame] = []

    @classmethod
    async def connect(
        cls,
        port: int,
        subprotocols: tuple[str, ...] = CONTROL,
        *,
        meanwhile: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None,
        extensions: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> Browser:
        """Opens the WebSocket; ``meanwhile`` runs between the request and the reading of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, ssl=tls)
        lines = [
            "GET /ws/console/ HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ]
        if subprotocols:
            lines.append("Sec-WebSocket-Protocol: " + ", ".join(subprotocols))
        if extensions:
            lines.append("Sec-WebSocket-Extensions: " + extensions)
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if meanwhile is not None:
            await meanwhile(writer)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
        return cls(reader, writer, head)

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def frame(self, opcode: int, payload: bytes) -> None:
        self.raw(masked_frame(payload, os.urandom(4), opcode))

    def send(self, data: bytes) -> None:
        self.frame(BINARY, data)

    def control(self, **message: Any) -> None:
        self.frame(TEXT, json.dumps(message).encode())

    def close(self, code: int = 1000) -> None:
        self.frame(CLOSE, close_payload(code))

    async def next(self, seconds: float = 5.0) -> Frame | None:
        """The next frame or piece of one; None at the end of the line. Pings are answered unless told otherwise."""
        while True:
            while not self._frames:
                try:
                    data = await asyncio.wait_for(self.reader.read(1 << 18), seconds)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._frames = self._parser.feed(data)
                assert self._parser.failure is None
            opcode, payload = self._frames.pop(0)
            if opcode == PING and self.answer_pings:
                self.frame(PONG, payload)
                continue
            return opcode, payload

    async def data(self, count: int, seconds: float = 5.0) -> bytes:
        """Exactly ``count`` RFB bytes; text frames in between are dropped."""
        got = b""
        while len(got) < count:
            frame = await self.next(seconds)
            assert frame is not None, f"line ended after {got!r}"
            assert frame[0] in (BINARY, TEXT), frame
            if frame[0] == BINARY:
                got += frame[1]
        if len(got) > count:
            self._frames.insert(0, (BINARY, got[count:]))
        return got[:count]

    async def message(self, seconds: float = 5.0) -> dict[str, Any]:
        """The next control message; RFB bytes in between are dropped."""
        while True:
            frame = await self.next(seconds)
            assert frame is not None, "line ended"
            if frame[0] == TEXT:
                message = json.loads(frame[1])
                assert isinstance(message, dict)
                return message

    async def rfb(self, version: bytes = b"RFB 003.008\n") -> bytes:
        """The RFB handshake as noVNC does it; the bytes of ServerInit are left unread."""
        assert await self.data(12) == b"RFB 003.008\n"
        self.send(version)
        assert await self.data(2) == b"\1\1"
        self.send(b"\1")
        assert await self.data(4) == bytes(4)
        self.send(b"\0")
        return version

    async def closed(self, seconds: float = 5.0) -> tuple[int | None, str]:
        """Reads until the close frame; (None, "") when the line ended without one."""
        while True:
            frame = await self.next(seconds)
            if frame is None:
                return None, ""
            if frame[0] == CLOSE:
                return parse_close(frame[1])

    async def ended(self, seconds: float = 5.0) -> None:
        """Waits for the end of the TCP line."""
        while await self.next(seconds) is not None:
            pass

    def drop(self) -> None:
        self.writer.transport.abort()
