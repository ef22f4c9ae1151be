"""What drains on a real lab have in common: a fleet that CloudOps knows, and what must hold whatever happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudops.lab.lab import Lab
from cloudops.lab.process import ServiceError
from tests.e2e.api import Api
from tests.e2e.inside import Inside
from tests.e2e.product import Product, eventually

GUEST_MIB = 192
RESERVE_MIB = 1024
THREADS = 4
JOB_SECONDS = 180.0


@dataclass
class Fleet:
    """The lab's hosts and guests as CloudOps knows them, by name."""

    lab: Lab
    product: Product
    inside: Inside
    hosts: dict[str, str]
    vms: dict[str, str]
    tokens: dict[str, str]

    def api(self, username: str) -> Api:
        return Api(self.product.url, self.tokens[username])

    def begin(self, *hosts: str) -> str:
        """Starts a maintenance through the API, as an operator; its id."""
        answer = self.api("oskar").post("/maintenances/", {"hosts": [self.hosts[name] for name in hosts]})
        assert answer.status == 201, answer
        return str(answer.body["id"])

    def complete(self, job: str) -> None:
        answer = self.api("oskar").post(f"/maintenances/{job}/complete/")
        assert answer.status == 200, answer

    def bring_home(self, job: str) -> str:
        """The id of the job that brings everybody back."""
        answer = self.api("oskar").post(f"/maintenances/{job}/bring-home/")
        assert answer.status == 201, answer
        return str(answer.body["id"])

    def slots(self) -> dict[str, int]:
        """Consoles in use, by host."""
        api = self.api("ada")
        return {name: int(api.get(f"/hosts/{pk}/").body["consoles"]["in_use"]) for name, pk in self.hosts.items()}

    def wait_job(self, job: str, *statuses: str, seconds: float = JOB_SECONDS) -> dict[str, Any]:
        """The job once it is in one of these states."""
        reached: dict[str, Any] = {}

        def is_there() -> bool:
            reached.update(self.inside.job(job=job))
            return reached["status"] in statuses

        try:
            eventually(is_there, within_seconds=seconds, what=f"the job is {' or '.join(statuses)}")
        except AssertionError as late:
            raise AssertionError(f"{late}\n{reached}\n{self.inside.migrations()}") from late
        return reached

    def wait_books(self, *, seconds: float = 60.0) -> dict[str, str]:
        """Waits until hypervisors, inventory and claims agree: every VM runs exactly once, where the inventory has it,
        with one claim there, and no operation is left. Returns the host of each VM."""
        problems: list[str] = ["not looked yet"]
        try:
            eventually(lambda: not self._refill(problems), within_seconds=seconds, what="everything agrees")
        except AssertionError as late:
            raise AssertionError(f"{late}: {problems}") from late
        return {name: self.lab.where(name) for name in self.vms}

    def _refill(self, problems: list[str]) -> list[str]:
        problems[:] = self.differences()
        return problems

    def differences(self) -> list[str]:
        """What does not agree, in words."""
        books = self.inside.books()
        found = [*books["drift"], *(f"still open: {title}" for title in books["open"])]
        for name in self.vms:
            try:
                place = self.lab.where(name)
            except ServiceError as error:
                found.append(str(error))
                continue
            if books["where"][name] != [place, "running"]:
                found.append(f"{name} runs on {place}, the inventory says {books['where'][name]}")
            if books["claims"][name] != [[place, "vm"]]:
                found.append(f"{name} runs on {place}, claims say {books['claims'][name]}")
        return found


def register(
    lab: Lab,
    product: Product,
    inside: Inside,
    rooms: Mapping[str, tuple[str, int]],
    *,
    timeout_seconds: int = 10,
) -> Fleet:
    """Makes CloudOps know the lab. ``rooms``: cluster and memory for guests, by host. ``timeout_seconds``: the hosts'
    own, for every call."""
    hosts = [
        {"uri": lab.uri(name), "cluster": cluster, "cpu_threads": THREADS, "memory_mib": RESERVE_MIB + memory_mib}
        for name, (cluster, memory_mib) in rooms.items()
    ]
    known = inside.seed(hosts=hosts, timeout_seconds=timeout_seconds)
    fleet = Fleet(lab, product, inside, known["hosts"], known["vms"], known["tokens"])
    fleet.wait_books()
    return fleet


def told(rows: Sequence[Sequence[Any]]) -> str:
    """A job's migrations as lines for the test's output."""
    return "\n".join(
        f"  {vm}: {source} -> {target} {status} in {seconds} s, still for {pause} ms {error}"
        for vm, source, target, status, seconds, pause, error in rows
    )
