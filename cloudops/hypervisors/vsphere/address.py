"""The address of a vCenter or an ESXi host: ``https://vcenter.example.org[:port]``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from cloudops.hypervisors.port import HypervisorError

DEFAULT_PORT = 443


class InvalidAddress(HypervisorError):
    code = "vsphere-uri"
    title = "The address of vCenter or ESXi is not valid."
    remedy = "Write https://NAME or https://NAME:PORT, with the name or address of vCenter or of the ESXi host."


@dataclass(frozen=True, slots=True)
class Address:
    """``host`` without the brackets of IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORT else f"{host}:{self.port}"


def parse(uri: str) -> Address:
    """Raises InvalidAddress. A path is ignored where it is the one that vSphere itself uses (``/sdk``, ``/ui``)."""
    try:
        parts = urlsplit(uri.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidAddress(f"{uri}: {error}.") from error
    if parts.scheme != "https" or not host:
        raise InvalidAddress(f"{uri!r} is not an https:// address.")
    if parts.username or parts.password:
        raise InvalidAddress("User name and password do not belong into the address.")
    if parts.path.strip("/") not in ("", "sdk", "ui") or parts.query or parts.fragment:
        raise InvalidAddress(f"{parts.path!r} does not belong into the address.")
    return Address(host, port or DEFAULT_PORT)
