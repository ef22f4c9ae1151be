"""VMs and hosts as JSON, to be kept in a store."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache

from cloudops.hypervisors.port import DiskFacts, DiskKind, PowerState, ScalingFacts, Shape, VmFacts
from cloudops.hypervisors.simulated.fleet import SimulatedHost


def vm_text(vm: VmFacts) -> str:
    """Read again by :func:`vm_of`."""
    return json.dumps(asdict(vm))


@lru_cache(maxsize=20_000)
def vm_of(text: str) -> VmFacts:
    values = json.loads(text)
    if values["scaling"] is not None:
        values["scaling"] = ScalingFacts.from_json(values["scaling"])
    values["power_state"] = PowerState(values["power_state"])
    values["networks"] = tuple(values["networks"])
    values["disks"] = tuple(DiskFacts(**{**disk, "kind": DiskKind(disk["kind"])}) for disk in values["disks"])
    return VmFacts(**values)


def shape_text(shape: Shape) -> str:
    """Read again by :func:`shape_read`."""
    return json.dumps(asdict(shape))


def shape_read(text: str) -> Shape:
    return Shape(**json.loads(text))


def host_text(host: SimulatedHost) -> str:
    """Read again by :func:`host_of`."""
    return json.dumps(asdict(host))


@lru_cache(maxsize=20_000)
def host_of(text: str) -> SimulatedHost:
    values = json.loads(text)
    return SimulatedHost(**{**values, "networks": tuple(values["networks"]), "datastores": tuple(values["datastores"])})
