"""Placement's tables: capacity and claims, decisions, migrations and maintenance."""

from placement.models.capacity import AffinityGroup, Claim, ClaimKind, ClusterPolicy, Hold, HostCapacity
from placement.models.decisions import Decision, FleetSnapshot
from placement.models.maintenance import (
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceMove,
    MaintenanceStatus,
    MoveStatus,
    Platform,
)
from placement.models.migrations import VmMigration

__all__ = [
    "AffinityGroup",
    "Claim",
    "ClaimKind",
    "ClusterPolicy",
    "Decision",
    "FleetSnapshot",
    "Hold",
    "HostCapacity",
    "Maintenance",
    "MaintenanceHost",
    "MaintenanceHostStatus",
    "MaintenanceMove",
    "MaintenanceStatus",
    "MoveStatus",
    "Platform",
    "VmMigration",
]
