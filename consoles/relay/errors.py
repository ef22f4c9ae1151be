"""Typed errors of the relay: each has a stable code, a plain title, a remedy and the reason a console ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from consoles.reasons import ClosedReason


class UpstreamError(Exception):
    """A VM's VNC server could not be used. ``detail`` holds its own words and numbers."""

    code: ClassVar[str] = "console-upstream"
    title: ClassVar[str] = "The VM's display cannot be used."
    remedy: ClassVar[str] = "Look at the detail and at the hypervisor's own log."
    closed_reason: ClassVar[ClosedReason] = ClosedReason.GUEST_UNREACHABLE

    def __init__(self, detail: str = "", *, numbers: Mapping[str, object] | None = None):
        super().__init__(detail or self.title)
        self.detail = detail
        self.numbers = dict(numbers or {})


class UpstreamUnreachable(UpstreamError):
    code = "console-unreachable"
    title = "The VM's display cannot be reached."
    remedy = (
        "Check that the VM is running, that its display listens on an address this server can reach (management "
        "address, not only 127.0.0.1), and that no firewall blocks ports 5900-6923."
    )


class UpstreamTimedOut(UpstreamUnreachable):
    code = "console-timeout"
    title = "The VM's display did not answer in time."
    remedy = "The host or the VM's QEMU process may be frozen or overloaded. Look at the host's load and log."


class UpstreamRefused(UpstreamError):
    code = "console-refused"
    title = "The VM's display refused the connection."
    remedy = "Look at the detail: the display may be locked, or it has too many connections or failed log-ins."
    closed_reason = ClosedReason.GUEST_REFUSED


class UpstreamAuthenticationFailed(UpstreamRefused):
    code = "console-authentication"
    title = "The VM's display refused the password."
    remedy = "The VNC password of the VM changed or has expired; set it again on the hypervisor."


class UpstreamProtocolError(UpstreamError):
    code = "console-protocol"
    title = "The VM's display does not speak a version of RFB that is supported."
    remedy = "Check that the port belongs to a VNC server (RFB 3.3, 3.7 or 3.8) and not to another service."
    closed_reason = ClosedReason.GUEST_REFUSED


class UpstreamSecurityUnsupported(UpstreamProtocolError):
    code = "console-security"
    title = "The VM's display asks for a kind of authentication that is not supported."
    remedy = "Use none, a VNC password, or VeNCrypt with X.509 or anonymous TLS for the VM's display."


class UpstreamTlsError(UpstreamError):
    code = "console-tls"
    title = "The encrypted line to the VM's display could not be made."
    remedy = (
        "Give the CA that signed the host's VNC certificate, or pin the certificate's SHA-256; the certificate must "
        "be valid now and, with a CA, name the address that is used."
    )
    closed_reason = ClosedReason.GUEST_REFUSED


class UpstreamCertificateChanged(UpstreamTlsError):
    code = "console-certificate"
    title = "The host's certificate is not the one that is expected there."
    remedy = (
        "Nothing was sent to it. Compare the host's certificate with what the detail says. If it was renewed, let the "
        "management service learn it (vSphere: reconnect the host) or pin its SHA-256; if not, find out who answers."
    )
    closed_reason = ClosedReason.GUEST_CERTIFICATE


class UpstreamTicketRefused(UpstreamRefused):
    code = "console-ticket"
    title = "The host did not take the ticket for this console."
    remedy = "Open the console again: a ticket is good for one connection and for a short time only."
    closed_reason = ClosedReason.TICKET_REFUSED
