"""Opens a VM's console from a script. Needs Python 3.11, the package `websockets` and an API token that may "console".

    export CLOUDOPS_TOKEN=cops_…
    python open_console.py https://cloud.example.org web-7 --save screen.ppm

Finds the VM by name, takes a console slot, connects the WebSocket, does the RFB handshake (RFC 6143), prints the
screen's size and the desktop's name, saves one picture if asked to, and gives the slot back by closing.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

SECONDS = 15.0


class Api:
    """CloudOps' REST API with a bearer token. Errors are problem+json: a code, what happened, and what to do."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            retry = error.headers.get("Retry-After")
            hint = f" Try again in {retry} s." if retry else ""
            sys.exit(f"{problem['status']} {problem['code']}: {problem['detail']} {problem['remedy']}{hint}")

    def vm_named(self, name: str) -> dict[str, Any]:
        """The one VM of that name among those that the token's owner may see."""
        found = self.call("GET", "/vms/?" + urllib.parse.urlencode({"name": name}))["results"]
        if len(found) != 1:
            sys.exit(f"There are {len(found)} VMs named {name!r} that you may see.")
        vm: dict[str, Any] = found[0]
        return vm


class Rfb:
    """Just enough RFB for a look at the screen. WebSocket messages are a stream of bytes: frames mean nothing."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.buffer = socket, bytearray()

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            message = self.socket.recv(timeout=SECONDS)
            if isinstance(message, bytes):
                self.buffer += message
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def handshake(self) -> tuple[int, int, str]:
        """Version, security None, ClientInit, ServerInit; the screen's width, height and name."""
        self.take(12)
        self.socket.send(b"RFB 003.008\n")
        if 1 not in self.take(self.take(1)[0]):
            sys.exit("The server offers no security type that CloudOps' relay would have.")
        self.socket.send(b"\x01")
        if struct.unpack("!I", self.take(4)) != (0,):
            sys.exit("The VNC server refused.")
        self.socket.send(b"\x01")
        width, height, _pixel_format, length = struct.unpack("!HH16sI", self.take(24))
        return width, height, self.take(length).decode(errors="replace")

    def picture(self, width: int, height: int) -> bytes:
        """The whole screen as RGB, 3 bytes a pixel."""
        pixel_format = struct.pack("!BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        self.socket.send(b"\x00\x00\x00\x00" + pixel_format)
        self.socket.send(struct.pack("!BxHi", 2, 1, 0))
        self.socket.send(struct.pack("!BBHHHH", 3, 0, 0, 0, width, height))
        screen, left = bytearray(width * height * 3), width * height
        while left > 0:
            for x, y, w, h in self._rectangles():
                for row in range(h):
                    line = self.take(w * 4)
                    start = ((y + row) * width + x) * 3
                    screen[start : start + w * 3] = bytes(line[i + c] for i in range(0, w * 4, 4) for c in (2, 1, 0))
                left -= w * h
        return bytes(screen)

    def _rectangles(self) -> Any:
        kind = self.take(1)[0]
        if kind == 0:
            (count,) = struct.unpack("!xH", self.take(3))
            for _ in range(count):
                x, y, w, h, encoding = struct.unpack("!HHHHi", self.take(12))
                if encoding != 0:
                    sys.exit(f"The server sent encoding {encoding}, which was not asked for.")
                yield x, y, w, h
        elif kind == 1:
            (count,) = struct.unpack("!xxxH", self.take(5))
            self.take(count * 6)
        elif kind == 3:
            self.take(struct.unpack("!3xI", self.take(7))[0])
        elif kind != 2:
            sys.exit(f"The server sent a message of kind {kind}, which RFC 6143 does not know.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Opens a VM's console through CloudOps.")
    parser.add_argument("url", help="CloudOps' address, for example https://cloud.example.org")
    parser.add_argument("vm", help="the VM's name")
    parser.add_argument("--save", metavar="FILE", help="save the screen as a PPM picture")
    arguments = parser.parse_args()
    api = Api(arguments.url, os.environ["CLOUDOPS_TOKEN"])

    vm = api.vm_named(arguments.vm)
    console = api.call("POST", f"/vms/{vm['id']}/console-sessions/", {"view_only": True})
    print(f"Slot {console['slot']['in_use']} of {console['slot']['limit']} on {console['host']['name']}")

    protocols = [Subprotocol("binary"), Subprotocol(f"cloudops.secret.{console['secret']}")]
    with connect(console["websocket_url"], subprotocols=protocols, compression=None, max_size=None) as socket:
        rfb = Rfb(socket)
        width, height, name = rfb.handshake()
        print(f"{name}: {width} x {height}")
        if arguments.save:
            with open(arguments.save, "wb") as file:
                file.write(b"P6 %d %d 255\n" % (width, height) + rfb.picture(width, height))
            print(f"Saved {arguments.save}")


if __name__ == "__main__":
    main()
