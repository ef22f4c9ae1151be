"""TLS connections to vCenter and ESXi: bounded by a deadline, used only once the certificate is the expected one."""

from __future__ import annotations

import math
import socket
import ssl
import time
from http.client import HTTPSConnection
from typing import Any

from cloudops.hypervisors.bulkhead import Bulkhead
from cloudops.hypervisors.port import TimedOut, Unreachable
from cloudops.hypervisors.vsphere.certificates import Certificate, Trust

KEEPALIVE_SECONDS = 15
"""Idle lines are probed by the kernel this often, so that firewalls do not forget them and dead ones are noticed."""


class DeadlineSocket(ssl.SSLSocket):
    """A TLS socket whose every operation ends by ``deadline`` (monotonic clock), however slowly data drips."""

    deadline: float = math.inf

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        self._bound()
        return super().read(len, buffer)

    def send(self, data: Any, flags: int = 0) -> int:
        self._bound()
        return super().send(data, flags)

    def cut(self) -> None:
        """Wakes whoever reads or writes, from any thread; the reader closes it."""
        try:
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # not ssl's own, which pulls TLS from under the reader
        except OSError:
            return

    def _bound(self) -> None:
        if self.deadline == math.inf:
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self.settimeout(left)


class PinnedConnection(HTTPSConnection):
    """An HTTPS connection that sends nothing before its certificate was found to be the expected one."""

    sock: DeadlineSocket

    def __init__(self, host: str, port: int, *, trust: Trust, deadline: float) -> None:
        super().__init__(host, port)
        self._trust = trust
        self.deadline = deadline

    def connect(self) -> None:
        """Raises CertificateMismatch, TimedOut and Unreachable."""
        self.sock = dial(self.host, self.port, self._trust, self.deadline)


def resolve(host: str, port: int, deadline: float) -> list[tuple[int, tuple[Any, ...]]]:
    """Families and addresses of a name. Raises Unreachable and TimedOut."""
    # The resolver has no timeout of ours and cannot be interrupted: it gets a thread that may be left behind.
    lane = Bulkhead(f"the resolver, asked for {host},", workers=1, waiting=0)
    try:
        found = lane.run(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), timeout_seconds=_left(deadline, host)
        )
    except (OSError, UnicodeError) as error:
        raise Unreachable(
            f"{host}: {getattr(error, 'strerror', None) or error}.",
            remedy="Correct the name in the address, add it to DNS, or use the IP address.",
        ) from error
    finally:
        lane.close()
    return [(family, address) for family, _, _, _, address in found]


def connect(host: str, port: int, deadline: float) -> socket.socket:
    """A TCP connection to the first address that answers. Raises Unreachable and TimedOut."""
    failure = "no address"
    for family, address in resolve(host, port, deadline):
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(_left(deadline, host))
            line.connect(address)
        except TimeoutError as error:
            line.close()
            raise _timed_out(host, port) from error
        except OSError as error:
            line.close()
            failure = f"{address[0]} port {port}: {error.strerror or error}"
        else:
            _keep_alive(line)
            return line
    raise Unreachable(f"{failure}.")


def dial(host: str, port: int, trust: Trust, deadline: float) -> DeadlineSocket:
    """A TLS connection whose certificate ``trust`` accepts. Raises CertificateMismatch, Unreachable and TimedOut."""
    line = connect(host, port, deadline)
    try:
        return _secure(line, host, port, trust, deadline)
    except BaseException:
        line.close()
        raise


def fetch(host: str, port: int, deadline: float) -> Certificate:
    """The certificate that is served now, not judged at all. Raises Unreachable and TimedOut."""
    with dial(host, port, Trust(host, anything=True), deadline) as secure:
        return served(secure)


def served(secure: ssl.SSLSocket) -> Certificate:
    """The certificate of the other side of a connection."""
    return Certificate(secure.getpeercert(binary_form=True) or b"")


def _secure(line: socket.socket, host: str, port: int, trust: Trust, deadline: float) -> DeadlineSocket:
    context = trust.context()
    context.sslsocket_class = DeadlineSocket
    line.settimeout(_left(deadline, host))
    try:
        secure = context.wrap_socket(line, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise trust.untrusted(fetch(host, port, deadline), error.verify_message) from error
    except TimeoutError as error:
        raise _timed_out(host, port) from error
    except OSError as error:  # ssl.SSLError is one
        raise Unreachable(
            f"{host} port {port} does not speak TLS as expected: {error.strerror or error}.",
            remedy="Correct the address and the port; CloudOps speaks HTTPS with vCenter and ESXi.",
        ) from error
    try:
        trust.judge(served(secure))
    except BaseException:
        secure.close()
        raise
    assert isinstance(secure, DeadlineSocket)  # noqa: S101  (what sslsocket_class promises)
    secure.deadline = deadline
    return secure


def _keep_alive(line: socket.socket) -> None:
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)


def _left(deadline: float, host: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut(f"The time allowed for reaching {host} is used up.")
    return left


def _timed_out(host: str, port: int) -> TimedOut:
    return TimedOut(
        f"{host} port {port} did not answer in time.",
        remedy="Check that vCenter or the ESXi host is up and not overloaded, and that no firewall is between.",
    )
