"""Statements that go straight through libpq: prepared again when forgotten, with Django's errors."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from cloudops.inventory.models import Host
from placement import claims, prepared
from placement.errors import AlreadyClaimed
from placement.models import Claim, ClaimKind, FleetSnapshot, HostCapacity
from tests.placement.world import NOW, add_cluster, add_host, add_vm

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]
ONE = prepared.Statement(
    "SELECT %(number)s::integer + 1, NULL, %(data)s::bytea", ("number", "data"), frozenset(["data"])
)


@pytest.fixture
def host() -> Host:
    return add_host("kvm-1", add_cluster("linux"))


def taken(host: Host, name: str) -> Claim:
    row = Claim(host_id=host.pk, vm=add_vm(name, host), kind=ClaimKind.VM, vcpus=1, memory_mib=512, created_at=NOW)
    with claims.Once(row):
        assert claims.insert(row)
    return row


def test_both_ways_answer_alike() -> None:
    values = (41, b"\x00\xff")
    straight = prepared.run(ONE, values)
    with CaptureQueriesContext(connection) as seen:
        assert prepared.run(ONE, values) == straight
    assert len(seen) == 1
    with transaction.atomic():
        assert prepared.run(ONE, values) == straight
    assert (straight.count, straight.rows) == (1, [(b"42", None, b"\\x00ff")])


def test_what_the_server_forgot_is_prepared_again(host: Host) -> None:
    taken(host, "before")
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    taken(host, "after")
    assert Claim.objects.count() == 2


def test_errors_are_djangos_and_leave_the_connection_in_order(host: Host) -> None:
    first = taken(host, "twice")
    again = Claim(host_id=host.pk, vm=first.vm, kind=ClaimKind.VM, vcpus=1, memory_mib=512, created_at=NOW)
    with pytest.raises(AlreadyClaimed), claims.Once(again):
        claims.insert(again)
    with pytest.raises(DataError):
        prepared.run(ONE, ("not a number", b""))
    taken(host, "next")
    assert Claim.objects.count() == 2


def test_what_the_end_of_the_exchange_finds_is_an_error_too(host: Host) -> None:
    """That a claim's VM exists is checked when its transaction ends."""
    lost = Claim(host_id=host.pk, vm_id=uuid4(), kind=ClaimKind.VM, vcpus=1, memory_mib=512, created_at=NOW)
    with pytest.raises(IntegrityError):
        claims.insert(lost)
    assert not Claim.objects.exists()
    assert HostCapacity.objects.get(pk=host.pk).vcpu_claimed == 0
    taken(host, "next")


def test_what_goes_with_a_claim_is_stored_with_it_or_not_at_all(host: Host) -> None:
    snapshots = [FleetSnapshot(taken_at=NOW, hosts=1, data=b"\x00\xff") for _ in range(2)]
    big = Claim(host_id=host.pk, vm=add_vm("big", host), kind=ClaimKind.VM, vcpus=1, memory_mib=2**30, created_at=NOW)
    assert not claims.insert(big, beside=lambda: snapshots[:1])
    assert not FleetSnapshot.objects.exists()
    fits = Claim(host_id=host.pk, vm=big.vm, kind=ClaimKind.VM, vcpus=1, memory_mib=512, created_at=NOW)
    assert claims.insert(fits, beside=lambda: snapshots)
    assert [bytes(one.data) for one in FleetSnapshot.objects.all()] == [b"\x00\xff"] * 2


def test_nothing_is_taken_when_what_goes_with_it_cannot_be_made(host: Host) -> None:
    """The connection is given up, so that the server undoes what it has; the next one works."""
    row = Claim(host_id=host.pk, vm=add_vm("a", host), kind=ClaimKind.VM, vcpus=1, memory_mib=512, created_at=NOW)

    def broken() -> list[FleetSnapshot]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        claims.insert(row, beside=broken)
    connection.close()
    assert not Claim.objects.exists()
    taken(host, "next")


def test_a_connection_that_the_server_ended_is_an_error_of_djangos(host: Host) -> None:
    taken(host, "before")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": psycopg.Cursor}) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(OperationalError):
        prepared.run(ONE, (1, b""))
    connection.close()
    taken(host, "after")
