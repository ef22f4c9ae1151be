"""The certificate of a vCenter or ESXi: shown to an administrator, confirmed, and demanded from then on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from cloudops.core.errors import Conflict, Invalid
from cloudops.hypervisors.port import CertificateMismatch, Kind, Unreachable
from cloudops.hypervisors.vsphere import dial
from cloudops.hypervisors.vsphere.certificates import fingerprint, plain
from cloudops.inventory.models import Endpoint

SHA256_DIGITS = 64
HTTPS_PORT = 443
_RENEW = "Renew the certificate on vCenter or the host."


class CertificateUnconfirmed(Conflict):
    """``numbers``: ``sha256``, ``sha1``, ``subject``, ``issuer`` and ``expires_at`` of what is served."""

    code = "certificate-unconfirmed"
    title = "Nobody has confirmed the certificate of this management service yet."
    remedy = (
        "Compare the fingerprint with the one that vCenter or the host itself shows, and send it as the certificate's "
        "fingerprint: only that certificate is accepted from then on."
    )


class CertificateChangedAgain(Conflict):
    """``numbers``: those of :class:`CertificateUnconfirmed`, and the fingerprint that was ``asked`` for."""

    code = "certificate-changed-again"
    title = "The management service presents another certificate than the one that was to be accepted."
    remedy = "Compare the fingerprint that it presents now with its own, and accept that one if it is right."


@dataclass(frozen=True, slots=True)
class Served:
    """A certificate as a management service presents it. Fingerprints are as vSphere writes them: ``AB:CD:…``."""

    sha256: str
    sha1: str
    subject: str
    issuer: str
    not_before: datetime
    expires_at: datetime

    @property
    def self_issued(self) -> bool:
        return self.subject == self.issuer

    def as_numbers(self) -> dict[str, Any]:
        """For a refusal."""
        return {
            "sha256": self.sha256,
            "sha1": self.sha1,
            "subject": self.subject,
            "issuer": self.issuer,
            "expires_at": self.expires_at.isoformat(),
        }


def is_demanded(kind: str) -> bool:
    """Whether endpoints of this kind need a confirmed certificate."""
    return kind == Kind.VSPHERE


def served(uri: str, *, timeout_seconds: float) -> Served:
    """What ``uri`` presents now; nothing is sent to it. Blocks for ``timeout_seconds`` at most. Raises
    :class:`HypervisorError`."""
    parts = urlsplit(uri)
    found = dial.fetch(parts.hostname or "", parts.port or HTTPS_PORT, time.monotonic() + timeout_seconds)
    try:
        parsed = x509.load_der_x509_certificate(found.der)
    except ValueError as error:
        raise Unreachable(f"{uri} presents a certificate that cannot be read: {error}.", remedy=_RENEW) from error
    return Served(
        sha256=found.sha256,
        sha1=found.sha1,
        subject=_name(parsed.subject),
        issuer=_name(parsed.issuer),
        not_before=parsed.not_valid_before_utc,
        expires_at=parsed.not_valid_after_utc,
    )


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()


def normal(text: str) -> str:
    """A SHA-256 fingerprint as it is stored, empty for none. Raises :class:`Invalid` naming the field."""
    digits = plain(text)
    if digits and (len(digits) != SHA256_DIGITS or set(digits) - set("0123456789abcdef")):
        message = "This is no SHA-256 fingerprint: it has 64 hexadecimal digits, with colons between them or not."
        raise Invalid(message, fields={"certificate_sha256": [message]})
    return fingerprint(digits)


def same(one: str, other: str) -> bool:
    """Whether two fingerprints are one, however written."""
    return plain(one) == plain(other)


def demand_confirmed(endpoint: Endpoint) -> None:
    """Raises :class:`CertificateUnconfirmed` with what is served when nothing is pinned that must be, and
    :class:`HypervisorError` when that cannot be asked."""
    if is_demanded(endpoint.kind) and not endpoint.certificate_sha256:
        raise unconfirmed(served(endpoint.uri, timeout_seconds=endpoint.timeout_seconds))


def unconfirmed(found: Served) -> CertificateUnconfirmed:
    """The refusal that names what is served."""
    return CertificateUnconfirmed(f"It presents {found.subject}, SHA-256 {found.sha256}.", **found.as_numbers())


def note_offered(endpoint: Endpoint, error: CertificateMismatch, *, now: datetime) -> None:
    """Remembers which certificate came instead of the pinned one, and since when; the first sight of it counts."""
    found = str(error.numbers.get("found", ""))
    known = endpoint.offered_certificate or {}
    if found and not same(found, known.get("sha256", "")):
        sha1 = str(error.numbers.get("found_sha1", ""))
        endpoint.offered_certificate = {"sha256": found, "sha1": sha1, "seen_at": now.isoformat()}
        endpoint.save(update_fields=["offered_certificate"])


def offered(endpoint: Endpoint) -> dict[str, Any] | None:
    """What :func:`note_offered` remembers, ``seen_at`` as a time; None while it presents the accepted certificate."""
    known = endpoint.offered_certificate
    return known | {"seen_at": datetime.fromisoformat(known["seen_at"])} if known else None
