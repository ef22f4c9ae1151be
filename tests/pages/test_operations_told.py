"""What tenants read of operations that are at work inside the fleet: that they are, never where or who."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.core import events, operations
from cloudops.core.actors import system
from cloudops.core.models import Operation
from cloudops.inventory.models import Vm
from placement import vm_migrations
from tests.pages.conftest import As
from tests.pages.installation import Installation

pytestmark = pytest.mark.django_db
BY = system("maintenance (asked for by anna)")
SECRETS = ("kvm-secret-7", "10.9.8.7", "SRC-ID", "DST-ID", "4096 MiB", "anna", "no-route")


@pytest.fixture
def migration(installation: Installation) -> Operation:
    """A migration of a tenant's VM that failed, with words that are none of his business."""
    vm = next(vm for vm in installation.vms if vm.project_id == installation.project.pk)
    Operation.objects.filter(subject_id=str(vm.pk)).delete()
    now = timezone.now()
    row = operations.start(
        kind=vm_migrations.KIND,
        title=f"Migrate {vm.name} to kvm-secret-7",
        subject=vm,
        steps=vm_migrations.STEPS,
        by=BY,
        now=now,
        params={"source": "SRC-ID", "target": "DST-ID"},
    )
    operations.step(row, 0, "done", now=now, detail="4 vCPUs and 4096 MiB on kvm-secret-7")
    operations.begin(row, by=BY, now=now)
    operations.fail(
        row, by=BY, now=now, code="no-route", detail="cannot connect to 10.9.8.7:16509", remedy="See 10.9.8.7"
    )
    return row


def test_a_tenant_reads_that_it_moves_but_nothing_of_the_fleet(migration: Operation, tenant: Client) -> None:
    told = tenant.get(f"/api/v1/operations/{migration.pk}/").json()
    assert told["title"] == f"Migrate {migration.subject_name}"
    assert (told["params"], told["result"], told["requested_by_name"]) == ({}, {}, "CloudOps")
    assert [step["name"] for step in told["steps"]] == vm_migrations.STEPS
    assert told["error"]["remedy"] == "Ask an administrator."
    for path in (
        f"/api/v1/operations/{migration.pk}/",
        "/api/v1/operations/",
        f"/operations/{migration.pk}/",
        "/operations/",
        "/operations/?format=csv",
    ):
        page = tenant.get(path).content.decode()
        assert f"Migrate {migration.subject_name}" in page, path
        assert not [secret for secret in SECRETS if secret in page], path
    assert str(migration.pk) not in tenant.get("/operations/?q=secret-7").content.decode()


def test_who_sees_the_fleet_reads_all_of_it(migration: Operation, installation: Installation, as_user: As) -> None:
    told = as_user(installation.operator).get(f"/api/v1/operations/{migration.pk}/").json()
    assert told["title"].endswith("to kvm-secret-7")
    assert (told["params"]["source"], told["requested_by_name"]) == ("SRC-ID", BY.name)


def test_the_tray_of_who_sees_the_fleet_no_more_tells_nothing(
    migration: Operation, installation: Installation, tenant: Client
) -> None:
    Operation.objects.filter(pk=migration.pk).update(requested_by_id=installation.tenant.pk, requested_by_name="tina")
    page = tenant.get("/operations/tray/").content.decode()
    assert f"Migrate {migration.subject_name}" in page
    assert not [secret for secret in SECRETS if secret in page]


def test_a_refusal_quotes_no_host(migration: Operation, installation: Installation) -> None:
    vm = next(vm for vm in installation.vms if str(vm.pk) == migration.subject_id)
    now = timezone.now()
    operations.start(kind=vm_migrations.KIND, title="Migrate it to kvm-secret-7", subject=vm, steps=[], by=BY, now=now)
    with pytest.raises(operations.OperationRunning) as refusal:
        operations.start(kind="vm.power", title="Stop it", subject=vm, steps=[], by=BY, now=now)
    assert refusal.value.detail == "Another operation is at work on this VM."


def test_what_happened_to_a_vm_tells_outsiders_nothing_of_the_fleet(
    migration: Operation, tenant: Client, as_user: As, installation: Installation
) -> None:
    vm = Vm.objects.get(pk=migration.subject_id)
    now = timezone.now()
    events.record("vm.migration_unclear", by=BY, now=now, subject=vm, reason="10.9.8.7 does not answer")
    events.record("vm.power_changed", by=system("inventory"), now=now, subject=vm, from_state="off", to_state="running")
    page = tenant.get(f"/vms/{vm.pk}/").content.decode()
    assert "vm.power_changed" in page
    assert not [secret for secret in SECRETS if secret in page]
    assert "10.9.8.7" in as_user(installation.admin).get(f"/vms/{vm.pk}/").content.decode()
