"""TLS towards VNC servers: verified by a CA or a pinned certificate, or anonymous where the host has it so."""

from __future__ import annotations

import functools
import hashlib
import hmac
import ssl
from dataclasses import dataclass
from typing import Final

from cloudops.hypervisors.port import ConsoleEndpoint
from consoles.relay.errors import UpstreamCertificateChanged, UpstreamTlsError


@dataclass(frozen=True, slots=True)
class Pin:
    """The fingerprint that a certificate must have: ``algorithm`` as hashlib names it, ``digits`` in lower case."""

    algorithm: str
    digits: str

    @classmethod
    def read(cls, algorithm: str, text: str) -> Pin | None:
        """From hexadecimal digits with or without colons; None for an empty text. Raises :class:`UpstreamTlsError`."""
        digits = text.replace(":", "").replace(" ", "").lower()
        if not digits:
            return None
        size = 2 * hashlib.new(algorithm).digest_size
        if len(digits) != size or not set(digits) <= set("0123456789abcdef"):
            raise UpstreamTlsError(f"The pinned {_NAMES[algorithm]} is not {size} hexadecimal digits.")
        return cls(algorithm, digits)

    def check(self, certificate: bytes) -> None:
        """Compares with a certificate (DER). Raises :class:`UpstreamCertificateChanged`."""
        found = hashlib.new(self.algorithm, certificate).hexdigest()
        if not hmac.compare_digest(found, self.digits):
            raise UpstreamCertificateChanged(
                f"The certificate's {_NAMES[self.algorithm]} is {found}, pinned is {self.digits}.",
                numbers={f"found_{self.algorithm}": found, f"pinned_{self.algorithm}": self.digits},
            )


_NAMES: Final = {"sha256": "SHA-256", "sha1": "SHA-1"}


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to make one TLS line."""

    context: ssl.SSLContext
    server_hostname: str
    pin: Pin | None = None

    def check(self, ssl_object: ssl.SSLObject | None) -> None:
        """Compares the certificate with the pin. Raises :class:`UpstreamCertificateChanged`."""
        if self.pin is not None:
            certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
            self.pin.check(certificate or b"")


def verified(endpoint: ConsoleEndpoint, hostname: str = "") -> TlsSettings:
    """By the pinned certificate where there is one, else by the CA and the host's name or address.

    Of two pins the SHA-256 counts: SHA-1 is for platforms that tell no better. Raises :class:`UpstreamTlsError` when
    the endpoint has nothing to verify by, or it cannot be read.
    """
    pin = Pin.read("sha256", endpoint.certificate_sha256) or Pin.read("sha1", endpoint.certificate_sha1)
    if pin is not None:
        return TlsSettings(_pinned_context(), hostname or endpoint.host, pin)
    if not endpoint.ca_pem:
        raise UpstreamTlsError("Neither a CA nor a pinned certificate is set for this host.")
    try:
        return TlsSettings(_ca_context(endpoint.ca_pem), hostname or endpoint.host)
    except (ssl.SSLError, ValueError) as error:
        raise UpstreamTlsError(f"The CA certificate cannot be read: {error}") from None


def anonymous() -> TlsSettings:
    """Encrypted, but the server is not verified: VeNCrypt's "TLS" types (anonymous Diffie-Hellman, TLS 1.2)."""
    return TlsSettings(_anonymous_context(), "")


def error_text(error: BaseException) -> str:
    """What went wrong, in OpenSSL's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate was not accepted: {error.verify_message}"
    return str(error) or type(error).__name__


@functools.lru_cache(maxsize=64)
def _ca_context(ca_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    return context


@functools.lru_cache(maxsize=1)
def _pinned_context() -> ssl.SSLContext:
    """Self-made certificates are fine: the pin decides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.lru_cache(maxsize=1)
def _anonymous_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # TLS 1.3 has no anonymous key exchange
    context.set_ciphers("ADH:AECDH:@SECLEVEL=0")
    return context
