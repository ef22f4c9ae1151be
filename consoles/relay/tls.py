"""TLS towards VNC servers: verified by a CA or a pinned certificate, or anonymous where the host has it so."""

from __future__ import annotations

import functools
import hashlib
import hmac
import ssl
from dataclasses import dataclass

from cloudops.hypervisors.port import ConsoleEndpoint
from consoles.relay.errors import UpstreamTlsError


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to make one TLS line. ``pin_sha256``: 64 hexadecimal digits, or empty."""

    context: ssl.SSLContext
    server_hostname: str
    pin_sha256: str = ""

    def check(self, ssl_object: ssl.SSLObject | None) -> None:
        """Compares the certificate with the pin. Raises :class:`UpstreamTlsError`."""
        if not self.pin_sha256:
            return
        certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
        found = hashlib.sha256(certificate or b"").hexdigest()
        if not hmac.compare_digest(found, self.pin_sha256):
            raise UpstreamTlsError(
                f"The certificate's SHA-256 is {found}, pinned is {self.pin_sha256}.",
                numbers={"found_sha256": found, "pinned_sha256": self.pin_sha256},
            )


def verified(endpoint: ConsoleEndpoint, hostname: str = "") -> TlsSettings:
    """By the pinned certificate where there is one, else by the CA and the host's name or address.

    Raises :class:`UpstreamTlsError` when the endpoint has neither, or they cannot be read.
    """
    pin = endpoint.certificate_sha256.replace(":", "").replace(" ", "").lower()
    if pin:
        if len(pin) != 64 or not set(pin) <= set("0123456789abcdef"):
            raise UpstreamTlsError("The pinned SHA-256 is not 64 hexadecimal digits.")
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
