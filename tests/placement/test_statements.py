"""Statements that go straight through libpq: prepared again when forgotten, with Django's errors."""

from __future__ import annotations

import pytest
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext

from cloudops.inventory.models import Host
from placement import claims, statements
from placement.errors import AlreadyClaimed
from placement.models import Claim, ClaimKind
from tests.placement.world import NOW, add_cluster, add_host, add_vm

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]
ONE = statements.Statement(
    "SELECT %(number)s::integer + 1, NULL, %(data)s::bytea", ("number", "data"), frozenset(["data"])
)


@pytest.fixture
def host() -> Host:
    return add_host("kvm-1", add_cluster("linux"))


def taken(host: Host, name: str) -> Claim:
    row = Claim(host_id=host.pk, vm=add_vm(name, host), kind=ClaimKind.VM, vcpus=1, memory_mib=512, created_at=NOW)
    with claims.once(row):
        assert claims.insert(row)
    return row


def test_both_ways_answer_alike() -> None:
    values = (41, b"\x00\xff")
    straight = statements.run(ONE, values)
    with CaptureQueriesContext(connection) as seen:
        assert statements.run(ONE, values) == straight
    assert len(seen) == 1
    with transaction.atomic():
        assert statements.run(ONE, values) == straight
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
    with pytest.raises(AlreadyClaimed), claims.once(again):
        claims.insert(again)
    with pytest.raises(DataError):
        statements.run(ONE, ("not a number", b""))
    taken(host, "next")
    assert Claim.objects.count() == 2
