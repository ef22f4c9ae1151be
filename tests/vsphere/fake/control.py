"""A process' control: ``faults`` and ``actions`` by HTTP on loopback, and the face of them from the other side."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECONDS = 30.0
PARTS = ("faults", "actions")


class ControlError(Exception):
    """The fake refused what was asked of it; its words."""


class _Handler(BaseHTTPRequestHandler):
    server: ControlServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            status, value = 200, self.server.run(self.path, asked)
        except Exception as error:
            status, value = 400, f"{type(error).__name__}: {error}"
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard output is for the word that it is ready."""


class ControlServer(ThreadingHTTPServer):
    """``POST /faults/freeze`` with ``{"arguments": ["vcenter"], "named": {}}``."""

    daemon_threads = True

    def __init__(self, port: int, parts: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._parts = parts

    def run(self, path: str, asked: dict[str, Any]) -> Any:
        _, part, name = path.split("/")
        if part not in PARTS or name.startswith("_"):
            raise LookupError(path)
        value = getattr(self._parts[part], name)(*asked["arguments"], **asked["named"])
        return list(value) if isinstance(value, set | tuple) else value


class Remote:
    """``faults`` or ``actions`` of a process: calls of its methods are sent there. Raises: ControlError."""

    def __init__(self, url: str, part: str) -> None:
        self._url = f"{url}/{part}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            body = json.dumps({"arguments": arguments, "named": named}).encode()
            request = urllib.request.Request(f"{self._url}/{name}", body)  # noqa: S310 - a fixed http:// address
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    raise ControlError(json.loads(error.read())) from None

        return call
