"""A plain pyVmomi client and a display on a ticket: what the fake's own tests use in place of the product's driver."""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pytest
from pyVim import connect

from tests.hypervisors.websocket import WebSocket
from tests.vsphere.fake import FakeVcenter
from tests.vsphere.fake.types import vim, vmodl

SECONDS = 20.0
smart_stub: Any = connect.SmartStubAdapter


def pinned(pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=pem)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def log_in(vcenter: FakeVcenter, **changed: Any) -> Any:
    """A ServiceInstance; the caller disconnects."""
    values = {"userName": vcenter.username, "password": vcenter.password} | changed
    stub = smart_stub(host=vcenter.address, port=vcenter.port, sslContext=pinned(vcenter.certificate_pem))
    instance = vim.ServiceInstance("ServiceInstance", stub)
    try:
        instance.content.sessionManager.Login(**values)
    except BaseException:
        stub.DropConnections()
        raise
    return instance


def log_out(instance: Any) -> None:
    """Ends the session, if it is still there, and closes the sockets that pyVmomi would leave to the collector."""
    try:
        instance.content.sessionManager.Logout()
    except Exception:  # noqa: S110 - a lost session is what some tests are about
        pass
    instance._stub.DropConnections()


@contextmanager
def logged_in(vcenter: FakeVcenter, **changed: Any) -> Iterator[Any]:
    instance = log_in(vcenter, **changed)
    try:
        yield instance
    finally:
        log_out(instance)


def view_filter(instance: Any, wanted: dict[Any, Sequence[str]]) -> Any:
    """A FilterSpec for everything of these types."""
    content = instance.content
    view = content.viewManager.CreateContainerView(content.rootFolder, list(wanted), True)
    collector = vmodl.query.PropertyCollector
    traversal = collector.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[collector.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted.items()],
    )


def find_vm(instance: Any, vcenter: FakeVcenter, name: str) -> Any:
    return instance.content.searchIndex.FindByUuid(None, vcenter.vm(name).instance_uuid, True, True)


def find_host(instance: Any, name: str) -> Any:
    return instance.content.searchIndex.FindByDnsName(None, name, False)


def ended(task: Any) -> Any:
    """The finished task's info."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        info = task.info
        if info.state in ("success", "error"):
            return info
        time.sleep(0.01)
    raise TimeoutError(f"{task} did not end")


def done(task: Any) -> Any:
    """The result of a task that succeeds."""
    info = ended(task)
    assert info.state == "success", info.error
    return info.result


def failed(task: Any) -> Any:
    info = ended(task)
    assert info.state == "error"
    return info.error


def raises(kind: Any) -> Any:
    expected: Any = pytest.raises(kind)
    return expected


def eventually(is_so: Callable[[], object], what: str = "it") -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen")
        time.sleep(0.01)


class Display:
    """A ticket redeemed: the WebSocket, and an RFB client on it."""

    def __init__(
        self, vcenter: FakeVcenter, ticket: Any, *, subprotocol: str = "binary", host: str = "", pem: str = ""
    ) -> None:
        hosts = vcenter.world.hosts.values()
        context = pinned(pem or next(one.certificate_pem for one in hosts if one.port == ticket.port))
        url = f"wss://{host or ticket.host}:{ticket.port}/ticket/{ticket.ticket}"
        self._buffer = b""
        self.socket = WebSocket(url, context, subprotocol=subprotocol)
        self.line = self.socket.line
        self.send = self.socket.send
        self.close = self.socket.close

    def read(self, count: int) -> bytes:
        """Raises: Ended, TimeoutError."""
        while len(self._buffer) < count:
            self._buffer += self.socket.message()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def shake_hands(self) -> str:
        """To the end of RFB's handshake; the desktop's name."""
        assert self.read(12) == b"RFB 003.008\n"
        self.send(b"RFB 003.008\n")
        assert self.read(2) == b"\x01\x01"
        self.send(b"\x01")
        assert self.read(4) == b"\0\0\0\0"
        self.send(b"\x01")
        head = self.read(24)
        return self.read(struct.unpack(">I", head[20:])[0]).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
