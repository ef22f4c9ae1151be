"""How long 1,000 VMs on 100 ESXi hosts take from vCenter into the database, and how soon a burst of changes is there.

vCenter is the fake of tests/vsphere/fake in a process of its own, on the same machine. The floor is plain pyVmomi: the
same properties of the same objects over the same protocol, collected once ("collect") or waited for ("updates"), and
nothing done with them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import inventory_floor as floor
from bench.dashboard import _configure
from bench.inventory_vcenter import CLUSTERS, HOSTS, VMS, VcenterProcess
from bench.report import OtherLoad, Report, arguments
from cloudops.lab.services import PrivatePostgres, PrivateRedis

if TYPE_CHECKING:
    from cloudops.inventory.models import Endpoint

OURS, COLLECT, UPDATES = "ours", "collect", "updates"
BURST_VMS = 500
CHANGES = (1, BURST_VMS)
"""How many VMs change at once."""
CALL_SECONDS = 60
FOLLOW_SECONDS = 60.0
LOOK_SECONDS = 0.02


def main() -> None:
    """Starts a private PostgreSQL, Redis and vCenter, and measures inside this process."""
    options = arguments(f"Inventory of {VMS:,} VMs on {HOSTS} ESXi hosts, and a burst of {BURST_VMS} changes.")
    with tempfile.TemporaryDirectory(prefix="cloudops-bench-", dir="/var/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)
        postgres = stack.enter_context(PrivatePostgres(folder / "pg"))
        redis = stack.enter_context(PrivateRedis(folder / "redis"))
        vcenter = stack.enter_context(VcenterProcess())
        _configure(postgres.url(), redis.url())
        report = Report("inventory", [OURS, COLLECT, UPDATES], [COLLECT, UPDATES])
        others = OtherLoad()
        rounds = 1 if options.quick else 3
        for number in range(rounds + 1):  # the first warms pyVmomi, the fake and PostgreSQL
            _measure(vcenter, report if number else Report("warming", [], []))
        report.notes.append(
            f"medians of {rounds} rounds; {HOSTS} hosts in {CLUSTERS} clusters, {VMS:,} VMs; a burst changes power or "
            f"host of {BURST_VMS} VMs at once; rows are looked at every {LOOK_SECONDS * 1000:.0f} ms"
        )
        report.notes.append(f"{COLLECT}, {UPDATES}: pyVmomi alone, the same properties, nothing done with them")
        report.notes.append(others.note())
    report.publish(options.json)


def _measure(vcenter: VcenterProcess, report: Report) -> None:
    from cloudops.inventory import sync

    def tell(name: str, **measured: tuple[float, float]) -> None:
        for subject, (seconds, computed) in measured.items():
            report.row(name, "s").add(subject, seconds)
            report.row(f"… {name}: client's CPU", "s").add(subject, computed)

    floor.read(vcenter.access)  # the fake keeps the words of what has not changed since
    collect = _timed(lambda: floor.read(vcenter.access))
    tell("first sync, driver alone", ours=_timed(lambda: _drive(vcenter.access)), collect=collect)
    endpoint, seconds = _added(vcenter.access)
    tell("first sync into the database", ours=seconds, collect=collect)
    again = _timed(lambda: sync.sync_endpoint(endpoint, now=_now()))
    tell("sync with nothing changed", ours=again, collect=collect)
    plainly, followed = _follow_plainly(vcenter), _follow(vcenter, endpoint)
    for vms in CHANGES:
        name = "one change, until its row agrees" if vms == 1 else f"burst of {vms}, until rows agree"
        tell(name, ours=followed[vms], collect=collect, updates=plainly[vms])
    _forget()


def _now() -> Any:
    from django.utils import timezone

    return timezone.now()


def _timed(act: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and those of them that this process computed."""
    started, computed = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - started, time.process_time() - computed


def _drive(access: dict[str, Any]) -> None:
    from cloudops.hypervisors import registry
    from cloudops.hypervisors.port import EndpointSpec, Kind

    hypervisor = registry.create(EndpointSpec(key="bench", kind=Kind.VSPHERE, timeout_seconds=CALL_SECONDS, **access))
    try:
        found = len(hypervisor.hosts()), len(hypervisor.vms())
    finally:
        hypervisor.close()
    if found != (HOSTS, VMS):
        raise RuntimeError(f"the driver found {found[0]} hosts and {found[1]} VMs")


def _added(access: dict[str, Any]) -> tuple[Endpoint, tuple[float, float]]:
    """Adds the vCenter as an administrator would; every VM has its row afterwards."""
    from cloudops.core.actors import system
    from cloudops.inventory import hosts
    from cloudops.inventory.models import Endpoint, Vm

    def add() -> None:
        hosts.add_host(kind="vsphere", timeout_seconds=CALL_SECONDS, **access, by=system("bench"), now=_now())

    seconds = _timed(add)
    if (found := Vm.objects.count()) != VMS:
        raise RuntimeError(f"there are rows of {found} VMs")
    return Endpoint.objects.get(), seconds


def _follow(vcenter: VcenterProcess, endpoint: Endpoint) -> dict[int, tuple[float, float]]:
    """From each of CHANGES to rows that say the same."""
    from cloudops.inventory.watching import EndpointWatch

    def write(act: Callable[[], Any]) -> Any:
        return act()

    watch = EndpointWatch(endpoint, write=write, clock=_now)
    watch.start()
    try:
        started = _now()
        _until(lambda: _synced_since(endpoint, started))
        return {vms: _timed(partial(_agree_after, vcenter, vms)) for vms in CHANGES}
    finally:
        watch.stop()
        for thread in threading.enumerate():  # what it still reads
            if thread.name.startswith("watch "):
                thread.join(CALL_SECONDS)


def _follow_plainly(vcenter: VcenterProcess) -> dict[int, tuple[float, float]]:
    with floor.logged_in(vcenter.access) as service:
        follower = floor.Follower(service)

        def follow(vms: int) -> None:
            follower.until(vcenter.burst(vms), within_seconds=FOLLOW_SECONDS)

        return {vms: _timed(partial(follow, vms)) for vms in CHANGES}


def _synced_since(endpoint: Endpoint, since: Any) -> bool:
    """Whether the watch has heard that it is connected, and has read everything upon that."""
    from cloudops.inventory.models import Endpoint

    return Endpoint.objects.filter(pk=endpoint.pk, synced_at__gte=since).exists()


def _agree_after(vcenter: VcenterProcess, vms: int) -> None:
    from cloudops.inventory.models import Vm

    wanted = vcenter.burst(vms)
    rows = Vm.objects.values_list("ref", "power_state", "host__ref")
    _until(lambda: {ref: (power, host) for ref, power, host in rows.all()} == wanted)


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + FOLLOW_SECONDS
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the rows did not follow within {FOLLOW_SECONDS} s")
        time.sleep(LOOK_SECONDS)


def _forget() -> None:
    """An empty database again, so that the next first sync is one."""
    from django.core.management import call_command

    call_command("flush", interactive=False, verbosity=0)


if __name__ == "__main__":
    main()
