"""What is asked of placement: one VM's needs and everything about it that a decision depends on, as plain values.

No Django. A specification is stored with its decision as JSON and read back to exactly the same value.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, Self

ALLOCATORS = ("first-fit", "spread", "pack", "least-consoles", "random", "weights")
CLUSTER_ORDERS = ("memory", "cpu", "position")


class Purpose(enum.StrEnum):
    """What a place is sought for. Cluster thresholds hold for ``DEPLOY``, ``START`` and ``DRY_RUN`` only."""

    DEPLOY = "deploy"
    START = "start"
    MIGRATE = "migrate"
    DRAIN = "drain"
    DRY_RUN = "dry-run"


Groups = Mapping[str, tuple[str, ...]]
"""Host id to the names of the groups whose other VMs are there."""


_GROUPS = ("apart", "together", "soft_apart", "soft_together")


@dataclass(frozen=True, slots=True)
class Spec:
    """One request for a place. Ids are the string forms of UUIDs.

    ``tags`` and ``soft_tags`` map a tag to who asks for it ("offering small"). ``only_hosts`` None means any host.
    ``cpu_model`` is the host CPU that the guest was given as it is; empty when any will do. ``local_disks`` names disks
    that cannot be reached from another host. ``apart_hosts`` and ``together_hosts`` are strict, their ``soft_`` twins
    only preferred. An empty ``allocator`` leaves the choice to the clusters' policies and then ``default_allocator``;
    the thresholds are those of clusters that have none of their own. ``among`` hosts that are as good as the best take
    turns by ``seed``, so that schedulers that decide at the same time do not all want the same one.
    """

    purpose: Purpose
    vcpus: int
    memory_mib: int
    tags: Mapping[str, str] = field(default_factory=dict)
    soft_tags: Mapping[str, str] = field(default_factory=dict)
    home_cluster: str | None = None
    across_clusters: bool = True
    kind: str = ""
    cpu_model: str = ""
    networks: tuple[str, ...] = ()
    datastores: tuple[str, ...] = ()
    local_disks: tuple[str, ...] = ()
    only_hosts: tuple[str, ...] | None = None
    only_reason: str = ""
    exclude_hosts: Mapping[str, str] = field(default_factory=dict)
    apart_hosts: Groups = field(default_factory=dict)
    together_hosts: Groups = field(default_factory=dict)
    soft_apart_hosts: Groups = field(default_factory=dict)
    soft_together_hosts: Groups = field(default_factory=dict)
    consoles: int = 0
    allocator: str = ""
    default_allocator: str = "spread"
    weights: Mapping[str, float] = field(default_factory=dict)
    cluster_order: str = "memory"
    cpu_threshold_percent: int = 100
    memory_threshold_percent: int = 100
    seed: int = 0
    among: int = 1

    def __post_init__(self) -> None:
        """Mappings in the order of their keys: a database may give them back in another one than it was given, and a
        decision that is told again must come out the same to the last word and bit."""
        for name in _MAPPINGS:
            value = getattr(self, name)
            if len(value) > 1:
                object.__setattr__(self, name, dict(sorted(value.items())))

    @property
    def has_thresholds(self) -> bool:
        """Whether clusters that are nearly full are left out: for new VMs and starts, never for moves."""
        return self.purpose in (Purpose.DEPLOY, Purpose.START, Purpose.DRY_RUN)

    @property
    def of_hosts(self) -> tuple[Any, ...]:
        """What it asks of hosts whatever is on them: the same for requests that every filter not ``about_load`` judges
        the same."""
        home = None if self.across_clusters else self.home_cluster
        asked = (self.kind, self.cpu_model, home, self.networks, self.datastores, self.local_disks)
        return (*asked, tuple(self.tags), self.only_hosts, tuple(self.exclude_hosts))

    def to_json(self) -> dict[str, Any]:
        """JSON's own types; values that are the default are left out."""
        return {
            name: _plain(value)
            for (name, default), value in zip(_DEFAULTS, _values(self), strict=True)
            if value != default
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The value that :meth:`to_json` was called on."""
        values = dict(stored)
        values["purpose"] = Purpose(values["purpose"])
        for name in ("networks", "datastores", "local_disks", "only_hosts"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        for name in (f"{how}_hosts" for how in _GROUPS):
            if name in values:
                values[name] = {host: tuple(names) for host, names in values[name].items()}
        return cls(**values)


_MAPPINGS = ("tags", "soft_tags", "exclude_hosts", *(f"{how}_hosts" for how in _GROUPS), "weights")
_MISSING = object()
_DEFAULTS = tuple(
    (
        one.name,
        one.default_factory()
        if one.default_factory is not MISSING
        else (_MISSING if one.default is MISSING else one.default),
    )
    for one in fields(Spec)
)
_values = attrgetter(*(name for name, _ in _DEFAULTS))


def _plain(value: Any) -> Any:
    if value.__class__ in (int, str):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Purpose) else value
