"""Which certificate vCenter or ESXi must present: the one an administrator confirmed, or one that the system trusts.

A pinned certificate is compared whole, on every connection, after the handshake has proved that the other side has its
key and before anything is sent. It needs no authority, and it may have expired: the administrator vouches for it.
pyvmomi's own ``thumbprint`` is not used: it is not looked at when the context verifies, nor when it does not.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass

from cloudops.hypervisors.port import CertificateMismatch

PIN_REMEDY = (
    "If it was replaced on purpose, compare the new fingerprint with the one that vCenter or the host itself shows, "
    "and accept it; otherwise somebody may stand between."
)
CONFIRM_REMEDY = (
    "Compare the fingerprint with the one that vCenter or the host itself shows, and confirm it: only that certificate "
    "is accepted then. Or have the certificate issued by an authority that this server trusts."
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it was served (DER), and its fingerprints as vSphere shows them."""

    der: bytes

    @property
    def sha256(self) -> str:
        return fingerprint(hashlib.sha256(self.der).hexdigest())

    @property
    def sha1(self) -> str:
        return fingerprint(hashlib.sha1(self.der, usedforsecurity=False).hexdigest())


def plain(text: str) -> str:
    """A fingerprint as it is compared: lower case, nothing between the digits."""
    return "".join(text.replace(":", "").split()).lower()


def fingerprint(text: str) -> str:
    """A fingerprint as vSphere shows it: ``AB:CD:…``."""
    digits = plain(text).upper()
    return ":".join(digits[start : start + 2] for start in range(0, len(digits), 2))


@dataclass(frozen=True, slots=True)
class Trust:
    """What is accepted from ``host``. Without a ``pin`` (SHA-256) the system's authorities and the name decide."""

    host: str
    pin: str = ""
    anything: bool = False

    def context(self) -> ssl.SSLContext:
        """For the handshake; a pinned certificate is judged after it by :meth:`judge`."""
        if not self.pin and not self.anything:
            return ssl.create_default_context()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def judge(self, certificate: Certificate) -> None:
        """Raises CertificateMismatch when the served certificate is not the pinned one."""
        if self.anything or not self.pin or plain(certificate.sha256) == plain(self.pin):
            return
        raise CertificateMismatch(
            f"{self.host} presents a certificate with SHA-256 {certificate.sha256} (SHA-1 {certificate.sha1}); "
            f"expected is SHA-256 {fingerprint(self.pin)}.",
            numbers=self._numbers(certificate),
            remedy=PIN_REMEDY,
        )

    def untrusted(self, certificate: Certificate, reason: str) -> CertificateMismatch:
        """For a certificate that is not pinned and not trusted."""
        return CertificateMismatch(
            f"The certificate of {self.host} is not trusted: {reason}. It has SHA-256 {certificate.sha256} (SHA-1 "
            f"{certificate.sha1}).",
            numbers=self._numbers(certificate),
            remedy=CONFIRM_REMEDY,
        )

    def _numbers(self, certificate: Certificate) -> dict[str, object]:
        return {"found": certificate.sha256, "found_sha1": certificate.sha1, "expected": fingerprint(self.pin)}
