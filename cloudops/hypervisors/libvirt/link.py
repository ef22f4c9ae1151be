"""A line to a libvirt daemon that can be cut at any moment.

libvirt has no timeout: against a frozen daemon, opening a connection blocks for ever, and so does a call until
keep-alive gives up. So libvirt is given a unix socket of ours, and a thread carries the bytes (and descriptors, where
both sides are local) between it and the daemon. Cutting the line ends every call on it at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 256 * 1024
MAX_DESCRIPTORS = 16
SEND_SECONDS = 30.0


class Link:
    """One line: ``upstream`` is a connected socket to the daemon and belongs to the link from now on."""

    def __init__(
        self,
        upstream: socket.socket,
        *,
        passes_descriptors: bool,
        accept_seconds: float,
        on_end: Callable[[str], None],
    ) -> None:
        """``on_end`` is called once, from the link's thread, with the reason in words."""
        self._upstream = upstream
        self._passes_descriptors = passes_descriptors
        self._on_end = on_end
        self._lock = threading.Lock()
        self._local: socket.socket | None = None
        self._reason = ""
        self._folder = Path(tempfile.mkdtemp(prefix="libvirt-link-"))
        self.path = self._folder / "s"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(1)
        self._listener.settimeout(accept_seconds)
        threading.Thread(target=self._run, name="libvirt link", daemon=True).start()

    @property
    def reason(self) -> str:
        """Why the line ended; empty while it is up."""
        with self._lock:
            return self._reason

    def cut(self, reason: str) -> None:
        """Ends the line from any thread; libvirt's calls on it fail at once. Idempotent, the first reason counts."""
        with self._lock:
            self._reason = self._reason or reason
            for side in (self._local, self._upstream, self._listener):
                if side is not None:
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(side, socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            try:
                local, _ = self._listener.accept()
            finally:
                self._listener.close()
                shutil.rmtree(self._folder, ignore_errors=True)
            with self._lock:
                self._local = local
                cut = bool(self._reason)
            for side in (local, self._upstream):
                side.settimeout(SEND_SECONDS)
            reason = "" if cut else self._carry(local)
        except (OSError, ValueError) as error:
            reason = f"the line broke: {error}"
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        with self._lock:
            self._reason = self._reason or reason
            local, self._local = self._local, None
            self._upstream.close()
        if local is not None:
            local.close()
        self._on_end(self._reason)

    def _carry(self, local: socket.socket) -> str:
        poll = select.poll()
        poll.register(local, select.POLLIN)
        poll.register(self._upstream, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == local.fileno():
                    if not _move(local, self._upstream):
                        return "libvirt gave the connection up (no keep-alive answer, or a protocol error)"
                elif self._passes_descriptors:
                    if not _move_with_descriptors(self._upstream, local):
                        return "the host closed the connection"
                elif not _move(self._upstream, local):
                    return "the host closed the connection"


def _move(source: socket.socket, target: socket.socket) -> bool:
    """Carries what is there; False at the end of the stream."""
    if isinstance(source, ssl.SSLSocket):
        return _move_tls(source, target)
    data = source.recv(CHUNK_BYTES)
    if data:
        target.sendall(data)
    return bool(data)


def _move_tls(source: ssl.SSLSocket, target: socket.socket) -> bool:
    # Readable may mean a part of a record, or one without data for us: never wait for the rest.
    while True:
        source.settimeout(0)
        try:
            data = source.recv(CHUNK_BYTES)
        except ssl.SSLWantReadError:
            return True
        finally:
            source.settimeout(SEND_SECONDS)
        if not data:
            return False
        target.sendall(data)


def _move_with_descriptors(source: socket.socket, target: socket.socket) -> bool:
    data, descriptors, _, _ = socket.recv_fds(source, CHUNK_BYTES, MAX_DESCRIPTORS)
    if not data:
        return False
    try:
        if descriptors:
            # libvirt reads a message by its length and then one byte that carries the descriptor: were the two sent
            # together, its first read would lose the descriptor. The kernel never reads past a byte with one.
            if len(data) > 1:
                target.sendall(data[:-1])
            socket.send_fds(target, [data[-1:]], descriptors)
        else:
            target.sendall(data)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return True
