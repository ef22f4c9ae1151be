"""Trying a management endpoint: is its URI sound, does the host answer, can its guests' VNC servers be reached."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings

from cloudops.core.errors import Invalid, Refusal
from cloudops.core.validation import demand_valid
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import (
    ConsoleEndpoint,
    HostFacts,
    HypervisorError,
    Kind,
    PowerState,
    ProbeStep,
    Transport,
    VmFacts,
)
from cloudops.hypervisors.vsphere import address
from cloudops.inventory import endpoints
from cloudops.inventory.certificates import Served, is_demanded, normal, same, served, unconfirmed
from cloudops.inventory.models import Endpoint, Host

VNC_SECONDS = 3.0
STEP_READ = "Read hosts and VMs"
STEP_VNC = "Reach a guest's console"
STEP_CERTIFICATE = "Confirm the certificate"
_LIBVIRT_TRANSPORTS = {"unix", "tcp", "tls", "ssh"}
# What a libvirt URI may carry. Not among them: `command`, `netcat` and `proxy`, which run programs on this server.
_LIBVIRT_OPTIONS = {
    "socket", "mode", "pkipath", "no_verify", "tls_priority", "keyfile", "known_hosts", "known_hosts_verify", "no_tty",
}  # fmt: skip
_EXAMPLES = {
    Kind.LIBVIRT: "qemu+tls://kvm1.example.org/system",
    Kind.VSPHERE: "https://vcenter.example.org",
    Kind.SIMULATED: "simulated://demo?hosts=10&vms=20",
}
_CONFIRM_REMEDY = "Compare the fingerprint with the one that vCenter or the host itself shows, and confirm it."
_WSS_REMEDY = (
    "Consoles of ESXi guests come from the ESXi host itself: let the management servers reach TCP port 443 of every "
    "ESXi host, and resolve its name."
)
_VNC_REMEDY = (
    "Let guests' VNC servers listen on 0.0.0.0 (vnc_listen in qemu.conf, or `listen` in the VM's graphics element), "
    "open ports 5900 and up for the management servers only, and check the management address."
)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What "test connection" found: every step, and what is there when the endpoint could be read."""

    ok: bool
    steps: tuple[ProbeStep, ...]
    hosts: tuple[HostFacts, ...] = ()
    vm_count: int = 0
    certificate: Served | None = None
    pinned_sha256: str = ""

    @property
    def unconfirmed(self) -> bool:
        """Whether nothing was sent because nobody has confirmed the certificate yet."""
        return self.certificate is not None and not self.pinned_sha256

    @property
    def mismatch(self) -> bool:
        """Whether another certificate is presented than the confirmed one."""
        found = self.certificate
        return found is not None and bool(self.pinned_sha256) and not same(found.sha256, self.pinned_sha256)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"unconfirmed": self.unconfirmed, "mismatch": self.mismatch}


def endpoint_of(
    *, kind: str, uri: str, username: str, secret_encrypted: str, certificate_sha256: str, timeout_seconds: int
) -> Endpoint:
    """An endpoint that is not saved. Raises :class:`Invalid` for a URI that its kind cannot have."""
    endpoint = Endpoint(
        kind=kind,
        uri=plain_uri(kind, uri),
        username=username.strip(),
        secret_encrypted=secret_encrypted,
        certificate_sha256=normal(certificate_sha256),
        timeout_seconds=timeout_seconds,
    )
    demand_valid(endpoint, exclude={"uri"} if endpoint.uri else ())
    demand_sound_uri(kind, endpoint.uri)
    return endpoint


def demand_sound_uri(kind: str, uri: str) -> None:
    """Raises :class:`Invalid`, with an example, unless ``uri`` is one that ``kind`` may have."""
    if message := _objection(Kind(kind), uri):
        fields = {"uri": [f"{message} Example: {_EXAMPLES[Kind(kind)]}"]}
        raise Invalid(f"The URI is not right: {message}", fields=fields)


def demand_sound_migration_uri(kind: str, uri: str) -> None:
    """Raises :class:`Invalid` unless ``uri`` is empty, or one at which other hosts of this kind can reach a host."""
    if not uri:
        return
    message = _objection(Kind(kind), uri)
    if not message and kind == Kind.LIBVIRT and not urlsplit(uri).hostname:
        message = "Other hosts cannot reach a unix socket: it must name the host."
    if message:
        fields = {"migration_uri": [f"{message} Example: {_EXAMPLES[Kind(kind)]}"]}
        raise Invalid(f"The migration URI is not right: {message}", fields=fields)


def _objection(kind: Kind, uri: str) -> str:
    if len(uri) > 500 or not uri.isprintable() or " " in uri:
        return "It has characters that a URI cannot have, or more than 500."
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return "It cannot be understood."
    if parts.password is not None:
        return "It holds a password. Put that into the password field, where it is encrypted."
    scheme, _, transport = parts.scheme.partition("+")
    if kind is Kind.SIMULATED:
        if scheme != "simulated" or transport:
            return "It must begin with simulated://."
        return _simulated_objection(parts.query)
    if kind is Kind.VSPHERE:
        return _vsphere_objection(uri)
    if scheme != "qemu" or (transport and transport not in _LIBVIRT_TRANSPORTS):
        return "It must begin with qemu+unix, qemu+tcp, qemu+tls or qemu+ssh."
    if transport in {"tcp", "tls", "ssh"} and not parts.hostname:
        return "It names no host."
    if unknown := sorted(set(parse_qs(parts.query, keep_blank_values=True)) - _LIBVIRT_OPTIONS):
        return f"The option “{unknown[0]}” is not allowed."
    return ""


