"""The vCenter of ``script/bench inventory``, in a process of its own: the fake, and bursts of changes on request.

It prints its address and login as a line of JSON, then answers every line of standard input, a number of VMs, by
changing half of them in power and moving the others, and prints where each VM of all is afterwards.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Any, Self

from tests.vsphere.fake import FakeVcenter
from tests.vsphere.fake.world import World

HOSTS, VMS, CLUSTERS = 100, 1_000, 4
POWER = {"poweredOn": "running", "poweredOff": "off"}
Places = dict[str, tuple[str, str]]
"""Power state and host, by instance UUID."""


def main() -> None:
    """Until standard input ends."""
    chance = random.Random(1)
    with FakeVcenter(HOSTS, VMS, clusters=CLUSTERS) as vcenter:
        access = {"uri": vcenter.uri, "username": vcenter.username, "secret": vcenter.password}
        _say({**access, "certificate_sha256": vcenter.fingerprint_sha256})
        for line in sys.stdin:
            _say(_burst(vcenter.world, int(line), chance))


def _burst(world: World, count: int, chance: random.Random) -> Places:
    with world.lock:
        hosts, vms = list(world.hosts.values()), list(world.vms.values())
        for number, vm in enumerate(chance.sample(vms, count)):
            if number % 2:
                world.place(vm, chance.choice([host for host in hosts if host is not vm.host]))
            else:
                vm.power = "poweredOff" if vm.power == "poweredOn" else "poweredOn"
                world.changed(vm)
        return {vm.instance_uuid: (POWER[vm.power], vm.host.mo_id) for vm in vms}


def _say(words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class VcenterProcess:
    """It, seen from the benchmark. ``access``: what ``EndpointSpec`` and ``add_host`` take."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            root = Path(__file__).parent.parent
            command = [sys.executable, "-m", "bench.inventory_vcenter"]
            self._process = stack.enter_context(Popen(command, cwd=root, stdin=PIPE, stdout=PIPE, text=True))
            stack.callback(self._process.kill)
            self.access: dict[str, Any] = self._answer()
            self._stack = stack.pop_all()
        return self

    def burst(self, vms: int) -> Places:
        """Changes so many VMs; where all are now."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{vms}\n")
        self._process.stdin.flush()
        return {ref: (power, host) for ref, (power, host) in self._answer().items()}

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the fake vCenter ended by itself; its words are above")
        return json.loads(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


if __name__ == "__main__":
    main()
