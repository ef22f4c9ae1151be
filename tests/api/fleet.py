"""What placement adds to the small installation: room, groups, a decision, migrations and maintenance jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudops.accounts.models import Project
from cloudops.core import operations
from cloudops.core.actors import system
from cloudops.hypervisors.port import Kind, PowerState
from cloudops.inventory.models import Connection, Endpoint, Host, Template, Vm
from placement import capacity, decisions
from placement.models import (
    AffinityGroup,
    Hold,
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceMove,
    MaintenanceStatus,
    MoveStatus,
    VmMigration,
)
from placement.requests import spec_for
from placement.spec import Purpose
from placement.vm_migrations import CHECK, STEPS

if TYPE_CHECKING:
    from tests.api.conftest import World

REMEDY = {"choice": "skip", "label": "Leave it there", "host_id": "", "host_name": "", "admin_only": False}


def add_placement(world: World) -> None:
    """Rows by name; the hosts here are cordoned, so that nothing else is placed on them."""
    _hosts(world)
    world.rows["template"] = Template.objects.create(name="debian")
    world.template.host_tags.add(world.tag)
    world.rows["unused_template"] = Template.objects.create(name="old")
    world.rows["group"] = AffinityGroup.objects.create(name="pair", kind="apart", created_at=world.now)
    world.group.vms.set([world.web, world.other])
    capacity.refresh(now=world.now)
    capacity.set_hold(world.fenced_host.pk, Hold.FENCED, now=world.now)
    spec = spec_for(world.web, purpose=Purpose.MIGRATE, now=world.now)
    decided = decisions.dry_run(spec, by=system("tests"), now=world.now, store=True, vm=world.web)
    world.rows["decision"] = decided.decision
    _jobs(world)
    _migration(world)


def _hosts(world: World) -> None:
    world.rows["lab"] = Project.objects.create(name="lab")
    endpoint = Endpoint.objects.create(kind=Kind.SIMULATED, uri="simulated://spare?hosts=4&vms=0&seed=3")
    Host.objects.filter(pk=world.far_host.pk).update(cpu_threads=8, memory_mib=16_384)
    for number, name in enumerate(("held", "drained", "dead", "fenced"), start=11):
        world.rows[f"{name}_host"] = Host.objects.create(
            endpoint=endpoint,
            cluster=world.cluster,
            ref=f"s{number}",
            name=f"kvm-{number}",
            connection=Connection.UP if number < 13 else Connection.UNREACHABLE,
            schedulable=False,
            cpu_threads=8,
            memory_mib=16_384,
        )
    for name, host in {"stuck": "drained_host", "roaming": "drained_host", "away": "host"}.items():
        world.rows[name] = Vm.objects.create(
            ref=f"ref-{name}",
            name=name,
            host=world.rows[host],
            project=world.lab,
            power_state=PowerState.RUNNING,
            vcpus=1,
            memory_mib=256,
        )


def _job(world: World, status: str, host: Host, host_status: str, **fields: Any) -> Maintenance:
    over = status in {MaintenanceStatus.COMPLETED, MaintenanceStatus.CANCELLED}
    job = Maintenance.objects.create(
        title=f"Maintenance of {host.name}",
        status=status,
        requested_by_name="admin",
        created_at=world.now,
        ended_at=world.now if over else None,
        **fields,
    )
    MaintenanceHost.objects.create(
        maintenance=job, host=host, status=host_status, released_at=world.now if over else None, was_schedulable=False
    )
    return job


def _jobs(world: World) -> None:
    state, host = MaintenanceStatus, MaintenanceHostStatus
    world.rows["job"] = _job(world, state.BLOCKED, world.drained_host, host.BLOCKED, blocked_reason="1 VM is stuck.")
    world.rows["held_job"] = _job(world, state.HOLDING, world.held_host, host.HELD)
    world.rows["cancelled_job"] = _job(world, state.CANCELLED, world.dead_host, host.RELEASED)
    world.rows["done_job"] = _job(world, state.COMPLETED, world.far_host, host.RELEASED)
    capacity.set_hold(world.held_host.pk, Hold.MAINTENANCE, now=world.now)
    capacity.set_hold(world.drained_host.pk, Hold.DRAINING, now=world.now)
    world.rows["move"] = MaintenanceMove.objects.create(
        maintenance=world.job,
        vm=world.stuck,
        source=world.drained_host,
        status=MoveStatus.BLOCKED,
        reason_code="no-host",
        reason="No host has room for it.",
        remedies=[REMEDY],
        updated_at=world.now,
    )
    gone = operations.start(
        kind="vm.migrate", title="Migrate away", subject=world.away, steps=STEPS, by=system("tests"), now=world.now
    )
    operations.begin(gone, by=system("tests"), now=world.now)
    operations.succeed(gone, by=system("tests"), now=world.now)
    world.rows["moved"] = MaintenanceMove.objects.create(
        maintenance=world.done_job,
        vm=world.away,
        source=world.far_host,
        target=world.host,
        status=MoveStatus.MOVED,
        operation=gone,
        updated_at=world.now,
    )


def _migration(world: World) -> None:
    operation = operations.start(
        kind="vm.migrate",
        title="Migrate roaming to kvm-11",
        subject=world.roaming,
        steps=STEPS,
        by=system("tests"),
        now=world.now,
        resumable=True,
    )
    operations.step(operation, CHECK, "running", now=world.now)
    world.rows["migration"] = VmMigration.objects.create(
        operation=operation,
        vm=world.roaming,
        source=world.drained_host,
        target=world.held_host,
        mode=VmMigration.Mode.LIVE,
        options={},
        created_at=world.now,
    )
