"""RFB security with the VNC server itself (RFC 6143, sections 7.1 and 7.2; rfbproto for VeNCrypt).

Supported: versions 3.3, 3.7 and 3.8; None, VNC authentication, and VeNCrypt with anonymous or X.509 TLS around either.
"""

from __future__ import annotations

from typing import Final, Protocol

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.relay import tls
from consoles.relay.errors import (
    UpstreamAuthenticationFailed,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamSecurityUnsupported,
    UpstreamTlsError,
)

MAX_REASON_BYTES: Final = 4096

NONE: Final = 1
VNC_AUTH: Final = 2
VENCRYPT: Final = 19
_NAMES: Final = {NONE: "none", VNC_AUTH: "vnc"}

# VeNCrypt subtypes in the order of preference: verified before anonymous, without a password before with one.
_X509_NONE, _X509_VNC, _TLS_NONE, _TLS_VNC = 260, 261, 257, 258
_VENCRYPT_NAMES: Final = {
    _X509_NONE: "x509none",
    _X509_VNC: "x509vnc",
    _TLS_NONE: "tlsnone",
    _TLS_VNC: "tlsvnc",
}


class Stream(Protocol):
    """What the handshake needs of a connection."""

    async def read_exactly(self, count: int) -> bytes:
        """Raises :class:`UpstreamRefused` when the server closes first."""

    def write(self, data: bytes) -> None: ...

    async def start_tls(self, settings: tls.TlsSettings) -> None:
        """Raises :class:`UpstreamTlsError`."""


async def secure(stream: Stream, endpoint: ConsoleEndpoint) -> str:
    """Does the handshake up to and with SecurityResult; the server waits for ClientInit then.

    Returns what was agreed on: ``none``, ``vnc``, ``x509none``, ``x509vnc``, ``tlsnone`` or ``tlsvnc``. Raises
    :class:`UpstreamError` subclasses.
    """
    minor = await _version(stream)
    kind = await _security_type(stream, endpoint, minor)
    name = _NAMES.get(kind, "")
    inner = kind
    if kind == VENCRYPT:
        inner, name = await _vencrypt(stream, endpoint)
    if inner == VNC_AUTH:
        await _vnc_authentication(stream, endpoint.password)
    if inner == VNC_AUTH or kind == VENCRYPT or minor >= 8:
        await _security_result(stream, inner, minor)
    return name


async def _version(stream: Stream) -> int:
    """The minor version of protocol 3 that both sides use: 3, 7 or 8."""
    greeting = await stream.read_exactly(12)
    try:
        if greeting[:4] != b"RFB " or greeting[7:8] != b"." or greeting[11:] != b"\n":
            raise ValueError
        version = int(greeting[4:7]), int(greeting[8:11])
    except ValueError:
        raise UpstreamProtocolError(f"The server greeted with {greeting!r}.") from None
    if version < (3, 3):
        raise UpstreamProtocolError(f"The server speaks RFB {version[0]}.{version[1]}.")
    minor = 8 if version >= (3, 8) else 7 if version == (3, 7) else 3
    stream.write(b"RFB 003.%03d\n" % minor)
    return minor


async def _security_type(stream: Stream, endpoint: ConsoleEndpoint, minor: int) -> int:
    if minor == 3:  # the server decides
        kind = int.from_bytes(await stream.read_exactly(4), "big")
        if kind == 0:
            raise UpstreamRefused(await _reason(stream))
        return _choose([kind], endpoint)
    count = (await stream.read_exactly(1))[0]
    if count == 0:
        raise UpstreamRefused(await _reason(stream))
    kind = _choose(list(await stream.read_exactly(count)), endpoint)
    stream.write(bytes((kind,)))
    return kind


