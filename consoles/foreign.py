"""Connections that are no consoles of ours: ending one that somebody chose."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.models import Event
from cloudops.inventory import endpoints
from consoles.errors import ConnectionStays, ConnectionUnnamed
from consoles.models import ForeignConnection, OwnConnection


def drop(*, connection: ForeignConnection, by: Actor, now: datetime) -> None:
    """Has the platform end one connection; its slot is free then. ``connection`` has ``vm`` and ``host__endpoint``
    joined.

    Raises :class:`ConnectionUnnamed`, :class:`ConnectionStays` and :class:`HypervisorError`, among them NotSupported
    where one connection cannot be ended without the others (QEMU).
    """
    vm, host, label = connection.vm, connection.host, connection.label
    if not connection.is_named:
        raise ConnectionUnnamed(f"{host.name} counts a connection to {vm.name} and cannot tell which it is.")
    dropped = endpoints.call(host.endpoint, "drop_connections", lambda driver: driver.drop_connections(vm.ref, [label]))
    if label not in dropped:
        raise ConnectionStays(f"{vm.name} still has the connection {connection.words}.")
    with transaction.atomic():
        events.record(
            "console.connection_dropped",
            by=by,
            now=now,
            subject=vm,
            severity=Event.Severity.WARNING,
            data={"connection": label, "user_name": connection.user_name, "client": connection.client_host},
        )
        OwnConnection.objects.filter(vm=vm, label=label).delete()
        ForeignConnection.objects.filter(pk=connection.pk).delete()
        live.publish("consoles", "hosts", f"host:{host.pk}", f"vm:{vm.pk}")
