"""What tests of real migrations have done inside an installation: see ``tests.e2e.inside``."""

from __future__ import annotations

import os
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
from tests.e2e.inside import serve  # noqa: E402

BY = system("test")


class Verbs:
    """What a test may ask."""

    def seed(self, uris: list[str]) -> dict[str, str]:
        """One cluster for each host, so that VMs move across clusters; the hosts' ids by URI."""
        now = timezone.now()
        runtime.change(by=BY, now=now, placement_memory_reserve_mib=0)
        for number, uri in enumerate(uris):
            cluster = clusters.create(name=f"rack-{number}", by=BY, now=now)
            (host,) = hosts.add_host(kind="libvirt", uri=uri, cluster=cluster, by=BY, now=now)
            hosts.change_host(host, timeout_seconds=5, by=BY, now=timezone.now())
        return {host.endpoint.uri: str(host.pk) for host in Host.objects.select_related("endpoint")}

    def sync(self) -> dict[str, str]:
        """Reads all hosts; the VMs' ids by name."""
        for endpoint in Endpoint.objects.all():
            sync.sync_endpoint(endpoint, now=timezone.now())
        return {vm.name: str(vm.pk) for vm in Vm.objects.filter(missing_since__isnull=True)}

    def migrate(self, vm: str, to: str, **options: Any) -> str:
        """The operation's id."""
        said = vm_migrations.Options.of(runtime.current(), **options)
        row, target = Vm.objects.get(pk=vm), Host.objects.get(pk=to)
        return str(vm_migrations.migrate(row, to=target, options=said, by=BY, now=timezone.now()).pk)

    def abort(self, operation: str) -> None:
        vm_migrations.abort(VmMigration.objects.get(pk=UUID(operation)), by=BY, now=timezone.now())


if __name__ == "__main__":
    serve(Verbs())
