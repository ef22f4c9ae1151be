"""Remote displays: tickets, the connections they became, and the WebSocket between client and VNC server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from cloudops.hypervisors.simulated.console import open_console
from tests.vsphere.fake.entities import Vm

if TYPE_CHECKING:
    from tests.vsphere.fake.world import World

BINARY = Subprotocol("binary")
READ_BYTES = 1 << 16
CLOSE_SECONDS = 1.0
Gate = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Ticket:
    token: str
    vm: Vm
    user: str
    place: str
    expires_at: float


@dataclass(eq=False)
class MksConnection:
    """One connected display. ``ended`` becomes the close code and reason when this side ends it."""

    label: str
    vm: Vm
    user: str
    client: str
    ended: asyncio.Future[tuple[int, str]] = field(repr=False)


class Consoles:
    """Tickets and connections of all VMs. Methods that take no ``await`` are called under the world's lock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ticket_seconds = 30.0
        self.tickets: dict[str, Ticket] = {}
        self._connections: dict[str, dict[str, MksConnection]] = {}
        self._labels = itertools.count(1)
        self.opened = 0
        """How many displays were connected so far."""

    def of(self, vm: Vm) -> list[MksConnection]:
        return list(self._connections.get(vm.mo_id, {}).values())

    def issue(self, vm: Vm, user: str) -> Ticket:
        now = time.monotonic()
        for old in [one.token for one in self.tickets.values() if one.expires_at < now]:
            del self.tickets[old]
        ticket = Ticket(secrets.token_hex(8), vm, user, vm.host.name, now + self.ticket_seconds)
        self.tickets[ticket.token] = ticket
        return ticket

    def expire_tickets(self) -> None:
        with self._world.lock:
            self.tickets.clear()

    def redeem(self, token: str, place: str) -> Ticket | None:
        """The ticket, used up by this; None when it is unknown, used, expired, another host's or its VM is off."""
        ticket = self.tickets.get(token)
        if ticket is None or ticket.place != place:
            return None
        del self.tickets[token]
        is_good = time.monotonic() <= ticket.expires_at and ticket.vm.host.name == place
        return ticket if is_good and ticket.vm.power == "poweredOn" else None

    def add(self, ticket: Ticket, client: str) -> MksConnection:
        ended = asyncio.get_running_loop().create_future()
        connection = MksConnection(f"mks-{next(self._labels)}", ticket.vm, ticket.user, client, ended)
        self._connections.setdefault(ticket.vm.mo_id, {})[connection.label] = connection
        self.opened += 1
        self._count(ticket.vm)
        return connection

    def is_live(self, connection: MksConnection) -> bool:
        return connection.label in self._connections.get(connection.vm.mo_id, {})

    def remove(self, connection: MksConnection) -> None:
        """It is not counted any more from here on."""
        with self._world.lock:
            if self._connections.get(connection.vm.mo_id, {}).pop(connection.label, None) is not None:
                self._count(connection.vm)

    def drop(self, connection: MksConnection, code: int, reason: str) -> None:
        """Ends it from this side."""
        self.remove(connection)
        loop = connection.ended.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, connection.ended, (code, reason))

    def drop_all(self, vm: Vm, code: int, reason: str) -> None:
        for connection in self.of(vm):
            self.drop(connection, code, reason)

    def _count(self, vm: Vm) -> None:
        vm.connections = len(self._connections.get(vm.mo_id, {}))
        self._world.changed(vm)


def _settle(future: asyncio.Future[tuple[int, str]], value: tuple[int, str]) -> None:
    if not future.done():
        future.set_result(value)


async def serve(
    consoles: Consoles,
    world: World,
    place: str,
    head: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    gate: Gate,
) -> None:
    """One request for /ticket/…, from its head to the end of the connection. ``gate`` returns once the host answers."""
    protocol = ServerProtocol(subprotocols=[BINARY], max_size=None)
    protocol.receive_data(head)
    events = protocol.events_received()
    request = events[0] if events else None
    if not isinstance(request, Request):
        return
    client = writer.get_extra_info("peername")[0]
    with world.lock:
        refusal, connection = _admit(consoles, request, place, client)
    if connection is None:
        protocol.send_response(protocol.reject(*refusal))
        await _flush(protocol, writer)
        return
    try:
        protocol.send_response(protocol.accept(request))
        await _flush(protocol, writer)
        if protocol.state is State.OPEN:
            await _relay(consoles, connection, protocol, reader, writer, gate)
    finally:
        consoles.remove(connection)


def _admit(
    consoles: Consoles, request: Request, place: str, client: str
) -> tuple[tuple[int, str], MksConnection | None]:
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
    if "binary" not in [one.strip() for one in offered.split(",")]:
        return (400, "the subprotocol binary is needed\n"), None
    ticket = consoles.redeem(request.path.removeprefix("/ticket/").partition("?")[0], place)
    if ticket is None:
        return (404, "no such ticket\n"), None
    if len(consoles.of(ticket.vm)) >= ticket.vm.max_connections:
        return (503, "too many connections\n"), None
    return (101, ""), consoles.add(ticket, client)


async def _open_backend(
    consoles: Consoles, connection: MksConnection
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = connection.vm.vnc
    if where.startswith("unix:"):
        return await asyncio.open_unix_connection(where.removeprefix("unix:"))
    if where:
        host, _, port = where.rpartition(":")
        return await asyncio.open_connection(host, int(port))
    name = f"{connection.vm.name} on {connection.vm.host.name}"
    line = socket.socket(fileno=open_console(name, lambda: consoles.is_live(connection), lambda: None))
    return await asyncio.open_connection(sock=line)


async def _relay(
    consoles: Consoles,
    connection: MksConnection,
    protocol: ServerProtocol,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    gate: Gate,
) -> None:
    try:
        backend_reader, backend_writer = await _open_backend(consoles, connection)
    except OSError:
        protocol.send_close(1011, "no display")
        await _flush(protocol, writer)
        return
    parts: list[asyncio.Future[object]] = [
        asyncio.ensure_future(_from_client(protocol, reader, writer, backend_writer, gate)),
        asyncio.ensure_future(_to_client(protocol, writer, backend_reader, gate)),
        asyncio.ensure_future(_end(connection)),
    ]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        consoles.remove(connection)
        ended = connection.ended.result() if parts[2] in done else (1000, "")
        if protocol.state is State.OPEN:
            protocol.send_close(*ended)
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(_flush(protocol, writer), CLOSE_SECONDS)
    finally:
        backend_writer.close()
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def _end(connection: MksConnection) -> None:
    await asyncio.shield(connection.ended)


async def _from_client(
    protocol: ServerProtocol,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    backend: asyncio.StreamWriter,
    gate: Gate,
) -> None:
    while protocol.state is State.OPEN:
        await gate()
        data = await reader.read(READ_BYTES)
        await gate()
        if not data:
            protocol.receive_eof()
            return
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                backend.write(bytes(event.data))
        await _flush(protocol, writer)
        await backend.drain()


async def _to_client(
    protocol: ServerProtocol, writer: asyncio.StreamWriter, backend: asyncio.StreamReader, gate: Gate
) -> None:
    while data := await backend.read(READ_BYTES):
        await gate()
        if protocol.state is not State.OPEN:
            return
        protocol.send_binary(data)
        await _flush(protocol, writer)


async def _flush(protocol: ServerProtocol, writer: asyncio.StreamWriter) -> None:
    for data in protocol.data_to_send():
        if data:
            writer.write(data)
    await writer.drain()
