"""A job's page after things went wrong in earnest: rows that only the engine writes."""

from __future__ import annotations

import pytest
from django.test import Client

from cloudops.accounts.models import Role, User
from cloudops.hypervisors.port import MigrationInterrupted
from placement.models import Maintenance
from tests.placement.maintenance.draining import Drains
from tests.placement.maintenance.test_drain import three

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
