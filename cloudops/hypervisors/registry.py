"""The only way to a driver: opens hypervisors by kind, keeps one per endpoint, and bounds every call to it.

::

    facts = registry.call(spec, lambda hypervisor: hypervisor.vms())
    endpoint = await registry.acall(spec, lambda hypervisor: hypervisor.console(vm_ref))
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from cloudops.hypervisors.bulkhead import Bulkhead
from cloudops.hypervisors.port import (
    ConsoleEndpoint,
    EndpointSpec,
    Hypervisor,
    HypervisorError,
    Kind,
    NotSupported,
    ProbeStep,
    Transport,
)

T = TypeVar("T")

WORKERS = 4
WAITING = 16
CENTRES = {Kind.VSPHERE: (8, 128)}
"""Workers and waiting calls of kinds where one endpoint stands for many hosts."""
GRACE_SECONDS = 1.0
"""What a call may take beyond the endpoint's own timeout, within which a driver answers with a better error."""
PROBE_SECONDS_FACTOR = 3.0
"""A probe has several steps, each with the endpoint's timeout."""

_DRIVERS = {
    Kind.LIBVIRT: ("cloudops.hypervisors.libvirt.driver", "LibvirtHypervisor", "libvirt-python"),
    Kind.VSPHERE: ("cloudops.hypervisors.vsphere.driver", "VsphereHypervisor", "pyvmomi"),
    Kind.SIMULATED: ("cloudops.hypervisors.simulated", "SimulatedHypervisor", ""),
}


@dataclass(frozen=True, slots=True)
class _Endpoint:
    hypervisor: Hypervisor
    bulkhead: Bulkhead

    def close(self) -> None:
        self.bulkhead.close()
        self.hypervisor.close()


_lock = threading.Lock()
_endpoints: dict[str, _Endpoint] = {}


def create(spec: EndpointSpec) -> Hypervisor:
    """A fresh driver for ``spec``, not connected yet, which the caller closes.

    Raises :class:`NotSupported` when there is no driver for its kind or the driver's SDK is not installed.
    """
    module_name, class_name, package = _DRIVERS[spec.kind]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name or module_name
        remedy = f"install {package}" if package and not missing.startswith("cloudops.") else "use another kind"
        raise NotSupported(f"No {spec.kind} driver here ({missing} cannot be imported): {remedy}.") from error
    driver: Callable[[EndpointSpec], Hypervisor] = getattr(module, class_name)
    return driver(spec)


def has_maintenance_mode(kind: str, uri: str) -> bool:
    """Whether the platform has a maintenance mode of its own, which :meth:`Hypervisor.enter_maintenance` asks for.
    Known without asking it."""
    if kind == Kind.SIMULATED:
        return "maintenance_seconds" in parse_qs(urlsplit(uri).query)
    return kind == Kind.VSPHERE


def open_hypervisor(spec: EndpointSpec) -> Hypervisor:
    """This process's driver for ``spec.key``. A changed spec closes the old driver (its subscriptions end) and opens
    a new one. Does not connect; raises :class:`NotSupported` as :func:`create` does."""
    return _endpoint(spec).hypervisor


def call(spec: EndpointSpec, function: Callable[[Hypervisor], T], timeout: float | None = None) -> T:
    """``function(hypervisor)`` in the endpoint's own threads, for at most ``timeout`` seconds (default: the endpoint's
    timeout and a second). Raises :class:`TimedOut`, :class:`Overloaded` and what ``function`` raises."""
    endpoint = _endpoint(spec)
    return endpoint.bulkhead.run(
        partial(function, endpoint.hypervisor), timeout_seconds=_deadline(spec, timeout), discard=_discard
    )


async def acall(spec: EndpointSpec, function: Callable[[Hypervisor], T], timeout: float | None = None) -> T:  # noqa: ASYNC109
    """:func:`call` for an event loop. When it is cancelled or times out, a descriptor that arrives late is closed."""
    # Opening imports an SDK and may close an older driver: not on the event loop.
    endpoint = _current(spec)
    if endpoint is None:
        endpoint = await asyncio.to_thread(_endpoint, spec)
    return await endpoint.bulkhead.arun(
        partial(function, endpoint.hypervisor), timeout_seconds=_deadline(spec, timeout), discard=_discard
    )


def probe(spec: EndpointSpec) -> Sequence[ProbeStep]:
    """Tests the way to an endpoint with a fresh connection, step by step; never raises. The spec need not be saved."""
    bulkhead = Bulkhead(f"the test of {_label(spec)}", workers=1, waiting=0)
    try:
        return bulkhead.run(lambda: _probe(spec), timeout_seconds=spec.timeout_seconds * PROBE_SECONDS_FACTOR)
    except HypervisorError as error:
        return [_failed_probe(error)]
    finally:
        bulkhead.close()


async def aprobe(spec: EndpointSpec) -> Sequence[ProbeStep]:
    """:func:`probe` for an event loop."""
    bulkhead = Bulkhead(f"the test of {_label(spec)}", workers=1, waiting=0)
    try:
        return await bulkhead.arun(lambda: _probe(spec), timeout_seconds=spec.timeout_seconds * PROBE_SECONDS_FACTOR)
    except HypervisorError as error:
        return [_failed_probe(error)]
    finally:
        bulkhead.close()


def forget(key: str) -> None:
    """Closes the endpoint of a host that was removed."""
    with _lock:
        endpoint = _endpoints.pop(key, None)
    if endpoint is not None:
        endpoint.close()


def close_all() -> None:
    """Closes every endpoint of this process."""
    with _lock:
        endpoints = list(_endpoints.values())
        _endpoints.clear()
    for endpoint in endpoints:
        endpoint.close()


def _current(spec: EndpointSpec) -> _Endpoint | None:
    endpoint = _endpoints.get(spec.key)
    return endpoint if endpoint is not None and endpoint.hypervisor.spec == spec else None


def _endpoint(spec: EndpointSpec) -> _Endpoint:
    with _lock:
        if (endpoint := _current(spec)) is not None:
            return endpoint
        current = _endpoints.get(spec.key)
        workers, waiting = CENTRES.get(spec.kind, (WORKERS, WAITING))
        fresh = _Endpoint(create(spec), Bulkhead(_label(spec), workers=workers, waiting=waiting))
        _endpoints[spec.key] = fresh
    if current is not None:
        current.close()
    return fresh


def _label(spec: EndpointSpec) -> str:
    """The URI as it may be shown: without a password somebody may have put into it."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1@", spec.uri)


def _deadline(spec: EndpointSpec, timeout: float | None) -> float:
    return spec.timeout_seconds + GRACE_SECONDS if timeout is None else timeout


def _discard(result: object) -> None:
    if isinstance(result, ConsoleEndpoint) and result.transport is Transport.FD and result.fd >= 0:
        os.close(result.fd)


def _probe(spec: EndpointSpec) -> Sequence[ProbeStep]:
    try:
        hypervisor = create(replace(spec, key=f"probe:{spec.key}"))
    except HypervisorError as error:
        return [_failed_probe(error)]
    try:
        return hypervisor.probe()
    finally:
        hypervisor.close()


def _failed_probe(error: HypervisorError) -> ProbeStep:
    return ProbeStep("Open the driver", ok=False, detail=str(error), remedy=error.remedy)


def _after_fork() -> None:
    """Threads and connections do not survive a fork: the child starts with none, without closing its parent's."""
    global _lock
    _lock = threading.Lock()
    _endpoints.clear()


os.register_at_fork(after_in_child=_after_fork)
