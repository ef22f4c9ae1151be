"""Run inside an installation: two simulated clusters with tags, a decision, VMs on their way and a host being emptied.

Copying is so slow that pictures of it can be taken. Prints one line of JSON: what pages are about.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django

SLOW_MIB_PER_SECOND = 12


def seed(*, state: str) -> dict[str, str]:
    """``state``: the file in which the simulated hosts' processes meet. VMs on the move belong to project apollo."""
    from django.utils import timezone

    from cloudops.core import runtime
    from cloudops.core.actors import system
    from cloudops.hypervisors.port import PowerState
    from cloudops.inventory import offerings, templates, vms
    from cloudops.inventory.models import Host, Vm
    from placement import decisions, groups, maintenance, vm_migrations
    from placement.requests import spec_for
    from placement.spec import Purpose

    by, now = system("seed"), timezone.now()
    windows, linux = (_cluster(name, state) for name in ("windows", "linux"))
    small = offerings.create(name="generic", vcpus=2, memory_mib=2048, host_tags=["generic"], by=by, now=now)
    debian = templates.create(
        name="debian-12", host_tags=["linux"], description="Debian 12 cloud image", by=by, now=now
    )
    running = list(Vm.objects.filter(host__in=linux, power_state=PowerState.RUNNING).order_by("-memory_mib", "name"))
    groups.create(name="web", kind="apart", vms=running[-3:], by=by, now=now)
    asking = Vm.objects.filter(host__in=windows, power_state=PowerState.RUNNING)[0]
    vms.set_offering(asking, offering=small, by=by, now=now)
    vms.set_placement(asking, template=debian, by=by, now=now)
    asking = Vm.objects.select_related("host__endpoint", "host__cluster", "offering", "template").get(pk=asking.pk)
    spec = spec_for(asking, purpose=Purpose.MIGRATE, now=now)
    decision = decisions.dry_run(spec, by=by, now=now, store=True, vm=asking).decision
    assert decision is not None
    moving, still = running[0], running[1]
    vms.assign([moving], project=_apollo(), by=by, now=now)
    # Hosts of other endpoints than these two share no state: nothing can really go there.
    inside = vm_migrations.Options.of(runtime.current(), across_clusters=False)
    vm_migrations.migrate(moving, to=None, options=inside, by=by, now=now)
    emptied = Host.objects.filter(pk__in=[host.pk for host in windows]).exclude(pk=asking.host_id)[0]
    job = maintenance.start(host_ids=[emptied.pk], reason="New firmware", by=by, now=now)
    group = groups.create(name="database", kind="together", strict=False, vms=running[-5:-3], by=by, now=now)
    spare = next(host for host in linux if host.pk not in {moving.host_id, still.host_id})
    return {
        "moving": str(moving.pk),
        "still": str(still.pk),
        "asking": str(asking.pk),
        "decision": str(decision.pk),
        "group": str(group.pk),
        "cluster": str(spare.cluster_id),
        "emptied": str(emptied.pk),
        "spare": str(spare.pk),
        "job": str(job.pk),
        "several": "&".join(f"ids={vm.pk}" for vm in running[:4]),
    }


def _cluster(name: str, state: str) -> list[Any]:
    """A cluster of three hosts with their VMs; its name is one of its hosts' tags."""
    from django.utils import timezone

    from cloudops.core.actors import system
    from cloudops.inventory import clusters, hosts
    from cloudops.inventory.sync import sync_endpoint

    by, now = system("seed"), timezone.now()
    home = clusters.create(name=name, by=by, now=now)
    uri = f"simulated://{name}?hosts=3&vms=6&seed=5&state={state}&migrate_mib_per_second={SLOW_MIB_PER_SECOND}"
    added = hosts.add_host(kind="simulated", uri=uri, cluster=home, by=by, now=now)
    for host in added:
        hosts.set_tags(host, ["generic", name], by=by, now=now)
    sync_endpoint(added[0].endpoint, now=timezone.now())
    return list(added)


def _apollo() -> Any:
    from cloudops.accounts.models import Project

    return Project.objects.get(name="apollo")


if __name__ == "__main__":
    django.setup()
    sys.stdout.write(json.dumps(seed(**json.loads(sys.argv[1]))) + "\n")
