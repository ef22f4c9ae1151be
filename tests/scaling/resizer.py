"""Inside an installation: what the tests of resizes on real hosts ask of its domain; see ``tests.e2e.inside``."""

from __future__ import annotations

from typing import Any
from uuid import UUID


class Verbs:
    """Django is set up by now."""

    def seed(self, uris: list[str], rooms_mib: list[int]) -> dict[str, str]:
        """Hosts of two clusters, so big; their ids by URI."""
        from django.utils import timezone

        from cloudops.core import runtime
        from cloudops.core.actors import system
        from cloudops.inventory import clusters, hosts
        from cloudops.inventory.models import Host, Offering

        by, now = system("test"), timezone.now()
        runtime.change(by=by, now=now, placement_memory_reserve_mib=0, scaling_guest_wait_seconds=60)
        for number, (uri, room) in enumerate(zip(uris, rooms_mib, strict=True)):
            cluster = clusters.create(name=f"rack-{number}", by=by, now=now)
            hosts.add_host(kind="libvirt", uri=uri, cluster=cluster, by=by, now=now)
            host = Host.objects.get(endpoint__uri=uri)
            changes: dict[str, Any] = {"cpu_threads_override": 8, "memory_mib_override": room, "timeout_seconds": 5}
            hosts.change_host(host, **changes, by=by, now=timezone.now())
        Offering.objects.create(
            name="grows",
            kind="custom",
            vcpus=1,
            max_vcpus=4,
            memory_mib=128,
            max_memory_mib=4_096,
            dynamic_scaling=True,
        )
        return {host.endpoint.uri: str(host.pk) for host in Host.objects.select_related("endpoint")}

    def sync(self) -> dict[str, str]:
        from django.utils import timezone

        from cloudops.inventory import sync
        from cloudops.inventory.models import Endpoint, Vm

        for endpoint in Endpoint.objects.all():
            sync.sync_endpoint(endpoint, now=timezone.now())
        return {vm.name: str(vm.pk) for vm in Vm.objects.filter(missing_since__isnull=True)}

    def resize(self, vm: str, vcpus: int, memory_mib: int, how: str) -> dict[str, str]:
        """{"operation"} or {"refused": the code}."""
        from django.utils import timezone

        from cloudops.core.actors import system
        from cloudops.core.errors import Refusal
        from cloudops.inventory.models import Offering, Vm
        from scaling import resizes, subjects
        from scaling.values import Reach

        wanted = subjects.wanted(Offering.objects.get(name="grows"), vcpus=vcpus, memory_mib=memory_mib)
        row = Vm.objects.get(pk=vm)
        try:
            operation = resizes.resize(row, wanted=wanted, how=Reach(how), by=system("test"), now=timezone.now())
        except Refusal as refusal:
            return {"refused": refusal.code, "detail": refusal.detail}
        return {"operation": str(operation.pk)}

    def ended(self, operation: str) -> dict[str, Any] | None:
        """How it ended; None while it has not."""
        from scaling.models import Resize

        row = Resize.objects.select_related("operation", "vm__host").get(pk=UUID(operation))
        if row.ended_at is None:
            return None
        return {
            "status": row.operation.status,
            "outcome": row.outcome,
            "error": [row.operation.error_code, row.operation.error_detail],
            "steps": row.operation.steps,
            "words": row.seen.get("words", ""),
            "host": row.vm.host.name,
        }

    def state(self, operation: str) -> dict[str, Any]:
        """How far it is, for whoever waits in vain."""
        from scaling.models import Resize

        row = Resize.objects.select_related("operation").get(pk=UUID(operation))
        return {
            "phase": row.phase,
            "since": str(row.phase_since),
            "runner": row.runner,
            "until": str(row.runner_until),
            "progress": row.progress,
            "steps": row.operation.steps,
        }

    def truth(self, vm: str) -> dict[str, Any]:
        """What the hypervisor says, and what CloudOps has in its books."""
        from django.utils import timezone

        from cloudops.inventory.models import Vm
        from placement import reconciling
        from placement.models import Claim
        from scaling import planning

        row = planning.read(Vm.objects.get(pk=vm))
        state = planning.truth(row)
        claims = Claim.objects.filter(vm=row).select_related("host__host")
        return {
            "power": str(state.power_state),
            "size": [state.vcpus, state.memory_mib],
            "known": [row.vcpus, row.memory_mib],
            "ceiling": [state.facts.max_vcpus, state.facts.max_memory_mib],
            "claims": [[one.host.host.name, one.kind, one.vcpus, one.memory_mib] for one in claims],
            "drift": [one.detail for one in reconciling.drift(now=timezone.now())],
        }


if __name__ == "__main__":
    import django

    django.setup()
    from tests.e2e.inside import serve

    serve(Verbs())
