"""nova's filter scheduler in this process, without RPC and without its database: `python placement_nova.py HOSTS`.

For each request it does what nova does with the hosts it read: builds their states, filters (the default filters) and
weighs (all weighers). Runs in an environment of its own. Reads orders as JSON lines and answers in kind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from typing import Any
from unittest import mock

import placement_shape as shape


def manager() -> Any:
    """nova's host manager; what it would read from its database at start is answered from here."""
    from nova import config, objects
    from nova.conf import CONF

    config.parse_args(["nova-bench"], default_config_files=[])
    logging.getLogger().setLevel(logging.WARNING)
    CONF.set_override("track_instance_changes", False, group="filter_scheduler")
    objects.register_all()
    from nova.scheduler.host_manager import HostManager

    with contextlib.ExitStack() as stack:
        for name in ("_init_aggregates", "_init_instance_info", "refresh_cells_caches"):
            stack.enter_context(mock.patch.object(HostManager, name))
        return HostManager()


def nodes(count: int) -> list[Any]:
    """The fleet as nova reads it from its database."""
    from nova import objects
    from oslo_utils import timeutils

    found = []
    for host in shape.hosts(count):
        used = [sum(size[kind] for _, size in host.vms) for kind in range(3)]
        found.append(
            objects.ComputeNode(
                uuid=host.uuid,
                host=host.name,
                hypervisor_hostname=host.name,
                vcpus=shape.THREADS,
                vcpus_used=used[0],
                memory_mb=shape.MEMORY_MIB,
                free_ram_mb=shape.MEMORY_MIB - used[1],
                local_gb=shape.DISK_GB,
                local_gb_used=used[2],
                free_disk_gb=shape.DISK_GB - used[2],
                disk_available_least=shape.DISK_GB - used[2],
                updated_at=timeutils.utcnow(),
                host_ip="192.0.2.1",
                hypervisor_type="QEMU",
                hypervisor_version=8_000_000,
                cpu_info="{}",
                supported_hv_specs=[],
                numa_topology=None,
                pci_device_pools=None,
                stats={"num_instances": str(len(host.vms)), "io_workload": "0", "failed_builds": "0"},
                metrics="[]",
                cpu_allocation_ratio=shape.CPU_RATIO,
                ram_allocation_ratio=1.0,
                disk_allocation_ratio=1.0,
            )
        )
    return found


class Scheduler:
    """One decision after another over the same compute nodes."""

    def __init__(self, count: int) -> None:
        from nova import context, objects

        self.manager = manager()
        self.nodes = nodes(count)
        self.context = context.get_admin_context()
        self.service = {"host": "x", "disabled": False, "topic": "compute", "report_count": 1, "version": 68}
        self.up = mock.Mock(service_is_up=lambda service: True)
        for one in self.manager.enabled_filters:
            if hasattr(one, "servicegroup_api"):
                one.servicegroup_api = self.up
        self.objects = objects

    def request(self, size: tuple[int, int, int]) -> Any:
        objects = self.objects
        flavor = objects.Flavor(
            vcpus=size[0], memory_mb=size[1], root_gb=size[2], ephemeral_gb=0, swap=0, extra_specs={}, name="bench"
        )
        return objects.RequestSpec(
            context=self.context,
            flavor=flavor,
            num_instances=1,
            image=objects.ImageMeta(properties=objects.ImageMetaProps()),
            instance_uuid="00000000-0000-4000-8000-000000000000",
            project_id="bench",
            scheduler_hints={},
            ignore_hosts=None,
            force_hosts=None,
            force_nodes=None,
            instance_group=None,
            pci_requests=None,
            numa_topology=None,
            requested_destination=None,
            limits=objects.SchedulerLimits(),
            retry=None,
            availability_zone=None,
        )

    def decide(self, size: tuple[int, int, int]) -> str:
        from nova.scheduler.host_manager import HostState

        states = []
        for node in self.nodes:
            state = HostState(node.host, node.hypervisor_hostname, "cell")
            state.update(node, self.service, [], {})
            states.append(state)
        spec = self.request(size)
        weighed = self.manager.get_weighed_hosts(list(self.manager.get_filtered_hosts(states, spec)), spec)
        return str(weighed[0].obj.host)


def main() -> None:
    """Prepares, says so, and obeys ``{"do": "decide", "count", "seed"}``."""
    scheduler = Scheduler(int(sys.argv[1]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        asked = shape.requests(order["seed"])
        taken = []
        for _ in range(order["count"]):
            size, _ = next(asked)
            started = time.perf_counter()
            scheduler.decide(size)
            taken.append((time.perf_counter() - started) * 1e3)
        print(json.dumps({"ms": taken, "conflicts": 0}), flush=True)


if __name__ == "__main__":
    main()
