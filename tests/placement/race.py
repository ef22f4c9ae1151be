"""A race for room: `python -m tests.placement.race JSON` inside an installation's environment.

It makes hosts and VMs, has several processes place VMs from several threads each until nothing fits, giving some back
on the way, and adds everything up; then it fills what that left and adds up once more.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from functools import partial
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

import django

django.setup()

from django.db import connection  # noqa: E402
from django.db.models import F, Q, Sum  # noqa: E402
from django.utils import timezone  # noqa: E402

from cloudops.inventory.models import Host, Vm  # noqa: E402
from placement import claims, decisions, requests  # noqa: E402
from placement.errors import AlreadyClaimed, CapacityGone, NoHostFits  # noqa: E402
from placement.models import Claim, ClaimKind, Decision, HostCapacity  # noqa: E402
from placement.spec import Purpose  # noqa: E402
from tests import forking  # noqa: E402
from tests.placement.world import BY, add_cluster, add_host, add_vm  # noqa: E402


def seed(*, hosts: int, vms: int) -> None:
    """Hosts of 16 GiB each; VMs of 1 GiB that are all defined on one more host, which takes none."""
    cluster = add_cluster("linux")
    for number in range(hosts):
        add_host(f"host-{number:03d}", cluster, cpu_threads=64)
    home = add_host("home", cluster, schedulable=False)
    for number in range(vms):
        add_vm(f"vm-{number:04d}", home, vcpus=1, memory_mib=1_024)


def place_one(vm: Vm, *, give_back: bool) -> str:
    """How it went, as a key of the outcome."""
    try:
        spec = requests.spec_for(vm, purpose=Purpose.DEPLOY)
        placed = decisions.place(vm, spec=spec, kind=ClaimKind.VM, by=BY, now=timezone.now())
        if give_back:
            claims.release(placed.claim, now=timezone.now())
            decisions.place(vm, spec=spec, kind=ClaimKind.VM, by=BY, now=timezone.now())
    except NoHostFits:
        return "refused"
    except (CapacityGone, AlreadyClaimed):
        return "gone"
    return "placed"


def place(number: int, wait: forking.Wait, *, threads: int, of: int, give_back: float) -> dict[str, Any]:
    """This process's share of the VMs, placed by several threads at once."""
    outcome: dict[str, Any] = {"placed": 0, "refused": 0, "gone": 0, "errors": []}
    lock, start = threading.Lock(), threading.Event()
    mine = list(Vm.objects.select_related("host__endpoint", "offering", "template").order_by("name"))[number::of]

    def note(key: str, error: str = "") -> None:
        with lock:
            outcome[key] = outcome[key] + ([error] if error else 1)

    def work(which: int) -> None:
        chance = random.Random(which + 1_000 * number)
        start.wait()
        for vm in mine[which::threads]:
            try:
                note(place_one(vm, give_back=chance.random() < give_back))
            except Exception as error:  # everything that is no refusal is a failure of the test
                note("errors", f"{type(error).__name__}: {error}")
        connection.close()

    running = [threading.Thread(target=work, args=(which,)) for which in range(threads)]
    for thread in running:
        thread.start()
    wait()
    start.set()
    for thread in running:
        thread.join()
    return outcome


def check() -> dict[str, Any]:
    over = Q(vcpu_claimed__gt=F("vcpu_capacity")) | Q(memory_claimed_mib__gt=F("memory_capacity_mib"))
    rows = HostCapacity.objects.annotate(sums=Sum("claims__memory_mib"))
    taking = HostCapacity.objects.filter(host__schedulable=True)
    placed = Decision.objects.filter(outcome="placed").order_by("?")[:20]
    return {
        "over": HostCapacity.objects.filter(over).count(),
        "wrong_sums": sum(1 for row in rows if (row.sums or 0) != row.memory_claimed_mib),
        "free_mib": sum(row.memory_capacity_mib - row.memory_claimed_mib for row in taking),
        "claims": Claim.objects.count(),
        "on_home": Claim.objects.filter(host__host=Host.objects.get(name="home")).count(),
        "decisions": Decision.objects.filter(outcome="placed").count(),
        "exact": [decisions.explain(one).exact for one in placed.select_related("snapshot")],
    }


def race(*, processes: int, threads: int, hosts: int, vms: int) -> dict[str, Any]:
    work = partial(place, threads=threads, of=processes, give_back=0.25)
    outcomes = forking.race(processes, work, prepare=partial(seed, hosts=hosts, vms=vms))
    end = check()
    # Whoever gave room back may have lost it to another; a last round fills what that left.
    again = place(0, lambda: None, threads=1, of=1, give_back=0.0)
    return {"outcomes": outcomes, "end": end, "again": again, "full": check()}


if __name__ == "__main__":
    print(json.dumps(race(**json.loads(sys.argv[1]))))  # noqa: T201 - the answer to the test
