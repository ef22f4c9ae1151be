"""The way from rows to hypervisors: an endpoint's specification, bounded calls to it, and where its guests' VNC is."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from cloudops.core import crypto
from cloudops.core.metrics import HYPERVISOR_SECONDS
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import (
    ConsoleEndpoint,
    EndpointSpec,
    HostFacts,
    Hypervisor,
    HypervisorError,
    Kind,
    MigrationTarget,
    Transport,
    VmFacts,
)
from cloudops.inventory.models import Endpoint, Host

T = TypeVar("T")
LOCAL_ADDRESS = "127.0.0.1"


def spec_of(endpoint: Endpoint) -> EndpointSpec:
    """What a driver needs, the secret in plain text. Raises ``Unavailable`` when the secret cannot be decrypted."""
    return EndpointSpec(
        key=str(endpoint.pk),
        kind=Kind(endpoint.kind),
        uri=endpoint.uri,
        username=endpoint.username,
        secret=crypto.decrypt(endpoint.secret_encrypted),
        certificate_sha256=endpoint.certificate_sha256,
        timeout_seconds=float(endpoint.timeout_seconds),
    )


def call(endpoint: Endpoint, name: str, function: Callable[[Hypervisor], T], timeout: float | None = None) -> T:
    """:func:`registry.call`, measured. ``name`` is the metric's label. Raises :class:`HypervisorError`."""
    started = time.perf_counter()
    outcome = "ok"
    try:
        return registry.call(spec_of(endpoint), function, timeout)
    except HypervisorError as error:
        outcome = error.code
        raise
    finally:
        HYPERVISOR_SECONDS.labels(name, outcome).observe(time.perf_counter() - started)


def read(endpoint: Endpoint) -> tuple[Sequence[HostFacts], Sequence[VmFacts]]:
    """Hosts and VMs of an endpoint, saved or not. Raises :class:`HypervisorError`."""

    def both(hypervisor: Hypervisor) -> tuple[Sequence[HostFacts], Sequence[VmFacts]]:
        return hypervisor.hosts(), hypervisor.vms()

    return call(endpoint, "inventory", both, timeout=2 * endpoint.timeout_seconds + 1.0)


async def acall(
    endpoint: Endpoint,
    name: str,
    function: Callable[[Hypervisor], T],
    timeout: float | None = None,  # noqa: ASYNC109 - the registry bounds it; a late descriptor must be closed there
) -> T:
    """:func:`call` for an event loop, which it never blocks."""
    started = time.perf_counter()
    outcome = "ok"
    try:
        return await registry.acall(spec_of(endpoint), function, timeout)
    except HypervisorError as error:
        outcome = error.code
        raise
    finally:
        HYPERVISOR_SECONDS.labels(name, outcome).observe(time.perf_counter() - started)


def default_management_address(kind: str, uri: str) -> str:
    """Where guests' VNC servers of the host behind ``uri`` are reached from here, unless an operator says otherwise."""
    if kind == Kind.SIMULATED:
        return LOCAL_ADDRESS
    parts = urlsplit(uri)
    if "+unix" in parts.scheme:
        return LOCAL_ADDRESS
    return parts.hostname or LOCAL_ADDRESS


def migration_uri(host: Host) -> str:
    """Where hypervisors behind other endpoints reach this one: what an operator set, else its own URI if that works
    from elsewhere, else empty. Between vCenters nothing is moved. Needs ``select_related("endpoint")``."""
    if host.endpoint.kind == Kind.VSPHERE:
        return ""
    if host.migration_uri or host.endpoint.kind != Kind.LIBVIRT:
        return host.migration_uri or host.endpoint.uri
    parts = urlsplit(host.endpoint.uri)
    works = parts.hostname and "+unix" not in parts.scheme and not _is_local_name(parts.hostname)
    return host.endpoint.uri if works else ""


def migration_target(host: Host) -> MigrationTarget:
    """The host as the destination of a migration. Needs ``select_related("endpoint")``."""
    return MigrationTarget(spec=spec_of(host.endpoint), host_ref=host.ref, uri=migration_uri(host))


def management_address(host: Host) -> str:
    """The address the console proxy uses for ``host``. Needs ``select_related("endpoint")``."""
    return host.management_address or default_management_address(host.endpoint.kind, host.endpoint.uri)


def reachable(console: ConsoleEndpoint, host: Host) -> ConsoleEndpoint:
    """``console`` as it is reached from here: a wildcard or loopback listener is at the host's management address."""
    if console.transport not in {Transport.TCP, Transport.TLS} or not _is_local_name(console.host):
        return console
    return replace(console, host=management_address(host))


def _is_local_name(address: str) -> bool:
    if address in {"", "localhost"}:
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_unspecified or parsed.is_loopback
