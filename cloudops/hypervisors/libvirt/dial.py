"""Connects to a libvirt daemon: unix socket, TCP, TLS or SSH, in stages that a person can be told about."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shlex
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cloudops.hypervisors.bulkhead import Bulkhead
from cloudops.hypervisors.libvirt.uri import LibvirtUri, Transport
from cloudops.hypervisors.port import AuthenticationFailed, CertificateMismatch, HypervisorError, TimedOut, Unreachable

CLIENT_CERTIFICATE = Path("/etc/pki/libvirt/clientcert.pem")
CLIENT_KEY = Path("/etc/pki/libvirt/private/clientkey.pem")
CA_CERTIFICATE = Path("/etc/pki/CA/cacert.pem")
GROUP_REMEDY = "Add the user CloudOps runs as to the group that may use the socket (usually libvirt)."
DAEMON_REMEDY = "Start libvirt on the host (systemctl start libvirtd), or correct the path in the URI."


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: ``action`` returns what was found, or raises a HypervisorError whose remedy fits."""

    name: str
    action: Callable[[], str]


class Dialer:
    """One attempt. Run :attr:`stages` in order; then :attr:`upstream` is a connected socket and the caller's."""

    def __init__(self, uri: LibvirtUri, *, certificate_sha256: str) -> None:
        self.upstream: socket.socket | None = None
        self.deadline = math.inf
        """When a stage must have ended, on the monotonic clock."""
        self._uri = uri
        self._pin = certificate_sha256.replace(":", "").lower()
        self._addresses: list[tuple[int, tuple[Any, ...]]] = []
        self._path = Path()
        self._ssh: subprocess.Popen[bytes] | None = None
        self._ssh_words: IO[bytes] | None = None

    @property
    def stages(self) -> Sequence[Stage]:
        match self._uri.transport:
            case Transport.UNIX:
                return [Stage("Find the socket", self._find_socket), Stage("Connect", self._connect_unix)]
            case Transport.SSH:
                return [Stage("Start SSH", self._start_ssh)]
            case Transport.TCP:
                return [Stage("Resolve the name", self._resolve), Stage("Connect", self._connect_tcp)]
            case Transport.TLS:
                return [
                    Stage("Resolve the name", self._resolve),
                    Stage("Connect", self._connect_tcp),
                    Stage("Agree on TLS", self._start_tls),
                ]

    def close(self) -> None:
        """Lets go of what is left: the socket unless it was taken, and SSH."""
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None
        if self._ssh is not None:
            self._ssh.kill()
            self._ssh.wait()
        if self._ssh_words is not None:
            self._ssh_words.close()
            self._ssh_words = None

    def transport_failure(self) -> HypervisorError | None:
        """What SSH says, when it has ended with an error; nothing for the other transports."""
        if self._ssh is None or self._ssh_words is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.wait(0.5)  # its last words come a moment after the line is down
        if not self._ssh.poll():
            return None
        self._ssh_words.seek(0)
        words = self._ssh_words.read(4000).decode(errors="replace").strip()
        return _ssh_error(words, f"ssh ended with exit code {self._ssh.returncode}")

    def _remaining(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimedOut("The time allowed for connecting is used up.")
        return left

    def _find_socket(self) -> str:
        candidates = self._uri.socket_candidates()
        for path in candidates:
            try:
                found = path.exists()
            except PermissionError as error:
                raise AuthenticationFailed(f"{path}: {error.strerror}.", remedy=GROUP_REMEDY) from error
            if found:
                self._path = path
                return str(path)
        raise Unreachable(f"No socket at {' or '.join(map(str, candidates))}.", remedy=DAEMON_REMEDY)

    def _connect_unix(self) -> str:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(self._remaining())
            line.connect(str(self._path))
        except PermissionError as error:
            line.close()
            raise AuthenticationFailed(f"{self._path}: {error.strerror}.", remedy=GROUP_REMEDY) from error
        except OSError as error:
            line.close()
            raise Unreachable(f"{self._path}: {error.strerror or error}.", remedy=DAEMON_REMEDY) from error
        self.upstream = line
        return f"connected to {self._path}"

    def _resolve(self) -> str:
        # The resolver has no timeout of ours and cannot be interrupted: it gets a thread that may be left behind.
        lane = Bulkhead(f"the resolver, asked for {self._uri.host},", workers=1, waiting=0)
        try:
            found = lane.run(
                lambda: socket.getaddrinfo(self._uri.host, self._uri.port, type=socket.SOCK_STREAM),
                timeout_seconds=self._remaining(),
            )
        except (OSError, UnicodeError) as error:
            raise Unreachable(
                f"{self._uri.host}: {getattr(error, 'strerror', None) or error}.",
                remedy="Correct the host's name in the URI, add it to DNS, or use its address.",
            ) from error
        finally:
            lane.close()
        self._addresses = [(family, address) for family, _, _, _, address in found]
        return ", ".join(dict.fromkeys(str(address[0]) for _, address in self._addresses))

    def _connect_tcp(self) -> str:
        problems = []
        for number, (family, address) in enumerate(self._addresses):
            line = socket.socket(family, socket.SOCK_STREAM)
            try:
                # An address that does not answer leaves time for the others.
                line.settimeout(self._remaining() / (len(self._addresses) - number))
                line.connect(address)
            except TimeoutError:
                line.close()
                problems.append(f"{address[0]} port {address[1]}: no answer in time")
            except OSError as error:
                line.close()
                problems.append(f"{address[0]} port {address[1]}: {error.strerror or error}")
            else:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.upstream = line
                return f"connected to {address[0]} port {address[1]}"
        kind = TimedOut if all("no answer" in problem for problem in problems) else Unreachable
        raise kind("; ".join(problems) + ".", remedy=self._listen_remedy())

    def _listen_remedy(self) -> str:
        unit = f"libvirtd-{self._uri.transport}.socket"
        return (
            f"Check that the host is up and that libvirt listens there (systemctl enable --now {unit}), "
            f"and open port {self._uri.port} in the firewall for this server."
        )

    def _start_tls(self) -> str:
        if self.upstream is None:
            raise Unreachable("There is no connection to start TLS on.")
        context = self._tls_context()
        try:
            self.upstream.settimeout(self._remaining())
            secure = context.wrap_socket(self.upstream, server_hostname=self._uri.host)
            self.upstream = secure
            self._check_pin(secure)
            # libvirtd sends one byte once it has accepted the client's certificate (virnettlscontext.c).
            accepted = secure.recv(1) == b"\1"
        except ssl.SSLCertVerificationError as error:
            raise CertificateMismatch(f"{self._uri.host}: {error.verify_message}.") from error
        except TimeoutError as error:
            raise TimedOut(f"{self._uri.host} did not answer the TLS handshake in time.") from error
        except OSError as error:
            raise AuthenticationFailed(f"TLS with {self._uri.host}: {error}.", remedy=_CLIENT_REMEDY) from error
        if not accepted:
            raise AuthenticationFailed(f"{self._uri.host} refused our client certificate.", remedy=_CLIENT_REMEDY)
        return f"{secure.version()}, the host's certificate is the expected one"

    def _tls_context(self) -> ssl.SSLContext:
        options = self._uri.options
        folder = Path(options["pkipath"]) if "pkipath" in options else None
        authority = folder / "cacert.pem" if folder else CA_CERTIFICATE
        certificate = folder / "clientcert.pem" if folder else CLIENT_CERTIFICATE
        key = folder / "clientkey.pem" if folder else CLIENT_KEY
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self._pin or options.get("no_verify", "0") != "0":  # a pinned certificate needs no authority
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            else:
                context.load_verify_locations(authority)
            if certificate.exists():
                context.load_cert_chain(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise AuthenticationFailed(
                f"{error.filename or authority}: {error.strerror or error}.",
                remedy=f"Put the authority's certificate at {authority}, ours at {certificate} and its key at {key}.",
            ) from error
        return context

    def _check_pin(self, line: ssl.SSLSocket) -> None:
        found = hashlib.sha256(line.getpeercert(binary_form=True) or b"").hexdigest()
        if self._pin and found != self._pin:
            raise CertificateMismatch(
                f"The certificate of {self._uri.host} has SHA-256 {found}, expected {self._pin}.",
                numbers={"found": found, "expected": self._pin},
            )

    def _start_ssh(self) -> str:
        ours, theirs = socket.socketpair()
        self._ssh_words = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as ssh; close() closes it)
        try:
            with theirs:
                self._ssh = subprocess.Popen(
                    ssh_command(self._uri, self._remaining()),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._ssh_words,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            ours.close()
            raise Unreachable("There is no ssh program on this server.", remedy="Install openssh-client.") from error
        self.upstream = ours
        return f"to {self._uri.host}" + (f" as {self._uri.user}" if self._uri.user else "")


_CLIENT_REMEDY = (
    "Install a client certificate that the host's authority has signed (pkipath= in the URI names its folder), "
    "and list it in tls_allowed_dn_list if the host has one."
)


def ssh_command(uri: LibvirtUri, connect_seconds: float) -> list[str]:
    """The ssh call that carries libvirt's protocol on its standard input and output, as libvirt itself makes it."""
    command = ["ssh", "-T", "-e", "none", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(1, int(connect_seconds))}"]
    if uri.port:
        command += ["-p", str(uri.port)]
    if uri.user:
        command += ["-l", uri.user]
    if "keyfile" in uri.options:
        command += ["-i", uri.options["keyfile"]]
    if "known_hosts" in uri.options:
        command += ["-o", f"UserKnownHostsFile={uri.options['known_hosts']}"]
    if uri.options.get("no_verify", "0") != "0":
        command += ["-o", "StrictHostKeyChecking=no"]
    sockets = [str(path) for path in uri.socket_candidates()]
    through_netcat = "; ".join(f"test -S {shlex.quote(path)} && exec nc -U {shlex.quote(path)}" for path in sockets)
    through_helper = f"exec virt-ssh-helper {shlex.quote(uri.driver_uri)}"
    if "socket" in uri.options:
        through_helper = through_netcat
    script = f"if command -v virt-ssh-helper >/dev/null 2>&1; then {through_helper}; else {through_netcat}; fi"
    return [*command, "--", uri.host, f"sh -c {shlex.quote(script)}"]


def _ssh_error(words: str, otherwise: str) -> HypervisorError:
    detail = words or otherwise
    if "Permission denied" in words:
        return AuthenticationFailed(
            detail, remedy="Put this server's public key into the user's authorized_keys on the host, or set keyfile=."
        )
    if "Host key verification failed" in words:
        return CertificateMismatch(
            detail, remedy="Log in to the host once by hand from this server and compare the key, or set known_hosts=."
        )
    return Unreachable(detail)
