""" "Test connection" for vCenter or ESXi: every step of the way, timed and in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pyVmomi import vim

from cloudops.hypervisors.port import CertificateMismatch, HypervisorError, ProbeStep
from cloudops.hypervisors.vsphere import dial, permissions
from cloudops.hypervisors.vsphere.certificates import Certificate
from cloudops.hypervisors.vsphere.errors import typed
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.properties import collect
from cloudops.hypervisors.vsphere.session import Session


def probe(session: Session) -> Sequence[ProbeStep]:
    """Stops at the first step that fails; never raises."""
    steps: list[ProbeStep] = []
    deadline = time.monotonic() + session.spec.timeout_seconds
    try:
        link = session.fresh(deadline)
    except HypervisorError as error:
        return [ProbeStep("Connect", ok=False, detail=str(error), remedy=error.remedy)]
    try:
        for name, action in _actions(session, link, deadline):
            steps.append(_timed(name, action))
            if not steps[-1].ok:
                break
    finally:
        if steps and steps[-1].ok:
            session.release(link)  # so that it is there for logging out
        else:
            session.discard(link)
    return steps


def _actions(session: Session, link: Link, deadline: float) -> Sequence[tuple[str, Callable[[], str | Certificate]]]:
    host, port = session.address.host, session.address.port

    def reach() -> str:
        with dial.connect(host, port, deadline) as line:
            return f"{line.getpeername()[0]} port {port} answers"

    def certificate() -> Certificate:
        with dial.dial(host, port, session.trust, deadline) as secure:
            return dial.served(secure)

    def versions() -> str:
        link.use(link.negotiate())
        about = link.content.about
        return f"{about.fullName}, API {about.apiVersion}"

    def log_in() -> str:
        session.log_in(link)
        return f"as {session.spec.username}"

    return [
        ("Find and reach the server", reach),
        ("Check its certificate", certificate),
        ("Agree on a version of the API", versions),
        ("Log in", log_in),
        ("Look at the account's privileges", lambda: permissions.report(link)),
        ("Read hosts and VMs", lambda: _inventory(link)),
    ]


def _timed(name: str, action: Callable[[], str | Certificate]) -> ProbeStep:
    began = time.monotonic()
    sha256 = sha1 = ""
    try:
        detail, remedy, ok = action(), "", True
        if isinstance(detail, Certificate):
            sha256, sha1 = detail.sha256, detail.sha1
            detail = f"it is the expected one, SHA-256 {sha256}"
    except Exception as error:  # typed, or raised again: a defect of ours
        failure = typed(error)
        detail, remedy, ok = str(failure), failure.remedy, False
        if isinstance(failure, CertificateMismatch):
            sha256, sha1 = str(failure.numbers["found"]), str(failure.numbers["found_sha1"])
    elapsed_ms = (time.monotonic() - began) * 1000
    return ProbeStep(name, ok, detail, remedy, elapsed_ms, sha256, sha1)


def _inventory(link: Link) -> str:
    rows = collect(link, {vim.HostSystem: ("name",), vim.VirtualMachine: ("name",)})
    hosts = [row for row in rows if isinstance(row.obj, vim.HostSystem)]
    if not hosts:
        raise HypervisorError(
            "This account sees no host.",
            remedy="Give it the role on the datacenter or the root folder, with propagation.",
        )
    return f"{len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}, {len(rows) - len(hosts)} VMs"
