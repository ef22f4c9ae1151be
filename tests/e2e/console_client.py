"""A console as a script has it: WebSocket, RFB handshake, key presses; used where a browser would only be slow."""

from __future__ import annotations

import json
import struct
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.e2e.api import Api

RETURN, SHIFT = 0xFF0D, 0xFFE1
SHIFTED = '~!@#$%^&*()_+{}|:"<>?'


class ConsoleClient:
    """Opens the VM's console with the API token's right and keeps reading in a thread until the server closes."""

    def __init__(self, api: Api, vm_id: str, *, view_only: bool = False, port: int | None = None) -> None:
        """``port``: connect to another management server than the public address leads to."""
        answer = api.post(f"/vms/{vm_id}/console-sessions/", {"view_only": view_only})
        assert answer.status == 201, answer
        self.opened = answer.body
        url = urlsplit(answer.body["websocket_url"])
        self._url = urlunsplit(url._replace(netloc=f"{url.hostname}:{port or url.port}"))
        self._stack = ExitStack()
        self.id: str = answer.body["id"]
        self.controls: list[dict[str, Any]] = []
        self.closed = threading.Event()
        self._changed = threading.Condition()
        self._bytes = bytearray()
        self.socket = self._connect(f"cloudops.secret.{answer.body['secret']}")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._handshake()

    def _connect(self, secret: str) -> ClientConnection:
        protocols = [Subprotocol(name) for name in ("binary", secret, "cloudops.control.v1")]
        line = connect(self._url, subprotocols=protocols, compression=None, open_timeout=15, max_size=None)
        return self._stack.enter_context(line)

    def _read(self) -> None:
        try:
            for message in self.socket:
                with self._changed:
                    if isinstance(message, str):
                        self.controls.append(json.loads(message))
                    else:
                        self._bytes += message
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            with self._changed:
                self.closed.set()
                self._changed.notify_all()

    def take(self, count: int, *, within_seconds: float = 15.0) -> bytes:
        """The next ``count`` bytes that the guest's VNC server sent."""
        with self._changed:
            ready = self._changed.wait_for(
                lambda: len(self._bytes) >= count or self.closed.is_set(), timeout=within_seconds
            )
            assert ready, f"{count} bytes did not come within {within_seconds} s; there are {len(self._bytes)}"
            assert len(self._bytes) >= count, f"closed with {self.close_code}: {self.close_reason}"
            taken = bytes(self._bytes[:count])
            del self._bytes[:count]
            return taken

    def _handshake(self) -> None:
        """RFC 6143, 7.1: version, security None, ClientInit, ServerInit."""
        assert self.take(12) == b"RFB 003.008\n"
        self.socket.send(b"RFB 003.008\n")
        count = self.take(1)[0]
        assert 1 in self.take(count), "the relay must offer security None"
        self.socket.send(b"\x01")
        assert struct.unpack("!I", self.take(4)) == (0,)
        self.socket.send(b"\x01")
        self.width, self.height, _, length = struct.unpack("!HH16sI", self.take(24))
        self.name = self.take(length).decode()

    def press(self, text: str) -> None:
        """Presses the keys of an ASCII text; newline is Return."""
        for letter in text:
            shift = letter.isupper() or letter in SHIFTED
            keys = ([SHIFT] if shift else []) + [RETURN if letter == "\n" else ord(letter)]
            pressed = [struct.pack("!BBxxI", 4, 1, key) for key in keys]
            released = [struct.pack("!BBxxI", 4, 0, key) for key in reversed(keys)]
            self.socket.send(b"".join(pressed + released))
            time.sleep(0.02)

    def ask_for_picture(self) -> int:
        """Asks for the whole screen and returns how many bytes of it came within two seconds."""
        with self._changed:
            self._bytes.clear()
        self.socket.send(struct.pack("!BBHHHH", 3, 0, 0, 0, self.width, self.height))
        deadline = time.monotonic() + 2
        with self._changed:
            self._changed.wait_for(lambda: len(self._bytes) > 1000, timeout=deadline - time.monotonic())
            return len(self._bytes)

    def control(self, kind: str, *, within_seconds: float = 10.0) -> dict[str, Any]:
        """The first control message of a kind."""
        with self._changed:
            self._changed.wait_for(
                lambda: any(m["type"] == kind for m in self.controls) or self.closed.is_set(), timeout=within_seconds
            )
            found = [m for m in self.controls if m["type"] == kind]
            assert found, f"no {kind!r} within {within_seconds} s; there were {self.controls}"
            return found[0]

    def wait_closed(self, *, within_seconds: float) -> int | None:
        """The WebSocket close code, once the server has closed; None when the line just broke."""
        assert self.closed.wait(within_seconds), f"still open after {within_seconds} s"
        return self.close_code

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code

    @property
    def close_reason(self) -> str | None:
        return self.socket.close_reason

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
