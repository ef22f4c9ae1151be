"""CloudOps' placement in a process of its own: `python -m bench.placement_ours` inside an installation's environment.

Reads orders as JSON lines and answers in kind, as the peers do. ``decide`` and ``race`` place VMs: a decision, its
claim and its stored explanation, committed together; with ``bare`` only the decision and the claim.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

import django

django.setup()

from django.db import connection, transaction  # noqa: E402
from django.db.models import F, Q  # noqa: E402
from django.utils import timezone  # noqa: E402

from bench import placement_shape as shape  # noqa: E402
from cloudops.core.actors import system  # noqa: E402
from cloudops.hypervisors.port import PowerState  # noqa: E402
from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Tag, Vm  # noqa: E402
from placement import capacity, claims, decisions, mirror, statements  # noqa: E402
from placement.errors import CapacityGone, NoHostFits  # noqa: E402
from placement.models import Claim, ClaimKind, Decision, FleetSnapshot, HostCapacity  # noqa: E402
from placement.scheduler import decide  # noqa: E402
from placement.spec import Purpose, Spec  # noqa: E402

BY = system("bench")
AMONG = 8
BATCH = 5_000


def fill(*, hosts: int, vms: int, now: datetime, small: bool = False) -> None:
    """The fleet, what runs on it as taken, and VMs numbered from 1 that are to be placed. ``small``: 64 GiB and nothing
    on them, to be filled to the brim."""
    endpoint = Endpoint.objects.create(kind="simulated", uri="simulated://bench?hosts=1")
    clusters = Cluster.objects.bulk_create(
        Cluster(name=f"c{n:04}", position=n) for n in range(shape.clusters_of(hosts))
    )
    tags = Tag.objects.bulk_create(Tag(name=f"tag-{n:02}") for n in range(shape.TAGS))
    fleet = list(shape.hosts(hosts))
    up = {"endpoint": endpoint, "connection": Connection.UP, "cpu_threads": shape.THREADS}
    memory = 65_536 if small else shape.MEMORY_MIB
    ids = {h.uuid: UUID(int=number) for number, h in enumerate(fleet, 1)}  # so that pgbench can name them
    rows = [
        Host(id=ids[h.uuid], cluster=clusters[h.cluster], ref=h.name, name=h.name, memory_mib=memory + 1_024, **up)
        for h in fleet
    ]
    Host.objects.bulk_create(rows, batch_size=BATCH)
    through = Host.tags.through
    carried = [through(host_id=ids[h.uuid], tag_id=tags[n].pk) for h in fleet for n in h.tags]
    through.objects.bulk_create(carried, batch_size=BATCH)
    HostCapacity.objects.bulk_create(
        (
            HostCapacity(
                host_id=ids[h.uuid],
                vcpu_claimed=0 if small else sum(size[0] for _, size in h.vms),
                memory_claimed_mib=0 if small else sum(size[1] for _, size in h.vms),
            )
            for h in fleet
        ),
        batch_size=BATCH,
    )
    capacity.refresh(now=now)
    home = Host.objects.create(**up | {"cluster": clusters[0], "ref": "home", "name": "home", "schedulable": False})
    _vms(vms, home)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def _vms(count: int, home: Host) -> None:
    """VMs with ids 1, 2, 3 ... so that pgbench can name them; made by one statement from a first one."""
    Vm.objects.create(id=UUID(int=1), ref="1", name="vm-1", host=home, power_state=PowerState.OFF)
    names = [str(field.column) for field in Vm._meta.concrete_fields]
    own = {"id": "lpad(to_hex(n), 32, '0')::uuid", "ref": "n::text", "name": "'vm-' || n"}
    values = ", ".join(own.get(name, name) for name in names)
    with connection.cursor() as cursor:
        columns = ", ".join(names)
        further = f"SELECT {values} FROM inventory_vm, generate_series(2, {count}) AS n WHERE id = %s"  # noqa: S608
        cursor.execute(f"INSERT INTO inventory_vm ({columns}) {further}", [UUID(int=1)])


def keep() -> None:
    """Remembers what is taken, for :func:`restore`."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bench_before AS SELECT * FROM placement_hostcapacity")


def restore() -> None:
    """As it was: nothing placed, nothing decided. The next version is read by everybody."""
    Decision.objects.all().delete()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE placement_claim")
        cursor.execute(
            "UPDATE placement_hostcapacity c SET vcpu_claimed = b.vcpu_claimed, "
            "memory_claimed_mib = b.memory_claimed_mib, version = pg_current_xact_id()::text::bigint "
            "FROM bench_before b WHERE b.host_id = c.host_id AND c.memory_claimed_mib <> b.memory_claimed_mib"
        )
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE placement_hostcapacity, placement_claim, placement_decision")


