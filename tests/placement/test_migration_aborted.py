"""Migrations that somebody, or their time limit, ends: before, while and after the VM moves."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.core.models import RuntimeSettings
from placement import vm_migrations
from placement.migration_errors import MigrationOver
from placement.models import VmMigration
from tests.placement.moving import BY, Moving, steps

pytestmark = pytest.mark.django_db(transaction=True)


def test_abort_while_it_moves(world: Moving, ended: list[dict[str, Any]]) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second, bandwidth_mib_per_second=1)
    world.run_for(migration, 2)
    vm_migrations.abort(migration, by=BY, now=world.now)
    vm_migrations.abort(migration, by=BY, now=world.now)
    world.pause(30)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("cancelled", "migration-cancelled")
    assert "ada" in operation.error_detail
    assert world.claims(vm) == {("kvm1", "vm")}
    assert world.where(vm)["kvm1"] == "running"
    assert [end["code"] for end in ended] == ["migration-cancelled"]
    with pytest.raises(MigrationOver):
        vm_migrations.abort(migration, by=BY, now=world.now)


def test_abort_within_the_running_runner(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)

    def abort_at_half() -> None:
        row = VmMigration.objects.get(pk=migration.pk)
        if row.progress.get("percent", 0) >= 50 and row.abort_requested_at is None:
            vm_migrations.abort(row, by=BY, now=world.now)

    world.before_pause = abort_at_half
    operation = world.run(migration)
    assert operation.status == "cancelled"
    assert world.where(vm) == {"kvm1": "running"}


def test_abort_before_a_runner_came(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    vm_migrations.abort(migration, by=BY, now=world.now)
    operation = world.run(migration)
    assert operation.status == "cancelled"
    assert steps(operation)[vm_migrations.COPY] == "pending"
    assert world.claims(vm) == {("kvm1", "vm")}


def test_an_abort_that_comes_too_late_changes_nothing(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 2)
    world.pause(30)
    vm_migrations.abort(migration, by=BY, now=world.now)
    operation = world.run(migration)
    assert operation.status == "succeeded"
    assert world.where(vm) == {"kvm2": "running"}
    assert world.claims(vm) == {("kvm2", "vm")}


def test_too_long_is_aborted(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second, timeout_seconds=20, bandwidth_mib_per_second=10)
    RuntimeSettings.objects.update(migration_timeout_seconds=86_400)  # asked for before: not its business
    began = world.now
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "migration-timeout")
    assert 20 <= (world.now - began).total_seconds() < 25
    assert world.where(vm) == {"kvm1": "running"}


def test_post_copy_cannot_be_aborted_any_more(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second, post_copy=True)

    def abort_late() -> None:
        row = VmMigration.objects.get(pk=migration.pk)
        if row.progress.get("post_copy") and row.abort_requested_at is None:
            vm_migrations.abort(row, by=BY, now=world.now)

    world.before_pause = abort_late
    operation = world.run(migration)
    assert migration.abort_requested_at is not None
    assert operation.status == "succeeded"
    assert world.where(vm) == {"kvm2": "running"}
