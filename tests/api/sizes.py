"""What scaling adds to the small installation: an offering to grow into, a resize that was applied in part, a size."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from cloudops.core import operations
from cloudops.core.actors import system
from cloudops.hypervisors import registry
from cloudops.inventory import endpoints
from cloudops.inventory.models import Offering, OfferingKind, Vm
from scaling.models import Resize, SizeSample, VmSize
from scaling.values import Size

if TYPE_CHECKING:
    from tests.api.conftest import World


def add_scaling(world: World) -> None:
    """Rows by name; ``simulated`` is as its hypervisor tells."""
    state = registry.call(endpoints.spec_of(world.endpoint), lambda hypervisor: hypervisor.scaling(world.simulated.ref))
    Vm.objects.filter(pk=world.simulated.pk).update(
        vcpus=state.vcpus,
        memory_mib=state.memory_mib,
        scaling=asdict(state.facts),
        offering=world.offering,
        offering_version=1,
    )
    world.simulated.refresh_from_db()
    world.rows["growing_offering"] = Offering.objects.create(
        name="growing",
        kind=OfferingKind.CUSTOM,
        vcpus=1,
        max_vcpus=8,
        memory_mib=256,
        max_memory_mib=65_536,
        dynamic_scaling=True,
    )
    world.rows["resize"] = _resize(world, world.simulated, Size(state.vcpus, state.memory_mib))
    VmSize.objects.create(vm=world.web, vcpus=1, memory_mib=256, changed_at=world.now)
    SizeSample.objects.create(
        vm=world.web,
        at=world.now - timedelta(hours=2),
        wanted_vcpus=1,
        wanted_memory_mib=256,
        vcpus=1,
        memory_mib=256,
    )


def _resize(world: World, vm: Vm, size: Size) -> Resize:
    operation = operations.start(
        kind="vm.resize", title=f"Resize {vm}", subject=vm, steps=["Change"], by=system("tests"), now=world.now
    )
    operations.begin(operation, by=system("tests"), now=world.now)
    operations.fail(
        operation,
        by=system("tests"),
        now=world.now,
        code="partly-applied",
        detail="It has a part of it.",
        remedy="Continue, or roll back.",
    )
    return Resize.objects.create(
        operation=operation,
        vm=vm,
        offering=world.growing_offering,
        offering_name="growing",
        offering_version=1,
        mode=Resize.Mode.LIVE,
        phase=Resize.Phase.ENDED,
        outcome=Resize.Outcome.PARTLY,
        from_size=asdict(size),
        to_size=asdict(size),
        given_size=asdict(size),
        created_at=world.now - timedelta(minutes=5),
        ended_at=world.now,
    )
