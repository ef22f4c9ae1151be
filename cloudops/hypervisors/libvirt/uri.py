"""libvirt connection URIs (libvirt.org/uri.html), as far as the driver serves them."""

from __future__ import annotations

import enum
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cloudops.hypervisors.port import HypervisorError

DEFAULT_PORTS = {"tcp": 16509, "tls": 16514, "ssh": 22}
SOCKET_NAMES = ("libvirt-sock", "virtqemud-sock")


class InvalidUri(HypervisorError):
    code = "libvirt-uri"
    title = "The libvirt URI is not valid."
    remedy = (
        "Write qemu:///system, qemu+unix:///system?socket=PATH, qemu+ssh://USER@HOST/system, qemu+tls://HOST/system "
        "or qemu+tcp://HOST/system."
    )


class Transport(enum.StrEnum):
    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"
    SSH = "ssh"


@dataclass(frozen=True, slots=True)
class LibvirtUri:
    """``path`` is ``/system`` or ``/session``; ``port`` is 0 for unix sockets and for what SSH is configured to use."""

    transport: Transport
    host: str
    port: int
    user: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether libvirt can pass descriptors back to us."""
        return self.transport is Transport.UNIX

    @property
    def driver_uri(self) -> str:
        """The URI without its transport, as the daemon itself knows it."""
        return f"qemu://{self.path}"

    @property
    def from_elsewhere(self) -> str:
        """The URI as another host's libvirt may use it, without what is ours (``pkipath`` and the like); empty for
        unix sockets and loopback addresses."""
        if self.is_local or _is_loopback(self.host):
            return ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port and self.port != DEFAULT_PORTS[self.transport] else ""
        user = f"{self.user}@" if self.user else ""
        return f"qemu+{self.transport}://{user}{host}{port}{self.path}"

    def socket_candidates(self) -> list[Path]:
        """Where the daemon's socket may be, likeliest first: ``socket=``, or what the monolithic and the modular
        daemon use."""
        if "socket" in self.options:
            return [Path(self.options["socket"])]
        if self.path == "/session":
            runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
            return [Path(runtime, "libvirt", name) for name in SOCKET_NAMES]
        return [Path("/run/libvirt", name) for name in SOCKET_NAMES]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_uri(uri: str) -> LibvirtUri:
    """Raises :class:`InvalidUri` with what is wrong."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise InvalidUri(f"{uri!r}: {error}") from error
    scheme, _, named = parts.scheme.partition("+")
    if scheme != "qemu":
        raise InvalidUri(f"{uri!r} does not begin with qemu: only QEMU and KVM hosts are served.")
    transport = named or ("tls" if parts.hostname else "unix")  # as libvirt itself decides
    if transport not in set(Transport):
        raise InvalidUri(f"{uri!r}: transport {transport!r} is not one of {', '.join(Transport)}.")
    if parts.path not in ("/system", "/session"):
        raise InvalidUri(f"{uri!r} must end in /system or /session, not {parts.path!r}.")
    if transport != Transport.UNIX and not parts.hostname:
        raise InvalidUri(f"{uri!r} names no host.")
    return LibvirtUri(
        transport=Transport(transport),
        host=parts.hostname or "",
        port=port or (0 if transport in ("unix", "ssh") else DEFAULT_PORTS[transport]),
        user=parts.username or "",
        path=parts.path,
        options={key: values[-1] for key, values in parse_qs(parts.query).items()},
    )
