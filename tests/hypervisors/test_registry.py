"""The registry: one driver per endpoint, replaced when its spec changes, every call bounded."""

from __future__ import annotations

import asyncio
import builtins
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import (
    ConsoleEndpoint,
    EndpointSpec,
    Hypervisor,
    Kind,
    NotSupported,
    PowerState,
    TimedOut,
    Transport,
    Unreachable,
)
from tests.hypervisors.contract import eventually

URI = "simulated://registry?hosts=2&vms=4"
SPEC = EndpointSpec(key="r", kind=Kind.SIMULATED, uri=URI, secret="hunter2", timeout_seconds=2.0)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    registry.close_all()
    yield
    simulated.set_faults(URI, simulated.Faults())
    simulated.reset(URI)
    registry.close_all()


def test_an_endpoint_is_opened_once_and_again_when_it_changes() -> None:
    first = registry.open_hypervisor(SPEC)
    assert registry.open_hypervisor(SPEC) is first
    second = registry.open_hypervisor(replace(SPEC, secret="changed"))
    assert second is not first
    with pytest.raises(Unreachable):
        first.hosts()
    assert second.hosts()
    registry.forget("r")
    with pytest.raises(Unreachable):
        second.hosts()
    registry.forget("never opened")


def test_calls_return_and_are_bounded() -> None:
    assert len(registry.call(SPEC, lambda hypervisor: hypervisor.hosts())) == 2
    with pytest.raises(TimedOut):
        registry.call(SPEC, lambda _hypervisor: time.sleep(1), timeout=0.1)


async def test_async_calls_keep_the_loop_free() -> None:
    simulated.set_faults(URI, simulated.Faults(latency_seconds=0.3))
    began = time.monotonic()
    hosts, ticks = await asyncio.gather(registry.acall(SPEC, lambda hypervisor: hypervisor.hosts()), _ticks(0.25))
    assert len(hosts) == 2
    assert ticks >= 10
    assert time.monotonic() - began < 2


async def _ticks(seconds: float) -> int:
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.01)
        count += 1
    return count


async def test_a_console_that_comes_too_late_is_closed() -> None:
    opened: list[int] = []

    def late_console(hypervisor: Hypervisor) -> ConsoleEndpoint:
        vm = next(vm for vm in hypervisor.vms() if vm.power_state is PowerState.RUNNING)
        time.sleep(0.3)
        endpoint = hypervisor.console(vm.ref)
        assert endpoint.transport is Transport.FD
        opened.append(endpoint.fd)
        return endpoint

    with pytest.raises(TimedOut):
        await registry.acall(SPEC, late_console, timeout=0.1)
    task = asyncio.create_task(registry.acall(SPEC, late_console))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(eventually, lambda: len(opened) == 2)
    await asyncio.to_thread(
        eventually, lambda: not any("simulated console" in thread.name for thread in threading.enumerate())
    )


def test_a_missing_sdk_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cloudops.hypervisors.libvirt")]:
        monkeypatch.delitem(sys.modules, name)
    real_import = builtins.__import__

    def no_libvirt(
        name: str, scope: Mapping[str, object] | None = None, local: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (), level: int = 0,
    ) -> object:  # fmt: skip
        if name.startswith("libvirt"):
            raise ModuleNotFoundError("No module named 'libvirt'", name="libvirt")
        return real_import(name, scope, local, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", no_libvirt)
    spec = replace(SPEC, key="l", kind=Kind.LIBVIRT, uri="qemu:///system")
    with pytest.raises(NotSupported, match="install libvirt-python"):
        registry.create(spec)
    (step,) = registry.probe(spec)
    assert not step.ok
    assert "libvirt-python" in step.detail


def test_a_probe_works_without_saving_and_never_raises() -> None:
    assert all(step.ok for step in registry.probe(SPEC))
    (step,) = registry.probe(replace(SPEC, uri="simulated://"))
    assert not step.ok
    assert step.remedy
    simulated.set_faults(URI, simulated.Faults(hang=True))
    began = time.monotonic()
    assert not registry.probe(SPEC)[-1].ok
    assert time.monotonic() - began < 3.5


async def test_an_async_probe() -> None:
    assert all(step.ok for step in await registry.aprobe(SPEC))


def test_secrets_are_not_in_texts() -> None:
    assert "hunter2" not in repr(SPEC)
    spec = replace(SPEC, uri="simulated://admin:hunter2@registry")
    with pytest.raises(TimedOut) as error:
        registry.call(spec, lambda _hypervisor: time.sleep(0.3), timeout=0.05)
    assert "hunter2" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Celery forks, too
def test_a_fork_starts_afresh() -> None:
    parent = registry.open_hypervisor(SPEC)
    pid = os.fork()
    if pid == 0:  # the child says by its exit code whether it got a driver of its own
        try:
            os._exit(0 if registry.open_hypervisor(SPEC) is not parent else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert parent.hosts()