def floor() -> dict[str, str]:
    """The product's claim statement for a random host and the next VM, as a pgbench script."""
    values = {
        "id": "gen_random_uuid()",
        "host_id": "(lpad(to_hex(:number::bigint), 32, '0'))::uuid",
        "vm_id": "(lpad(to_hex(nextval('bench_vm')), 32, '0'))",
        "kind": "'vm'",
        "operation_id": "NULL",
        "vcpus": "2",
        "memory_mib": "4096",
        "adopted": "false",
        "any_hold": "false",
        "any_will": "false",
        "structure": "NULL",
        "created_at": "now()",
    }
    with connection.cursor() as cursor:
        cursor.execute("DROP SEQUENCE IF EXISTS bench_vm; CREATE SEQUENCE bench_vm")
    hosts = HostCapacity.objects.filter(host__schedulable=True).count()
    statement = statements.take_postgres().text % values
    return {"script": f"\\set number random(1, {hosts})\n{statement};\n"}


def warm() -> None:
    """Reads the fleet, as a process has that has been at work."""
    with mirror.current().up_to_date(now=timezone.now()):
        pass


def check() -> dict[str, Any]:
    """Hosts that promise more than they may, and hosts whose sum is not that of their claims."""
    over = Q(vcpu_claimed__gt=F("vcpu_capacity")) | Q(memory_claimed_mib__gt=F("memory_capacity_mib"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM placement_hostcapacity c JOIN bench_before b USING (host_id) "
            "WHERE c.memory_claimed_mib <> b.memory_claimed_mib + "
            "(SELECT coalesce(sum(memory_mib), 0) FROM placement_claim k WHERE k.host_id = c.host_id)"
        )
        drift = cursor.fetchone()[0]
        cursor.execute(
            "SELECT coalesce(sum(memory_capacity_mib - memory_claimed_mib), 0), coalesce(sum(memory_capacity_mib), 1) "
            "FROM placement_hostcapacity c JOIN inventory_host h ON h.id = c.host_id WHERE h.schedulable"
        )
        free, whole = cursor.fetchone()
    return {
        "over": HostCapacity.objects.filter(over).count(),
        "drift": drift,
        "full_percent": 100.0 * (1 - free / whole),
        "claims": Claim.objects.count(),
        "decisions": Decision.objects.count(),
        "snapshots": FleetSnapshot.objects.count(),
    }


class Worker:
    """Places numbered VMs, and counts lost races."""

    def __init__(self) -> None:
        self.conflicts = 0
        self._insert = claims.insert
        claims.insert = self._counting

    def _counting(self, claim: Claim, **values: Any) -> bool:
        taken = self._insert(claim, **values)
        self.conflicts += not taken
        return taken

    def specs(self, order: dict[str, Any]) -> Iterator[Spec]:
        if order.get("small"):
            while True:
                yield Spec(Purpose.DEPLOY, 1, 1_024, kind="simulated", seed=uuid4().int & 0xFFFF, among=AMONG)
        for number, (size, tag) in enumerate(shape.requests(order["seed"])):
            tags = {f"tag-{tag:02}": "offering bench"}
            seed = (order["seed"] << 20) + number
            yield Spec(Purpose.DEPLOY, size[0], size[1], tags=tags, kind="simulated", seed=seed, among=AMONG)

    def place(self, spec: Spec, vm: Vm, *, bare: bool) -> None:
        now = timezone.now()
        if not bare:
            decisions.place(vm, spec=spec, kind=ClaimKind.VM, by=BY, now=now)
            return
        owner, first = mirror.current(), True
        while True:
            with owner.up_to_date(now=now, lately=first) as fleet:
                host = decide(spec, fleet).host
                if host is None:
                    raise NoHostFits("nothing fits")
                ground = owner.ground(host)
            claim = statements.made(
                Claim,
                id=uuid4(),
                host_id=UUID(host),
                vm_id=vm.pk,
                kind=str(ClaimKind.VM),
                operation_id=None,
                vcpus=spec.vcpus,
                memory_mib=spec.memory_mib,
                adopted=False,
                created_at=now,
            )
            if claims.insert(claim, structure=ground.structure):
                owner.claimed(ground, vcpus=spec.vcpus, memory_mib=spec.memory_mib)
                return
            first = False

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        first, refused = order["first"], 0
        taken: list[float] = []
        self.conflicts = 0
        specs = self.specs(order)
        vm = Vm(name="bench")  # who places a VM has it already: only its id is a new one each time
        until = order["at"] + order["seconds"] if "seconds" in order else None
        time.sleep(max(0.0, order.get("at", 0) - time.time()))
        while len(taken) < order.get("count", 10**9) and (until is None or time.time() < until):
            vm.pk = UUID(int=first + len(taken))
            spec = next(specs)
            started = time.perf_counter()
            try:
                self.place(spec, vm, bare=bool(order.get("bare")))
            except NoHostFits:
                refused += 1
                break
            except CapacityGone:
                continue
            taken.append((time.perf_counter() - started) * 1e3)
        return {"ms": taken, "conflicts": self.conflicts, "refused": refused}


def main() -> None:
    """Says that it is ready, and obeys."""
    worker = Worker()
    print(json.dumps({"ready": True}), flush=True)
    acts: dict[str, Any] = {"check": check, "restore": restore, "keep": keep, "floor": floor, "warm": warm}
    for line in sys.stdin:
        order = json.loads(line)
        act = order.pop("do")
        answer: dict[str, Any] | None = None
        if act == "fill":
            fill(**order, now=timezone.now())
        else:
            answer = acts[act]() if act in acts else worker.run(order)
        print(json.dumps(answer or {}), flush=True)


if __name__ == "__main__":
    main()
