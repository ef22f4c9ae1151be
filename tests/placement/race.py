"""One process of a race for room: `python -m tests.placement.race ROLE JSON` inside an installation's environment.

Roles: ``seed`` makes hosts and VMs; ``place`` says that it is ready and, after a line of input, places VMs from several
threads until nothing fits, giving some back on the way; ``check`` adds everything up.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
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
from tests.placement.world import BY, add_cluster, add_host, add_vm  # noqa: E402


def seed(*, hosts: int, vms: int) -> dict[str, Any]:
    """Hosts of 16 GiB each; VMs of 1 GiB that are all defined on one more host, which takes none."""
    cluster = add_cluster("linux")
    for number in range(hosts):
        add_host(f"host-{number:03d}", cluster, cpu_threads=64)
    home = add_host("home", cluster, schedulable=False)
    for number in range(vms):
        add_vm(f"vm-{number:04d}", home, vcpus=1, memory_mib=1_024)
    return {"hosts": hosts}


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


def place(*, threads: int, number: int, of: int, give_back: float) -> dict[str, Any]:
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
    print("ready", flush=True)  # noqa: T201 - to the test
    sys.stdin.readline()
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


if __name__ == "__main__":
    role, parameters = sys.argv[1], json.loads(sys.argv[2])
    roles: dict[str, Any] = {"seed": seed, "place": place, "check": check}
    print(json.dumps(roles[role](**parameters)))  # noqa: T201 - the answer to the test
