"""Inside an installation: domain verbs called by a test, which is another process. One JSON line each way.

``Inside`` is the test's end; run as a program this module is the other one, with Django set up once. Other modules
serve verbs of their own with :func:`serve`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

ROOT = Path(__file__).resolve().parents[2]


class Inside:
    """``Inside(env).job(job_id)``: any function of :class:`Verbs` with JSON values; its failure is the test's."""

    def __init__(self, env: dict[str, str], module: str = "tests.e2e.inside") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, verb: str) -> Any:
        def call(**values: Any) -> Any:
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            stdin.write(json.dumps([verb, values]) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline() or '{"failed": "the process inside ended"}')
            assert "failed" not in answer, f"{verb}({values}): {answer['failed']}"
            return answer["value"]

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Verbs:
    """What a test may ask. Django is set up by now."""

    def seed(self, hosts: list[dict[str, Any]], timeout_seconds: int = 10) -> dict[str, Any]:
        """Registers libvirt hosts ({"uri", "cluster", "cpu_threads", "memory_mib"}), with the cast of `tests.e2e.seed`;
        {"tokens": by person, "hosts": ids by name, "vms": ids by name}."""
        from django.utils import timezone

        from cloudops.core.actors import system
        from cloudops.inventory import hosts as domain
        from cloudops.inventory.models import Host, Vm
        from tests.e2e.seed import seed

        tokens: dict[str, str] = {}
        for host in hosts:
            made = seed(uri=host["uri"], kind="libvirt", cluster=host["cluster"])
            tokens = tokens or made["tokens"]
            changes = {"cpu_threads_override": host["cpu_threads"], "memory_mib_override": host["memory_mib"]}
            changes["timeout_seconds"] = timeout_seconds
            domain.change_host(Host.objects.get(pk=made["host"]), **changes, by=system("seed"), now=timezone.now())
        return {
            "tokens": tokens,
            "hosts": {host.name: str(host.pk) for host in Host.objects.all()},
            "vms": {vm.name: str(vm.pk) for vm in Vm.objects.all()},
        }

    def settings(self, **values: Any) -> None:
        from django.utils import timezone

        from cloudops.core import runtime
        from cloudops.core.actors import system

        runtime.change(by=system("test"), now=timezone.now(), **values)

    def preview(self, hosts: list[str]) -> dict[str, Any]:
        """{"moves": {VM: destination}, "blockers": [words]}."""
        from django.utils import timezone

        from placement import maintenance

        plan = maintenance.preview(host_ids=self._ids(hosts), now=timezone.now())
        moves = {move.vm_name: move.to_host_name for move in plan.moves}
        return {"moves": moves, "blockers": [blocker.words for blocker in plan.blockers]}

    def start(self, hosts: list[str]) -> str:
        """Begins a maintenance of these hosts; its id."""
        from django.utils import timezone

        from placement import maintenance

        return str(maintenance.start(host_ids=self._ids(hosts), by=self._ada(), now=timezone.now()).pk)

    def complete(self, job: str) -> None:
        from django.utils import timezone

        from placement import maintenance
        from placement.models import Maintenance

        maintenance.complete(Maintenance.objects.get(pk=job), by=self._ada(), now=timezone.now())

    def cancel(self, job: str) -> None:
        from django.utils import timezone

        from placement import maintenance
        from placement.models import Maintenance

        maintenance.cancel(Maintenance.objects.get(pk=job), abort_running=True, by=self._ada(), now=timezone.now())

    def bring_home(self, job: str) -> str:
        """The id of the job that brings them home."""
        from django.utils import timezone

        from placement import maintenance
        from placement.models import Maintenance

        return str(maintenance.bring_home(Maintenance.objects.get(pk=job), by=self._ada(), now=timezone.now()).pk)

    def job(self, job: str) -> dict[str, Any]:
        """{"status", "reason", "hosts": {name: [status, why]}, "moves": {VM: [status, target, attempts, why]}}."""
        from placement.models import Maintenance

        row = Maintenance.objects.get(pk=job)
        moves = row.moves.select_related("vm", "target")
        return {
            "status": row.status,
            "reason": row.blocked_reason,
            "hosts": {one.host.name: [one.status, one.blocked_reason] for one in row.hosts.select_related("host")},
            "moves": {
                move.vm.name: [move.status, move.target.name if move.target else None, move.attempts, move.reason]
                for move in moves
            },
        }

    def migrations(self) -> dict[str, dict[str, Any]]:
        """Those that have not ended: {VM: {"phase", "target", "progress"}}."""
        from placement.models import VmMigration

        rows = VmMigration.objects.filter(ended_at=None).select_related("vm", "target")
        return {row.vm.name: {"phase": row.phase, "target": row.target.name, "progress": row.progress} for row in rows}

    def history(self, job: str) -> list[list[Any]]:
        """Every migration of a job: [VM, source, target, operation's status, seconds, pause in ms, error]."""
        from placement.models import VmMigration

        rows = VmMigration.objects.filter(maintenance_id=job).select_related("vm", "source", "target", "operation")
        return [
            [
                row.vm.name,
                row.source.name,
                row.target.name,
                row.operation.status,
                round((row.ended_at - row.created_at).total_seconds(), 1) if row.ended_at else None,
                row.progress.get("downtime_milliseconds"),
                row.operation.error_code,
            ]
            for row in rows.order_by("created_at")
        ]

    def books(self) -> dict[str, Any]:
        """The inventory's and the claims' word: {"where": {VM: [host, power]}, "claims": {VM: [[host, kind]]},
        "drift": [words], "open": operations that have not ended, "connections": {host: state}}."""
        from django.utils import timezone

        from cloudops.core.models import Operation
        from cloudops.inventory.models import Host, Vm
        from placement import reconciling
        from placement.models import Claim

        held: dict[str, list[list[str]]] = {vm.name: [] for vm in Vm.objects.all()}
        for claim in Claim.objects.select_related("vm", "host__host"):
            held[claim.vm.name].append([claim.host.host.name, claim.kind])
        return {
            "where": {vm.name: [vm.host.name, vm.power_state] for vm in Vm.objects.select_related("host")},
            "claims": held,
            "drift": [f"{one.kind}: {one.detail}" for one in reconciling.drift(now=timezone.now())],
            "open": list(Operation.objects.filter(status__in=["pending", "running"]).values_list("title", flat=True)),
            "connections": dict(Host.objects.values_list("name", "connection")),
        }

    def _ids(self, names: list[str]) -> list[UUID]:
        from cloudops.inventory.models import Host

        return [Host.objects.get(name=name).pk for name in names]

    def _ada(self) -> Any:
        from cloudops.accounts.models import User
        from cloudops.core.actors import Actor, ActorKind

        user = User.objects.get(username="ada")
        return Actor(ActorKind.USER, user.get_username(), user.pk, "127.0.0.1")


def serve(verbs: object) -> None:
    """Answers until standard input ends. Django is set up."""
    from django.db import close_old_connections

    for line in sys.stdin:
        verb, values = json.loads(line)
        close_old_connections()
        try:
            answer = {"value": getattr(verbs, verb)(**values)}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer, default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import django

    django.setup()
    serve(Verbs())
