"""Decisions: made on the fleet as it is now, stored with everything that tells why, and told again at any time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cloudops.core.actors import Actor
from cloudops.core.models import Operation
from cloudops.inventory.models import Vm
from placement.models import Claim, ClaimKind, Decision
from placement.spec import Spec


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the VM goes: the decision as stored, and the room taken."""

    decision: Decision
    claim: Claim


def place(
    vm: Vm,
    *,
    spec: Spec,
    kind: str = ClaimKind.INCOMING,
    operation: Operation | None = None,
    ignore_hold: bool = False,
    ignore_schedulable: bool = False,
    by: Actor,
    now: datetime,
) -> Placed:
    """Decides, takes the claim and stores the decision."""
    raise NotImplementedError


def purge(*, now: datetime) -> int:
    """Removes decisions past their retention."""
    raise NotImplementedError
