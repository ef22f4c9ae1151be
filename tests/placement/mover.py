"""One act inside an installation: `python -m tests.placement.mover ROLE JSON`; prints its answer as JSON.

Roles: ``seed`` adds hosts; ``sync`` reads them and tells the VMs; ``migrate`` and ``abort``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from uuid import UUID

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

import django

django.setup()

from django.utils import timezone  # noqa: E402

from cloudops.core import runtime  # noqa: E402
from cloudops.core.actors import system  # noqa: E402
from cloudops.inventory import clusters, hosts, sync  # noqa: E402
from cloudops.inventory.models import Endpoint, Host, Vm  # noqa: E402
from placement import vm_migrations  # noqa: E402
from placement.models import VmMigration  # noqa: E402

BY = system("test")


def seed(*, uris: list[str]) -> dict[str, Any]:
    """One cluster for each host, so that VMs move across clusters."""
    now = timezone.now()
    runtime.change(by=BY, now=now, placement_memory_reserve_mib=0)
    for number, uri in enumerate(uris):
        cluster = clusters.create(name=f"rack-{number}", by=BY, now=now)
        hosts.add_host(kind="libvirt", uri=uri, cluster=cluster, timeout_seconds=5, by=BY, now=now)
    return {host.endpoint.uri: str(host.pk) for host in Host.objects.select_related("endpoint")}


def sync_all() -> dict[str, Any]:
    for endpoint in Endpoint.objects.all():
        sync.sync_endpoint(endpoint, now=timezone.now())
    return {vm.name: str(vm.pk) for vm in Vm.objects.filter(missing_since__isnull=True)}


def migrate(*, vm: str, to: str, **options: Any) -> str:
    said = vm_migrations.Options.of(runtime.current(), **options)
    row, target = Vm.objects.get(pk=vm), Host.objects.get(pk=to)
    return str(vm_migrations.migrate(row, to=target, options=said, by=BY, now=timezone.now()).pk)


def abort(*, operation: str) -> None:
    vm_migrations.abort(VmMigration.objects.get(pk=UUID(operation)), by=BY, now=timezone.now())


if __name__ == "__main__":
    role, parameters = sys.argv[1], json.loads(sys.argv[2])
    roles: dict[str, Any] = {"seed": seed, "sync": sync_all, "migrate": migrate, "abort": abort}
    print(json.dumps(roles[role](**parameters)))  # noqa: T201 - the answer to the test
