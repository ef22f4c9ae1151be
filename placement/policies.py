"""How single clusters differ from the installation's placement settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.validation import assign, demand_known, demand_valid
from cloudops.inventory.models import Cluster
from placement import capacity
from placement.errors import PolicyInvalid
from placement.models import ClusterPolicy
from placement.spec import ALLOCATORS
from placement.weighers import WEIGHERS

FIELDS = (
    "allocator",
    "weights",
    "cpu_ratio",
    "memory_ratio",
    "cpu_reserve_threads",
    "memory_reserve_mib",
    "cpu_threshold_percent",
    "memory_threshold_percent",
)
MOST_WEIGHT = 100.0


def set_policy(cluster: Cluster, *, by: Actor, now: datetime, **values: Any) -> ClusterPolicy:
    """Sets some of :data:`FIELDS`; empty ones follow the settings, and a policy that is all empty is removed.

    The hosts' capacity follows in the same transaction; what is claimed stays. Raises ``Invalid`` and
    :class:`PolicyInvalid`.
    """
    demand_known(values, FIELDS)
    with transaction.atomic():
        Cluster.objects.select_for_update(no_key=True).get(pk=cluster.pk)
        policy = ClusterPolicy.objects.filter(cluster=cluster).first() or ClusterPolicy(cluster=cluster)
        changed = assign(policy, {name: _clean(name, value) for name, value in values.items()})
        if changed:
            _demand_sound(policy)
            if any(getattr(policy, name) not in (None, "", {}) for name in FIELDS):
                policy.save()
            else:
                ClusterPolicy.objects.filter(cluster=cluster).delete()
            events.record("policy.changed", by=by, now=now, subject=cluster, data={"changed": changed})
            host_ids = list(cluster.hosts.order_by().values_list("pk", flat=True))
            capacity.refresh(host_ids=host_ids, now=now)
            live.publish("capacity", "hosts")
    return policy


def _clean(name: str, value: Any) -> Any:
    if name == "weights":
        return {str(key): float(number) for key, number in (value or {}).items()}
    return (value or "") if name == "allocator" else value


def _demand_sound(policy: ClusterPolicy) -> None:
    demand_valid(policy, exclude={"cluster"})
    if policy.allocator and policy.allocator not in ALLOCATORS:
        known = ", ".join(ALLOCATORS)
        raise PolicyInvalid(f"There is no allocator “{policy.allocator}”.", fields={"allocator": [f"One of: {known}."]})
    demand_weights(policy.weights)
    if policy.allocator == "weights" and not policy.weights:
        raise PolicyInvalid(
            "The allocator “weights” needs weights.",
            remedy="Name at least one weigher with its weight.",
            fields={"weights": ["Name at least one, for example free-memory=2."]},
        )


def demand_weights(weights: Mapping[str, float]) -> None:
    """Raises :class:`PolicyInvalid` for weighers that there are not, and for weights beyond ±100."""
    if unknown := sorted(set(weights) - set(WEIGHERS)):
        known = ", ".join(WEIGHERS)
        raise PolicyInvalid(f"There is no weigher “{unknown[0]}”.", fields={"weights": [f"Known are: {known}."]})
    if any(not abs(number) <= MOST_WEIGHT for number in weights.values()):
        raise PolicyInvalid("A weight is out of range.", fields={"weights": ["From -100 to 100."]})
