"""Only the certificate that was pinned, or one that the system trusts, is spoken with: on every connection."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudops.hypervisors import registry
from cloudops.hypervisors.port import CertificateMismatch, EndpointSpec, TimedOut, Unreachable
from cloudops.hypervisors.vsphere import dial
from cloudops.hypervisors.vsphere.certificates import Certificate, Trust, fingerprint, plain
from tests.hypervisors.contract import opened
from tests.vsphere.fake import FakeVcenter

SECONDS = 10.0
OTHER = "ab" * 32


@pytest.fixture(params=["127.0.0.2", "127.0.0.1"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[FakeVcenter]:
    """At an address of its own, and at the one that pyvmomi itself never verifies."""
    with FakeVcenter(hosts=1, vms=1, address=request.param) as vcenter:
        yield vcenter


def _soon() -> float:
    return time.monotonic() + SECONDS


def test_fingerprints_are_written_as_vsphere_does_and_compared_as_anybody_does() -> None:
    certificate = Certificate(b"some DER")
    assert certificate.sha256 == fingerprint(hashlib.sha256(b"some DER").hexdigest())
    assert certificate.sha1.count(":") == 19
    assert plain(" AB:cd:EF\n") == "abcdef"
    for written in (certificate.sha256, certificate.sha256.lower(), plain(certificate.sha256)):
        Trust("vc", written).judge(certificate)


def test_the_pinned_certificate_is_spoken_with(anywhere: FakeVcenter) -> None:
    for pin in (anywhere.fingerprint_sha256, fingerprint(anywhere.fingerprint_sha256)):
        with opened(anywhere.spec(certificate_sha256=pin)) as hypervisor:
            assert len(hypervisor.hosts()) == 1


def test_localhost_by_name_is_checked_too() -> None:
    with FakeVcenter(hosts=1, vms=1, address="127.0.0.1") as vcenter:
        uri = f"https://localhost:{vcenter.port}"
        with opened(vcenter.spec(uri=uri)) as hypervisor:
            assert hypervisor.hosts()
        with opened(vcenter.spec(uri=uri, certificate_sha256=OTHER)) as hypervisor, pytest.raises(CertificateMismatch):
            hypervisor.hosts()


def test_another_certificate_is_refused_with_both_fingerprints_and_told_no_password(anywhere: FakeVcenter) -> None:
    with opened(anywhere.spec(certificate_sha256=OTHER)) as hypervisor:
        with pytest.raises(CertificateMismatch) as refused:
            hypervisor.vms()
        with pytest.raises(CertificateMismatch) as again:  # at once: it was tried a moment ago
            hypervisor.vms()
    found = fingerprint(anywhere.fingerprint_sha256)
    for error in (refused.value, again.value):
        assert error.numbers["found"] == found
        assert error.numbers["expected"] == fingerprint(OTHER)
        assert found in str(error)
        assert fingerprint(OTHER) in str(error)
        assert error.remedy
    assert sum(anywhere.service.calls.values()) == 0


def test_without_a_pin_the_systems_authorities_decide(
    anywhere: FakeVcenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(anywhere.spec(certificate_sha256="")) as hypervisor:
        with pytest.raises(CertificateMismatch, match="not trusted") as refused:
            hypervisor.hosts()
        assert refused.value.numbers["found"] == fingerprint(anywhere.fingerprint_sha256)
        assert str(refused.value.numbers["found_sha1"]).count(":") == 19
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(anywhere.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    with opened(anywhere.spec(certificate_sha256="")) as hypervisor:
        assert hypervisor.hosts()
    wrong_name = anywhere.spec(certificate_sha256="", uri=f"https://localhost:{anywhere.port}")
    with opened(wrong_name) as hypervisor, pytest.raises((CertificateMismatch, Unreachable)):
        hypervisor.hosts()


def test_a_certificate_that_is_swapped_is_refused_from_the_next_connection_on(vcenter: FakeVcenter) -> None:
    with opened(vcenter.spec()) as hypervisor:
        assert hypervisor.hosts()
        swapped = vcenter.faults.swap_certificate("vcenter")
        assert hypervisor.vms()  # the same TLS connection, whose other side has not changed
        with pytest.raises(CertificateMismatch):
            hypervisor.hosts()  # whose tags need a new one
        vcenter.faults.down("vcenter")
        vcenter.faults.up("vcenter")
        with contextlib.suppress(Unreachable), pytest.raises(CertificateMismatch):
            hypervisor.vms()  # unless the old connection breaks in the midst of it
        with pytest.raises(CertificateMismatch) as refused:
            hypervisor.hosts()
        assert refused.value.numbers["found"] == fingerprint(swapped)
    with opened(vcenter.spec(certificate_sha256=swapped)) as hypervisor:
        assert hypervisor.hosts()


def test_the_rest_api_is_held_to_the_same_certificate(vcenter: FakeVcenter) -> None:
    connection = dial.PinnedConnection(vcenter.address, vcenter.port, trust=Trust("vc", OTHER), deadline=_soon())
    with pytest.raises(CertificateMismatch):
        connection.request("POST", "/api/session")
    connection.close()
    assert sum(vcenter.service.calls.values()) == 0


def test_what_is_served_can_be_fetched_before_it_is_trusted(vcenter: FakeVcenter) -> None:
    assert plain(dial.fetch(vcenter.address, vcenter.port, _soon()).sha256) == vcenter.fingerprint_sha256


def test_the_test_of_the_way_shows_what_is_served(vcenter: FakeVcenter) -> None:
    for pin, ok in (("", False), (OTHER, False), (vcenter.fingerprint_sha256, True)):
        steps = registry.probe(vcenter.spec(certificate_sha256=pin))
        (step,) = [one for one in steps if one.certificate_sha256]
        assert step.ok is ok
        assert plain(step.certificate_sha256) == vcenter.fingerprint_sha256
        assert step.certificate_sha1.count(":") == 19
        assert ok or (step is steps[-1] and step.remedy)


class _Server:
    """Accepts one line and does with it as it is told."""

    def __init__(self, says: bytes | None) -> None:
        self._says = says
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lines: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            line, _ = self._listener.accept()
        except OSError:
            return
        self._lines.append(line)
        if self._says is not None:
            line.recv(100)
            line.sendall(self._says)
            line.close()

    def close(self) -> None:
        self._listener.close()
        for line in self._lines:
            line.close()


def test_what_speaks_no_tls_is_named_so() -> None:
    server = _Server(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    try:
        with pytest.raises(Unreachable, match="does not speak TLS") as refused:
            dial.dial("127.0.0.1", server.port, Trust("x"), _soon())
        assert "port" in refused.value.remedy
    finally:
        server.close()


def test_who_accepts_and_never_speaks_is_given_up_in_time() -> None:
    server = _Server(None)
    began = time.monotonic()
    try:
        with pytest.raises(TimedOut):
            dial.dial("127.0.0.1", server.port, Trust("x", OTHER), time.monotonic() + 0.5)
    finally:
        server.close()
    assert time.monotonic() - began < 5


def test_nobody_there_and_no_such_name() -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(Unreachable, match="refused"):
        dial.connect("127.0.0.1", port, _soon())
    with pytest.raises(Unreachable):
        dial.resolve("no-such-name.invalid", 443, _soon())


def test_a_dripping_answer_does_not_outlast_the_deadline(vcenter: FakeVcenter) -> None:
    """Each byte may come in time; all of them together may not take longer than allowed."""
    with dial.dial(vcenter.address, vcenter.port, Trust("vc", vcenter.fingerprint_sha256), _soon()) as line:
        line.deadline = time.monotonic() - 1
        with pytest.raises(TimeoutError):
            line.recv(1)
        with pytest.raises(TimeoutError):
            line.sendall(b"GET / HTTP/1.1\r\n")


def test_a_pinned_context_verifies_nothing_else_and_an_unpinned_one_everything() -> None:
    assert Trust("vc", OTHER).context().verify_mode is ssl.CERT_NONE
    unpinned = Trust("vc").context()
    assert unpinned.verify_mode is ssl.CERT_REQUIRED
    assert unpinned.check_hostname


def test_the_secret_is_in_no_words(vcenter: FakeVcenter) -> None:
    spec: EndpointSpec = replace(vcenter.spec(certificate_sha256=OTHER), secret="hush-hush")
    words = " ".join(f"{step.detail} {step.remedy}" for step in registry.probe(spec)) + repr(spec)
    assert "hush" not in words