def _vsphere_objection(uri: str) -> str:
    try:
        address.parse(uri)
    except address.InvalidAddress as error:
        return f"It must be https://HOST or https://HOST:PORT. {error.detail}"
    return ""


def plain_uri(kind: str, uri: str) -> str:
    """The URI as it is stored: of a vCenter or ESXi without the paths that people copy along, such as ``/ui``."""
    if kind != Kind.VSPHERE:
        return uri.strip()
    try:
        return f"https://{address.parse(uri)}"
    except address.InvalidAddress:
        return uri.strip()  # whose objection is told by demand_sound_uri


def _simulated_objection(query: str) -> str:
    """The state file is made by the server: only where the installation allows it."""
    for path in parse_qs(query).get("state", []):
        allowed = settings.SIMULATED_DIR
        if not allowed or not Path(path).resolve().is_relative_to(Path(allowed).resolve()):
            return "Its state may only be kept below CLOUDOPS_SIMULATED_DIR."
    return ""


def examine(endpoint: Endpoint, management_address: str) -> ProbeReport:
    """Tests the way to an endpoint, saved or not, and to one running guest's console. Blocks; never raises for what it
    finds. Where a certificate must be confirmed and is not, it is shown, and nothing is sent."""
    if not is_demanded(endpoint.kind):
        return _examine(endpoint, management_address)
    try:
        found = served(endpoint.uri, timeout_seconds=endpoint.timeout_seconds)
    except HypervisorError as error:
        return ProbeReport(ok=False, steps=(_failure(STEP_CERTIFICATE, error),))
    if not endpoint.certificate_sha256:
        refusal = unconfirmed(found)
        step = ProbeStep(STEP_CERTIFICATE, ok=False, detail=refusal.detail, remedy=_CONFIRM_REMEDY)
        return ProbeReport(ok=False, steps=(step,), certificate=found)
    report = _examine(endpoint, management_address)
    return replace(report, certificate=found, pinned_sha256=endpoint.certificate_sha256)


def _examine(endpoint: Endpoint, management_address: str) -> ProbeReport:
    try:
        steps = list(registry.probe(endpoints.spec_of(endpoint)))
    except Refusal as refusal:
        steps = [ProbeStep("Decrypt the credential", ok=False, detail=refusal.detail, remedy=refusal.remedy_text)]
    if not steps or not all(step.ok for step in steps):
        return ProbeReport(ok=False, steps=tuple(steps))
    twin = Endpoint(**_columns(endpoint))  # under a key of its own: the saved endpoint's connection stays as it is
    try:
        hosts, vms = endpoints.read(twin)
        steps.append(_vnc_step(twin, vms, management_address))
    except HypervisorError as error:
        return ProbeReport(ok=False, steps=(*steps, _failure(STEP_READ, error)))
    finally:
        registry.forget(str(twin.pk))
    return ProbeReport(all(step.ok for step in steps), tuple(steps), tuple(hosts), len(vms))


def _columns(endpoint: Endpoint) -> dict[str, Any]:
    names = ("kind", "uri", "username", "secret_encrypted", "certificate_sha256", "timeout_seconds")
    return {name: getattr(endpoint, name) for name in names}


def _vnc_step(endpoint: Endpoint, vms: Sequence[VmFacts], management_address: str) -> ProbeStep:
    vm = next((vm for vm in vms if vm.power_state == PowerState.RUNNING and vm.has_console), None)
    if vm is None:
        return ProbeStep(STEP_VNC, ok=True, detail="No VM with a display is running, so this was not tried.")
    ref = vm.ref
    try:
        console = endpoints.call(endpoint, "console", lambda hypervisor: hypervisor.console(ref))
    except HypervisorError as error:
        return _failure(STEP_VNC, error)
    return try_vnc(console, Host(endpoint=endpoint, management_address=management_address), vm.name)


def try_vnc(console: ConsoleEndpoint, host: Host, vm_name: str) -> ProbeStep:
    """Connects to a guest's VNC server and waits for its greeting (TCP), or for the connection alone (TLS, WSS)."""
    if console.transport is Transport.FD:
        os.close(console.fd)
        return ProbeStep(STEP_VNC, ok=True, detail=f"{vm_name}: the hypervisor hands its display over directly.")
    if console.transport is Transport.WSS:
        parts = urlsplit(console.url)
        address, port = parts.hostname or "", parts.port or 443
    else:
        there = endpoints.reachable(console, host)
        address, port = there.host, there.port
    started = time.perf_counter()
    try:
        with socket.create_connection((address, port), timeout=VNC_SECONDS) as connection:
            greeting = connection.recv(4) if console.transport is Transport.TCP else b"RFB "
    except OSError as error:
        detail = f"{vm_name} at {address} port {port}: {error.strerror or error}."
        remedy = _WSS_REMEDY if console.transport is Transport.WSS else _VNC_REMEDY
        return ProbeStep(STEP_VNC, ok=False, detail=detail, remedy=remedy)
    elapsed_ms = (time.perf_counter() - started) * 1000
    if greeting != b"RFB ":
        detail = f"What answers at {address} port {port} is not a VNC server."
        return ProbeStep(STEP_VNC, ok=False, detail=detail, remedy=_VNC_REMEDY, elapsed_ms=elapsed_ms)
    return ProbeStep(STEP_VNC, ok=True, detail=f"{vm_name} answers at {address} port {port}.", elapsed_ms=elapsed_ms)


def _failure(step: str, error: HypervisorError) -> ProbeStep:
    return ProbeStep(step, ok=False, detail=error.detail or error.title, remedy=error.remedy)
