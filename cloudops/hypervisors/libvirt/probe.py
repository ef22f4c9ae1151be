""" "Test connection" for a libvirt host: every stage of connecting, timed and in words, then what is found there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from cloudops.hypervisors.libvirt.hosts import HostReader
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.libvirt.uri import LibvirtUri
from cloudops.hypervisors.port import EndpointSpec, HypervisorError, ProbeStep


def probe(spec: EndpointSpec, uri: LibvirtUri) -> Sequence[ProbeStep]:
    """Stops at the first step that fails; never raises."""
    session = Session(spec, uri, on_event=lambda _event: None)
    deadline = time.monotonic() + spec.timeout_seconds
    steps: list[ProbeStep] = []
    try:
        for stage in session.stages:
            steps.append(_timed(stage.name, lambda stage=stage: session.run(stage, deadline)))  # type: ignore[misc]
            if not steps[-1].ok:
                return steps
        steps.append(_timed("Read the host and its VMs", lambda: session.call(_facts, deadline) + _consoles(uri)))
    finally:
        session.close("the test is over")
    return steps


def _timed(name: str, action: Callable[[], str]) -> ProbeStep:
    began = time.monotonic()
    try:
        detail, remedy, ok = action(), "", True
    except HypervisorError as error:
        detail, remedy, ok = str(error), error.remedy, False
    return ProbeStep(name, ok, detail, remedy, (time.monotonic() - began) * 1000)


def _facts(handle: Any) -> str:
    host = HostReader().read(handle)
    count = len(handle.listAllDomains(0))
    return f"{host.cpu_threads} CPU threads, {host.memory_mib / 1024:.1f} GiB memory, {count} VMs"


def _consoles(uri: LibvirtUri) -> str:
    return "; consoles go through " + ("the local socket" if uri.is_local else "each VM's VNC port")
