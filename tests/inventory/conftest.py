from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.dispatch import Signal

from cloudops.hypervisors import registry
from cloudops.hypervisors.port import EndpointSpec, Hypervisor
from cloudops.inventory import signals
from tests.inventory.fake import FakeHypervisor

Fakes = dict[str, FakeHypervisor]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Hypervisors by URI; a URI that nobody put there gets an empty one."""
    known: Fakes = {}

    def create(spec: EndpointSpec) -> Hypervisor:
        fake = known.setdefault(spec.uri, FakeHypervisor())
        fake.spec = spec
        return fake

    monkeypatch.setattr(registry, "create", create)
    yield known
    for fake in known.values():
        if fake.gate is not None:
            fake.gate.set()
    registry.close_all()


class Heard(dict[str, list[dict[str, Any]]]):
    """What was sent, by signal's name."""

    def all(self, name: str, what: str) -> list[Any]:
        return [item for message in self.get(name, []) for item in message[what]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Listens to every signal of the inventory."""
    messages = Heard()
    receivers = []
    for name, signal in vars(signals).items():
        if isinstance(signal, Signal) and name not in {
            "host_use",
            "vm_use",
            "host_console_load",
            "vm_console_load",
            "vms_moving",
        }:

            def receive(name: str = name, **what: Any) -> None:
                messages.setdefault(name, []).append(what)

            signal.connect(receive)
            receivers.append((signal, receive))
    yield messages
    for signal, receive in receivers:
        signal.disconnect(receive)