def _choose(offered: list[int], endpoint: ConsoleEndpoint) -> int:
    """The security type to use. With a CA or a pinned certificate nothing less than verified TLS will do."""
    if _tls_demanded(endpoint):
        if VENCRYPT in offered:
            return VENCRYPT
        raise UpstreamTlsError(f"Verified TLS is asked for, but the server offers only the types {offered}.")
    for kind in (VENCRYPT, NONE, VNC_AUTH):
        if kind in offered:
            return kind
    raise UpstreamSecurityUnsupported(f"The server offers only the security types {offered}.")


def _tls_demanded(endpoint: ConsoleEndpoint) -> bool:
    return endpoint.transport is Transport.TCP and bool(endpoint.ca_pem or endpoint.certificate_sha256)


async def _vencrypt(stream: Stream, endpoint: ConsoleEndpoint) -> tuple[int, str]:
    """Negotiates version 0.2 and a subtype, upgrades to TLS; the security type that follows inside, and the name."""
    version = await stream.read_exactly(2)
    if version < b"\0\2":
        raise UpstreamSecurityUnsupported(f"The server speaks VeNCrypt {version[0]}.{version[1]}; 0.2 is needed.")
    stream.write(b"\0\2")
    if (await stream.read_exactly(1)) != b"\0":
        raise UpstreamSecurityUnsupported("The server does not take VeNCrypt 0.2.")
    raw = await stream.read_exactly(4 * (await stream.read_exactly(1))[0])
    offered = [int.from_bytes(raw[i : i + 4], "big") for i in range(0, len(raw), 4)]
    verified = bool(endpoint.ca_pem or endpoint.certificate_sha256)
    usable = (_X509_NONE, _X509_VNC) if verified else (_TLS_NONE, _TLS_VNC)
    chosen = next((kind for kind in usable if kind in offered), None)
    if chosen is None:
        if verified or {_X509_NONE, _X509_VNC} & set(offered):
            why = "none is X.509 with no or a VNC password" if verified else "they need a CA or a pinned certificate"
            raise UpstreamTlsError(f"The server offers the VeNCrypt types {offered}; {why}.")
        raise UpstreamSecurityUnsupported(f"The server offers only the VeNCrypt types {offered}.")
    stream.write(chosen.to_bytes(4, "big"))
    if (await stream.read_exactly(1)) != b"\1":
        raise UpstreamTlsError("The server cannot start TLS.")
    await stream.start_tls(tls.verified(endpoint) if verified else tls.anonymous())
    return VNC_AUTH if chosen in (_X509_VNC, _TLS_VNC) else NONE, _VENCRYPT_NAMES[chosen]


async def _vnc_authentication(stream: Stream, password: str) -> None:
    challenge = await stream.read_exactly(16)
    if not password:
        raise UpstreamAuthenticationFailed("The server asks for a password, but none is known for this VM.")
    stream.write(vnc_response(challenge, password))


def vnc_response(challenge: bytes, password: str) -> bytes:
    """DES of the 16-byte challenge under the password's first 8 bytes, each with its bits reversed (RFC 6143, 7.2.2,
    and erratum 4951)."""
    key = password.encode("latin-1", errors="replace")[:8].ljust(8, b"\0")
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    # Triple DES with three equal keys is DES; ECB is what the protocol prescribes.
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(challenge) + encryptor.finalize()


async def _security_result(stream: Stream, kind: int, minor: int) -> None:
    result = int.from_bytes(await stream.read_exactly(4), "big")
    if result == 0:
        return
    reason = await _reason(stream) if minor >= 8 and result == 1 else f"The server answered with result {result}."
    if kind == VNC_AUTH:
        raise UpstreamAuthenticationFailed(reason)
    raise UpstreamRefused(reason)


async def _reason(stream: Stream) -> str:
    """A failure's text as the server words it; control characters are left out."""
    length = int.from_bytes(await stream.read_exactly(4), "big")
    if length > MAX_REASON_BYTES:
        return f"The server gave a reason of {length} bytes."
    text = (await stream.read_exactly(length)).decode("utf-8", errors="replace")
    return "".join(char for char in text if char.isprintable()) or "The server gave no reason."
