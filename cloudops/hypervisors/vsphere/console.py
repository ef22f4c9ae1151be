"""Where a VM's console is: a ticket for one WebSocket to its ESXi host, pinned to that host's certificate."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pyVmomi import vim

from cloudops.hypervisors.port import ConsoleEndpoint, HypervisorError, Transport, Unreachable
from cloudops.hypervisors.vsphere import properties
from cloudops.hypervisors.vsphere.certificates import Certificate, plain
from cloudops.hypervisors.vsphere.dial import resolve
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import Found

DEFAULT_PORT: Final = 443
RESOLVE_SECONDS: Final = 2.0
MANAGEMENT: Final = "management"
_ROLES: Final = "config.virtualNicManagerInfo.netConfig"
_CARDS: Final = "config.network.vnic"


def endpoint(link: Link, found: Found) -> ConsoleEndpoint:
    """A ticket (``AcquireTicket``) for one connection, to be used at once. The VM runs and its host is reached.

    Raises ConsoleLimitReached, and Unreachable when no name or address of the host leads anywhere from here.
    """
    ticket = found.vm.AcquireTicket("webmks")
    host = _reachable_name(link, found, ticket.host or "")
    bracketed = f"[{host}]" if ":" in host else host
    sha256, sha1 = _pins(ticket)
    return ConsoleEndpoint(
        Transport.WSS,
        url=f"wss://{bracketed}:{ticket.port or DEFAULT_PORT}/ticket/{ticket.ticket}",
        certificate_sha256=sha256,
        certificate_sha1=sha1,
    )


def _pins(ticket: vim.VirtualMachine.Ticket) -> tuple[str, str]:
    """SHA-256 and SHA-1 of the certificate that the host will show, each empty where nothing tells it.

    ``certThumbprintList`` came with 7.0.3.1, ``sslCertificate`` with 9.0; older ones tell the SHA-1 only.
    """
    by_size: dict[int, str] = {}
    for one in ticket.certThumbprintList or ():
        by_size.setdefault(len(plain(one.thumbprint or "")), plain(one.thumbprint or ""))
    sha1 = plain(ticket.sslThumbprint or "") or by_size.get(40, "")
    return by_size.get(64, "") or _sha256_of(ticket.sslCertificate or ""), sha1


def _sha256_of(pem: str) -> str:
    try:
        return plain(Certificate(ssl.PEM_cert_to_DER_cert(pem.strip())).sha256) if pem.strip() else ""
    except ValueError:
        return ""


def _reachable_name(link: Link, found: Found, named: str) -> str:
    """What the ticket calls the host, if that leads anywhere from here, else another name or address of it."""
    tried: list[str] = []
    for name in _names(link, found, named):
        if name in tried:
            continue
        tried.append(name)
        if _resolves(link, name):
            return name
    raise Unreachable(
        f"None of the names of {found.host_name or 'the host'} leads to an address from here: {', '.join(tried)}.",
        remedy="Make the ESXi host's name known to the DNS that CloudOps' servers use, or give the host a management "
        "network card in vCenter.",
    )


def _names(link: Link, found: Found, named: str) -> Iterator[str]:
    """In the order of trust. A host by itself names none in its tickets: it is where we are connected."""
    if named:
        yield named
    if not link.is_vcenter:
        yield link.address
        return
    if found.host_name:
        yield found.host_name
    yield from _management_addresses(link, found)


def _management_addresses(link: Link, found: Found) -> Iterator[str]:
    """Of the network cards that the host uses for management (``HostVirtualNicManagerInfo``), then of its first."""
    if found.host is None:
        return
    values = properties.read(link, found.host, (_ROLES, _CARDS))
    for group in values.get(_ROLES) or ():
        if group.nicType == MANAGEMENT:
            chosen = set(group.selectedVnic or ())
            yield from _addresses(card for card in group.candidateVnic or () if card.key in chosen)
    yield from _addresses(list(values.get(_CARDS) or ())[:1])


def _addresses(cards: Iterable[Any]) -> Iterator[str]:
    for card in cards:
        if card.spec and card.spec.ip and card.spec.ip.ipAddress:
            yield card.spec.ip.ipAddress


def _resolves(link: Link, name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        try:
            return bool(resolve(name, DEFAULT_PORT, min(link.deadline, time.monotonic() + RESOLVE_SECONDS)))
        except HypervisorError:
            return False
    return True
