"""Self-signed server certificates, as an ESXi host or a vCenter makes one for itself."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificate:
    """One address' certificate: ``renew`` swaps it for connections that come after."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self._folder = folder
        self._name = name
        self._address = address
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.der = b""
        self.renew()

    def renew(self) -> None:
        """A new key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(self._address))]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        both = self._folder / f"{self._name}.pem"
        both.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self.context.load_cert_chain(both)

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.der)

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal without colons, as the product keeps it."""
        return hashlib.sha256(self.der).hexdigest()

    def thumbprint(self, algorithm: str) -> str:
        """As vSphere writes it: upper-case hexadecimal pairs with colons."""
        digest = hashlib.new(algorithm, self.der).hexdigest().upper()
        return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))
