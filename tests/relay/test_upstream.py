"""The way to the VNC server: every transport and security type, and every way it can fail."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.utils import accept_key

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.reasons import ClosedReason
from consoles.relay import (
    UpstreamAuthenticationFailed,
    UpstreamCertificateChanged,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamSecurityUnsupported,
    UpstreamTicketRefused,
    UpstreamTimedOut,
    UpstreamTlsError,
    UpstreamUnreachable,
    open_upstream,
    rfb,
    wss,
)
from consoles.relay.frames import PING, PONG, FrameParser
from tests.relay.certificates import anonymous_server, certificate
from tests.relay.lab import LOOPS, until
from tests.relay.vnc import SERVER_INIT, VncScript, VncServer, socket_pair_to

Body = Callable[[], Coroutine[Any, Any, None]]


def on_both_loops(body: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    @functools.wraps(body)
    def test(loop_name: str, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(asyncio.wait_for(body(**arguments), 15))

    return pytest.mark.parametrize("loop_name", list(LOOPS))(_with_loop_name(test, body))


def _with_loop_name(test: Callable[..., None], body: Callable[..., Any]) -> Callable[..., None]:
    import inspect

    signature = inspect.signature(body)
    name = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    test.__signature__ = signature.replace(parameters=[*signature.parameters.values(), name])  # type: ignore[attr-defined]
    return test


async def opened(script: VncScript, expected: str, tls: ssl.SSLContext | None = None, **endpoint: object) -> None:
    """Opens a console on a server that follows ``script`` and exchanges ClientInit and ServerInit."""
    vnc = await VncServer(script).start(tls)
    try:
        upstream = await open_upstream(vnc.endpoint(**endpoint), 5)
        assert upstream.security == expected
        assert upstream.local_address == vnc.peers[0]
        assert not upstream.lost
        transport = upstream.attach()
        transport.write(b"\1")
        await until(lambda: len(upstream._stream._buffer) >= len(SERVER_INIT))
        assert upstream.take_early() == SERVER_INIT
        transport.abort()
        await until(vnc.closed.is_set)
        assert vnc.errors == []
    finally:
        await vnc.stop()


async def failure(
    script: VncScript, tls: ssl.SSLContext | None = None, seconds: float = 5, **endpoint: object
) -> UpstreamError:
    """The error that opening a console raises; its server must see the line end."""
    vnc = await VncServer(script).start(tls)
    try:
        with pytest.raises(UpstreamError) as raised:
            await open_upstream(vnc.endpoint(**endpoint), seconds)
        assert raised.value.code
        assert raised.value.remedy
        if vnc.writers and script.silent_after is None:
            await until(vnc.closed.is_set)
        return raised.value
    finally:
        await vnc.stop()


@on_both_loops
@pytest.mark.parametrize("minor", [3, 7, 8, 889])
async def test_security_none_in_every_version(minor: int) -> None:
    script = VncScript(version=b"RFB 003.%03d\n" % minor)
    await opened(script, "none")


@on_both_loops
@pytest.mark.parametrize("minor", [3, 7, 8])
async def test_vnc_password_in_every_version(minor: int) -> None:
    script = VncScript(version=b"RFB 003.%03d\n" % minor, types=(2,), password="s3cret!!")
    await opened(script, "vnc", password="s3cret!!-only-8-count")


@on_both_loops
@pytest.mark.parametrize("minor", [3, 7, 8])
async def test_wrong_password(minor: int) -> None:
    script = VncScript(version=b"RFB 003.%03d\n" % minor, types=(2,), password="right")
    error = await failure(script, password="wrong")
    assert isinstance(error, UpstreamAuthenticationFailed)
    assert error.closed_reason is ClosedReason.GUEST_REFUSED
    if minor == 8:
        assert error.detail == "Authentication failed"


@on_both_loops
async def test_password_asked_for_but_not_known() -> None:
    assert isinstance(await failure(VncScript(types=(2,), password="x")), UpstreamAuthenticationFailed)


def test_vnc_response_is_des_with_reversed_bits() -> None:
    # From OpenSSL's des-ecb under the key 0e86ceceeef64e26: "password", the bits of each byte reversed.
    expected = bytes.fromhex("ff97502e9422f089") * 2
    assert rfb.vnc_response(bytes(16), "password") == expected
    assert rfb.vnc_response(bytes(16), "password and more") == expected, "8 characters count"


@on_both_loops
@pytest.mark.parametrize("minor", [3, 7, 8])
async def test_server_says_why_it_refuses(minor: int) -> None:
    error = await failure(VncScript(version=b"RFB 003.%03d\n" % minor, reason="Too many\n clients"))
    assert type(error) is UpstreamRefused
    assert error.detail == "Too many clients"


@on_both_loops
async def test_unknown_security_types() -> None:
    error = await failure(VncScript(types=(5, 16, 30)))
    assert isinstance(error, UpstreamSecurityUnsupported)
    assert "[5, 16, 30]" in error.detail


@on_both_loops
@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"RFB 002.000\n", b"RFB abc.def\n"])
async def test_no_vnc_server(greeting: bytes) -> None:
    error = await failure(VncScript(raw_greeting=greeting))
    assert isinstance(error, UpstreamProtocolError)


@on_both_loops
async def test_nobody_listens() -> None:
    vnc = await VncServer().start()
    await vnc.stop()
    with pytest.raises(UpstreamUnreachable) as raised:
        await open_upstream(vnc.endpoint(), 5)
    assert raised.value.closed_reason is ClosedReason.GUEST_UNREACHABLE
    assert f"127.0.0.1:{vnc.port}" in raised.value.detail


@on_both_loops
async def test_silent_server_hits_the_deadline() -> None:
    error = await failure(VncScript(silent_after=0), seconds=0.1)
    assert isinstance(error, UpstreamTimedOut)
    assert error.numbers == {"timeout_seconds": 0.1}
    assert "silent" in error.detail


@on_both_loops
async def test_server_that_closes_in_the_handshake() -> None:
    error = await failure(VncScript(raw_greeting=b"RFB 003.008\n", types=(2,)), password="")
    assert isinstance(error, UpstreamRefused)


@on_both_loops
@pytest.mark.parametrize(
    ("subtypes", "name", "password"),
    [((257,), "tlsnone", ""), ((258,), "tlsvnc", "pw"), ((256, 258, 260, 257), "tlsnone", "")],
)
async def test_vencrypt_anonymous(subtypes: tuple[int, ...], name: str, password: str) -> None:
    script = VncScript(types=(19,), vencrypt=subtypes, tls=anonymous_server(), password=password)
    await opened(script, name, password=password)


@on_both_loops
@pytest.mark.parametrize("check", ["ca", "pin", "pin with colons"])
@pytest.mark.parametrize(("subtypes", "name"), [((260, 257), "x509none"), ((261, 258), "x509vnc")])
async def test_vencrypt_x509(check: str, subtypes: tuple[int, ...], name: str) -> None:
    made = certificate()
    script = VncScript(types=(1, 19), vencrypt=subtypes, tls=made.server, password="pw")
    pin = made.sha256.upper()
    if check == "pin with colons":
        pin = ":".join(pin[i : i + 2] for i in range(0, 64, 2))
    how: dict[str, object] = {"ca_pem": made.pem} if check == "ca" else {"certificate_sha256": pin}
    await opened(script, name, None, password="pw", **how)


@on_both_loops
@pytest.mark.parametrize("how", ["other ca", "other pin", "other address", "no ca", "not offered", "bad pin", "bad ca"])
async def test_vencrypt_x509_refused(how: str) -> None:
    made = certificate("127.0.0.9" if how == "other address" else "127.0.0.1")
    types, subtypes = ((1, 2), ()) if how == "not offered" else ((19,), (260,))
    script = VncScript(types=types, vencrypt=subtypes, tls=made.server)
    cases: dict[str, dict[str, object]] = {
        "other ca": {"ca_pem": certificate("127.0.0.2").pem},
        "other pin": {"certificate_sha256": "0" * 64},
        "other address": {"ca_pem": made.pem},
        "no ca": {},
        "not offered": {"ca_pem": made.pem},
        "bad pin": {"certificate_sha256": "xyz"},
        "bad ca": {"ca_pem": "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----"},
    }
    error = await failure(script, None, 5, **cases[how])
    assert isinstance(error, UpstreamTlsError), error
    assert "sha-256" in error.remedy.lower()
    if how == "other pin":
        assert error.numbers["found_sha256"] == made.sha256


@on_both_loops
@pytest.mark.parametrize("check", ["ca", "pin"])
async def test_tls_transport(check: str) -> None:
    made = certificate()
    how: dict[str, object] = {"ca_pem": made.pem} if check == "ca" else {"certificate_sha256": made.sha256}
    await opened(VncScript(), "none", made.server, transport=Transport.TLS, **how)


@on_both_loops
@pytest.mark.parametrize("how", ["pin", "ca", "nothing", "no tls"])
async def test_tls_transport_refused(how: str) -> None:
    made = certificate()
    cases: dict[str, dict[str, object]] = {
        "pin": {"certificate_sha256": "ab" * 32},
        "ca": {"ca_pem": certificate("127.0.0.2").pem},
        "nothing": {},
        "no tls": {"ca_pem": made.pem},
    }
    tls = None if how == "no tls" else made.server
    error = await failure(VncScript(), tls, 5, transport=Transport.TLS, **cases[how])
    assert isinstance(error, UpstreamTlsError)


@on_both_loops
async def test_file_descriptor_of_a_tcp_socket() -> None:
    vnc = await VncServer().start()
    upstream = await open_upstream(vnc.endpoint(transport=Transport.FD, fd=socket_pair_to(vnc)), 5)
    assert upstream.security == "none"
    upstream.close()
    await until(vnc.closed.is_set)
    await vnc.stop()


@on_both_loops
async def test_file_descriptor_of_a_unix_socket() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    vnc = VncServer()
    reader, writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(_serve_without_address(vnc, reader, writer))
    upstream = await open_upstream(ConsoleEndpoint(Transport.FD, fd=ours.detach()), 5)
    assert upstream.local_address is None
    upstream.close()
    await serving


async def _serve_without_address(vnc: VncServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    vnc.peers.append(("", 0))
    try:
        await vnc._handshake(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.transport.abort()


@on_both_loops
async def test_file_descriptor_is_closed_on_failure() -> None:
    vnc = await VncServer(VncScript(types=(99,))).start()
    fd = socket_pair_to(vnc)
    with pytest.raises(UpstreamSecurityUnsupported):
        await open_upstream(vnc.endpoint(transport=Transport.FD, fd=fd), 5)
    await until(vnc.closed.is_set)
    await vnc.stop()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@on_both_loops
async def test_descriptor_that_is_no_socket() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(UpstreamUnreachable):
            await open_upstream(ConsoleEndpoint(Transport.FD, fd=fd), 5)
    finally:
        os.close(fd)


@on_both_loops
@pytest.mark.parametrize(
    "check", ["pin", "sha1", "both", "ca", "other pin", "other sha1", "short pin", "no pin", "http", "no websocket"]
)
async def test_wss(check: str) -> None:
    made = certificate()
    got: list[bytes] = []

    async def vnc(socket: ServerConnection) -> None:
        assert socket.subprotocol == "binary"
        for say, size in ((b"RFB 003.008\n", 12), (b"\1\1", 1), (bytes(4), 1), (SERVER_INIT, 8)):
            await socket.send(say)
            data = await socket.recv()
            assert isinstance(data, bytes)
            assert len(data) == size
            got.append(data)
        await socket.close()

    plain = check == "no websocket"
    server: Any
    if plain:
        server = await VncServer().start(made.server)
        port = server.port
    else:
        server = await serve(vnc, "127.0.0.1", 0, ssl=made.server, subprotocols=["binary"])  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
    scheme = "http" if check == "http" else "wss"
    pin = {"other pin": "0" * 64, "short pin": "0" * 40, "ca": "", "no pin": "", "sha1": "", "other sha1": ""}
    with_colons = ":".join(made.sha1[at : at + 2] for at in range(0, 40, 2)).upper()
    endpoint = ConsoleEndpoint(
        Transport.WSS,
        url=f"{scheme}://127.0.0.1:{port}/ticket/abc",
        certificate_sha256=pin.get(check, made.sha256),
        certificate_sha1={"sha1": with_colons, "other sha1": "0" * 40, "both": "0" * 40}.get(check, ""),
        ca_pem=made.pem if check == "ca" else "",
    )
    try:
        if check in ("pin", "sha1", "both", "ca"):
            await _use_wss(endpoint, got)
        else:
            changed = check.startswith("other")
            expected = UpstreamCertificateChanged if changed else UpstreamTlsError if "pin" in check else UpstreamError
            with pytest.raises(expected) as raised:
                await open_upstream(endpoint, 0.5)
            if changed:
                assert raised.value.closed_reason is ClosedReason.GUEST_CERTIFICATE
                assert made.sha256 in raised.value.detail or made.sha1 in raised.value.detail
    finally:
        if plain:
            await server.stop()
        else:
            server.close()
            await server.wait_closed()


@on_both_loops
@pytest.mark.parametrize("status", [401, 404, 503])
async def test_wss_that_knows_no_such_ticket(status: int) -> None:
    made = certificate()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 9\r\n\r\n" % status)  # the rest of the body never comes

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=made.server)
    url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/ticket/used"
    try:
        with pytest.raises(UpstreamError) as raised:
            await open_upstream(ConsoleEndpoint(Transport.WSS, url=url, certificate_sha1=made.sha1), 1)
    finally:
        server.close()
    assert isinstance(raised.value, UpstreamTicketRefused) == (status != 503)
    assert "used" not in str(raised.value), "a ticket is a secret"


@on_both_loops
@pytest.mark.parametrize("knows_pings", [True, False])
async def test_wss_that_falls_silent(knows_pings: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up if it sent pings itself; else it is a server whose display does not change, and not even asked."""
    monkeypatch.setattr(wss, "PING_SECONDS", 0.05)
    monkeypatch.setattr(wss, "SILENT_SECONDS", 0.3)
    made = certificate()
    pings: list[bytes] = []
    silent = asyncio.Event()

    async def vnc(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
        assert key is not None
        writer.write(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}\r\n".encode())
        writer.write(b"Sec-WebSocket-Protocol: binary\r\n\r\n")
        for say in (b"RFB 003.008\n", b"\1\1", bytes(4)):
            writer.write(bytes((0x82, len(say))) + say)
        if knows_pings:
            writer.write(bytes((0x80 | PING, 0)))
        parser = FrameParser()
        while data := await reader.read(4096):
            for opcode, payload in parser.feed(data):
                if opcode == PING and not silent.is_set():
                    pings.append(payload)
                    writer.write(bytes((0x80 | PONG, 0)))

    server = await asyncio.start_server(vnc, "127.0.0.1", 0, ssl=made.server)
    url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/ticket/t"
    try:
        upstream = await open_upstream(ConsoleEndpoint(Transport.WSS, url=url, certificate_sha1=made.sha1), 5)
        assert upstream.attach().get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if knows_pings:
            await until(lambda: len(pings) >= 3)
            assert not upstream.lost
            silent.set()
            await until(lambda: upstream.lost)
        else:
            await asyncio.sleep(0.6)
            assert not upstream.lost
            assert pings == []
            upstream.attach().abort()
    finally:
        server.close()


async def _use_wss(endpoint: ConsoleEndpoint, got: list[bytes]) -> None:
    upstream = await open_upstream(endpoint, 5)
    assert upstream.security == "none"
    transport = upstream.attach()
    transport.write(b"\1")
    await until(lambda: len(upstream._stream._buffer) >= len(SERVER_INIT))
    assert upstream.take_early() == SERVER_INIT
    transport.writelines([b"\4\1\0\0", b"\0\0\0\x61"])
    await until(lambda: upstream.lost)
    assert got[-1] == b"\4\1\0\0\0\0\0\x61"
    transport.close()


class _ScriptedStream:
    """Answers a handshake from given bytes; the end of them is the end of the line."""

    def __init__(self, data: bytes):
        self.data = data

    async def read_exactly(self, count: int) -> bytes:
        if len(self.data) < count:
            raise UpstreamRefused("The server closed the connection during the handshake.")
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    def write(self, data: bytes) -> None:
        assert data

    async def start_tls(self, settings: object) -> None:
        return


@settings(max_examples=300)
@given(
    st.sampled_from([b"", b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n", b"RFB 003.008\n\1\x13\0\2\0\1"]),
    st.binary(max_size=80),
)
def test_a_server_that_sends_garbage_raises_nothing_untyped(head: bytes, tail: bytes) -> None:
    endpoint = ConsoleEndpoint(Transport.TCP, host="127.0.0.1", port=1, password="pw")
    try:
        name = asyncio.run(rfb.secure(_ScriptedStream(head + tail), endpoint))
    except UpstreamError:
        return
    assert name in {"none", "vnc", "tlsnone", "tlsvnc"}


def test_a_reason_is_bounded() -> None:
    data = b"RFB 003.008\n\0" + struct.pack("!I", 1 << 30)
    with pytest.raises(UpstreamRefused, match="1073741824 bytes"):
        asyncio.run(rfb.secure(_ScriptedStream(data), ConsoleEndpoint(Transport.TCP)))
