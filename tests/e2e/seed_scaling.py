"""Run inside an installation: offerings to grow into, and a VM of project apollo that has grown. One line of JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import django


def seed(*, vm: str) -> dict[str, str]:
    """``vm``: a VM that runs, and that no operation is at work on."""
    from django.utils import timezone

    from cloudops.accounts.models import Project
    from cloudops.core import operations
    from cloudops.core.actors import system
    from cloudops.inventory import offerings, vms
    from cloudops.inventory.models import Vm
    from scaling.models import Resize, SizeSample, VmSize
    from scaling.values import Size

    by, now = system("seed"), timezone.now()
    custom: dict[str, Any] = {"kind": "custom", "dynamic_scaling": True, "by": by, "now": now}
    growing = offerings.create(
        name="growing", cpu_mhz=1500, vcpus=1, max_vcpus=16, memory_mib=256, max_memory_mib=65_536, **custom
    )
    offerings.create(name="small", cpu_mhz=500, vcpus=1, max_vcpus=2, memory_mib=256, max_memory_mib=512, **custom)
    offerings.create(name="static", vcpus=4, memory_mib=8192, by=by, now=now)
    offerings.create(name="enormous", vcpus=512, memory_mib=4_194_304, dynamic_scaling=True, by=by, now=now)
    row = Vm.objects.select_related("host__endpoint", "project", "offering").get(pk=vm)
    vms.assign([row], project=Project.objects.get(name="apollo"), by=by, now=now)
    vms.set_offering(row, offering=growing, by=by, now=now)
    has, was = Size(row.vcpus, row.memory_mib, 1500), Size(max(1, row.vcpus // 2), row.memory_mib // 2, 500)
    VmSize.objects.create(vm=row, vcpus=has.vcpus, memory_mib=has.memory_mib, cpu_mhz=1500, changed_at=now)
    for hours, wanted, real in ((60, was, was), (20, has, was), (19, has, has)):
        SizeSample.objects.create(
            vm=row,
            at=now - timedelta(hours=hours),
            wanted_vcpus=wanted.vcpus,
            wanted_memory_mib=wanted.memory_mib,
            vcpus=real.vcpus,
            memory_mib=real.memory_mib,
            guest_memory_mib=real.memory_mib,
        )
    words = f"It has {was.vcpus} vCPUs and {was.memory_mib:,} MiB. The guest did not take the memory in time."
    operation = operations.start(
        kind="vm.resize", title=f"Resize {row.name}", subject=row, steps=["Change"], by=by, now=now
    )
    operations.begin(operation, by=by, now=now)
    operations.fail(
        operation, by=by, now=now, code="partly-applied", detail=words, remedy="Continue, or roll back to what it had."
    )
    Resize.objects.create(
        operation=operation,
        vm=row,
        offering=growing,
        offering_name=growing.name,
        offering_version=1,
        mode=Resize.Mode.LIVE,
        phase=Resize.Phase.ENDED,
        outcome=Resize.Outcome.PARTLY,
        from_size=asdict(was),
        to_size=asdict(has),
        given_size=asdict(has),
        seen={"words": f"Applied in guest: {was.memory_mib:,} of {has.memory_mib:,} MiB."},
        created_at=now - timedelta(minutes=3),
        ended_at=now - timedelta(minutes=2),
    )
    return {"sized": str(row.pk), "growing": str(growing.pk)}


if __name__ == "__main__":
    django.setup()
    sys.stdout.write(json.dumps(seed(**json.loads(sys.argv[1]))) + "\n")
