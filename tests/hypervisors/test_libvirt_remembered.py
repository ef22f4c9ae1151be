"""What a process remembers of migrations it began is never taken for a later one's, whoever began that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudops.hypervisors.libvirt import migration
from cloudops.hypervisors.libvirt.migration import Migrations
from cloudops.hypervisors.port import EndpointSpec, Kind, MigrationState, MigrationStatus, Unreachable

DONE = MigrationStatus(MigrationState.COMPLETED, memory_sent_mib=100)
MOVING = MigrationStatus(MigrationState.RUNNING, memory_total_mib=512)
REF = "8d3f3a52-0f0f-4d50-a5a2-1a3a0a5f0e11"


@pytest.fixture
def own() -> Iterator[Migrations]:
    def call(_: Any) -> Any:
        raise Unreachable("no libvirtd here")

    yield Migrations(EndpointSpec(key="remembered", kind=Kind.LIBVIRT, uri="qemu:///system"), call)
    migration._jobs.clear()


def says(own: Migrations, patch: pytest.MonkeyPatch, found: MigrationStatus | None, *, is_here: bool) -> None:
    patch.setattr(own, "_look", lambda _: (found, is_here))


def test_an_end_carries_the_name_of_its_attempt(own: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    job = own._remember(REF, "first/1")
    says(own, monkeypatch, MOVING, is_here=True)
    assert own.status(REF).state == MigrationState.RUNNING
    job.end(DONE)
    says(own, monkeypatch, None, is_here=False)
    status = own.status(REF)
    assert (status.state, status.label, status.memory_sent_mib) == (MigrationState.COMPLETED, "first/1", 100)


def test_a_job_that_runs_later_makes_an_earlier_end_forgotten(own: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    own._remember(REF, "first/1").end(DONE)
    says(own, monkeypatch, MOVING, is_here=True)  # another process began it
    assert own.status(REF).state == MigrationState.RUNNING
    says(own, monkeypatch, None, is_here=True)
    assert own.status(REF).state == MigrationState.NONE


def test_one_that_ends_while_it_is_looked_at_is_kept(own: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    job = own._remember(REF, "first/1")

    def look(_: str) -> tuple[MigrationStatus, bool]:
        job.end(DONE)
        return MOVING, True

    monkeypatch.setattr(own, "_look", look)
    assert own.status(REF).state == MigrationState.RUNNING  # as it was seen
    says(own, monkeypatch, None, is_here=False)
    assert own.status(REF).state == MigrationState.COMPLETED
    job.note(MOVING)  # a late look
    assert own.status(REF).state == MigrationState.COMPLETED
