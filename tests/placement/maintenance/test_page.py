"""A job's page after things went wrong in earnest: rows that only the engine writes."""

from __future__ import annotations

import pytest
from django.test import Client

from cloudops.accounts.models import Role, User
from cloudops.hypervisors.port import MigrationInterrupted
from cloudops.inventory.models import Vm
from placement import maintenance
from placement.maintenance import Choice, VmChoice
from placement.models import Maintenance
from tests.placement.maintenance.draining import Drains, three
from tests.placement.moving import BY

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("failing", [1, 2])
def test_it_names_the_hosts_that_were_tried_and_why_they_failed(world: Drains, failing: int, client: Client) -> None:
    first, *others = three(world, vms=1)
    for host in others[:failing]:
        world.fault(host, error=MigrationInterrupted, detail="line cut", at_percent=50, direction="to")
    job: Maintenance = world.start(first)
    world.until_status(job, "holding" if failing == 1 else "blocked")
    client.force_login(User.objects.create_user("ada", role=Role.ADMIN))
    answer = client.get(f"/maintenance/{job.pk}/")
    assert answer.status_code == 200
    page = answer.content.decode()
    for host in others[:failing]:
        assert f"<li>{host.name}: " in page
    assert "line cut" in page


def test_taking_back_that_a_vm_stays_ends_the_maintenance_at_once(world: Drains) -> None:
    """Before any worker has looked: nothing says "in maintenance" of a host that is to be emptied further."""
    first, *_ = three(world, vms=1)
    vm = Vm.objects.get(host=first)
    job: Maintenance = world.start(first, choices={vm.pk: VmChoice(Choice.SKIP)})
    world.until_status(job, "holding")
    maintenance.choose(job.moves.get(vm=vm), choice=Choice.NONE, by=BY, now=world.now)
    job.refresh_from_db()
    assert (job.status, job.hosts.get().status) == ("draining", "draining")
    world.until_status(job, "holding")
    vm.refresh_from_db()
    assert vm.host_id != first.pk
