"""What changes at a simulated endpoint: power states, what is defined there, console connections and faults."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloudops.hypervisors.port import ConsoleConnection, EventKind, HypervisorEvent, PowerState, Shape, VmFacts
from cloudops.hypervisors.simulated.fleet import SimulatedHost
from cloudops.hypervisors.simulated.guests import Pending, pending_of
from cloudops.hypervisors.simulated.records import host_of, host_text, shape_read, shape_text, vm_of, vm_text
from cloudops.hypervisors.simulated.store import SHARED_POLL_SECONDS, Store


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with an endpoint: every call takes ``latency_seconds`` more; ``unreachable`` as if switched off;
    ``hang`` as if frozen (calls end at the endpoint's timeout); ``error`` is what the platform says to every call;
    hosts named in ``down_hosts`` (references) are not reported, nor are their VMs. Migrations from and to what cannot
    be reached end at once."""

    latency_seconds: float = 0.0
    unreachable: bool = False
    hang: bool = False
    error: str = ""
    down_hosts: tuple[str, ...] = ()

    @property
    def disconnected(self) -> bool:
        return self.unreachable or self.hang


class State:
    """One endpoint's changing half."""

    def __init__(self, store: Store, endpoint: str) -> None:
        """``endpoint``: its name in the store, which several endpoints share."""
        self.store = store
        self.endpoint = endpoint

    # -- what is there

    def power_states(self) -> dict[str, PowerState]:
        """The VMs whose power state is another than at the beginning."""
        rows = self.store.rows("SELECT vm_ref, state FROM vm_power WHERE endpoint = ?", self.endpoint)
        return {ref: PowerState(state) for ref, state in rows}

    def power_state(self, vm_ref: str) -> PowerState | None:
        """:meth:`power_states` of one VM."""
        rows = self.store.rows("SELECT state FROM vm_power WHERE endpoint = ? AND vm_ref = ?", self.endpoint, vm_ref)
        return PowerState(rows[0][0]) if rows else None

    def set_power(self, vm_ref: str, state: PowerState) -> None:
        with self.store.write():
            self.store.execute("REPLACE INTO vm_power VALUES (?, ?, ?)", self.endpoint, vm_ref, state.value)
            self.store.note(self.endpoint, EventKind.VM_CHANGED, vm_ref, state.value)

    def gone(self) -> set[str]:
        """VMs of the fleet that are not here any more, or not as they were."""
        return {ref for (ref,) in self.store.rows("SELECT vm_ref FROM vm_gone WHERE endpoint = ?", self.endpoint)}

    def is_gone(self, vm_ref: str) -> bool:
        return bool(self.store.rows("SELECT 1 FROM vm_gone WHERE endpoint = ? AND vm_ref = ?", self.endpoint, vm_ref))

    def here(self) -> list[VmFacts]:
        """VMs that are here and not as in the fleet."""
        rows = self.store.rows("SELECT facts FROM vm_here WHERE endpoint = ? ORDER BY rowid", self.endpoint)
        return [vm_of(text) for (text,) in rows]

    def one_here(self, vm_ref: str) -> VmFacts | None:
        """:meth:`here` of one VM."""
        rows = self.store.rows("SELECT facts FROM vm_here WHERE endpoint = ? AND vm_ref = ?", self.endpoint, vm_ref)
        return vm_of(rows[0][0]) if rows else None

    def put_vm(self, vm: VmFacts) -> None:
        """The VM is here from now on, exactly so."""
        with self.store.write():
            self.store.execute("REPLACE INTO vm_gone VALUES (?, ?)", self.endpoint, vm.ref)
            self.store.execute("REPLACE INTO vm_here VALUES (?, ?, ?)", self.endpoint, vm.ref, vm_text(vm))
            self._forget(("vm_power", "vm_shape", "vm_guest"), vm.ref)
            self.store.note(self.endpoint, EventKind.VM_CHANGED, vm.ref, vm.power_state.value)

    def change_vm(self, vm: VmFacts, shape: Shape | None, pending: Pending | None) -> None:
        """The VM is here as it was, but of this size; what it is started as, and its guest, beside it."""
        with self.store.write():
            self.store.execute("REPLACE INTO vm_gone VALUES (?, ?)", self.endpoint, vm.ref)
            self.store.execute("REPLACE INTO vm_here VALUES (?, ?, ?)", self.endpoint, vm.ref, vm_text(vm))
            if shape is not None:
                self.store.execute("REPLACE INTO vm_shape VALUES (?, ?, ?)", self.endpoint, vm.ref, shape_text(shape))
            if pending is not None:
                self.store.execute("REPLACE INTO vm_guest VALUES (?, ?, ?)", self.endpoint, vm.ref, pending.text())
            self.store.note(self.endpoint, EventKind.VM_CHANGED, vm.ref)

    def shape(self, vm_ref: str) -> Shape | None:
        """What the VM is started as, where that was changed."""
        rows = self.store.rows("SELECT shape FROM vm_shape WHERE endpoint = ? AND vm_ref = ?", self.endpoint, vm_ref)
        return shape_read(rows[0][0]) if rows else None

    def guests(self) -> dict[str, Pending]:
        """Guests that are not like all others, or were asked for something."""
        rows = self.store.rows("SELECT vm_ref, pending FROM vm_guest WHERE endpoint = ?", self.endpoint)
        return {ref: pending_of(text) for ref, text in rows}

    def guest(self, vm_ref: str) -> Pending | None:
        """:meth:`guests` of one VM."""
        rows = self.store.rows("SELECT pending FROM vm_guest WHERE endpoint = ? AND vm_ref = ?", self.endpoint, vm_ref)
        return pending_of(rows[0][0]) if rows else None

    def set_guest(self, vm_ref: str, pending: Pending) -> None:
        with self.store.write():
            self.store.execute("REPLACE INTO vm_guest VALUES (?, ?, ?)", self.endpoint, vm_ref, pending.text())

    def _forget(self, tables: Sequence[str], vm_ref: str) -> None:
        for table in tables:
            statement = f"DELETE FROM {table} WHERE endpoint = ? AND vm_ref = ?"  # noqa: S608
            self.store.execute(statement, self.endpoint, vm_ref)

    def remove_vm(self, vm_ref: str, *, event: bool = True) -> None:
        """The VM is not here any more; its consoles end."""
        with self.store.write():
            self.store.execute("REPLACE INTO vm_gone VALUES (?, ?)", self.endpoint, vm_ref)
            self._forget(("vm_here", "vm_power", "vm_shape", "vm_guest"), vm_ref)
            self.end_consoles(vm_ref)
            if event:
                self.store.note(self.endpoint, EventKind.VM_REMOVED, vm_ref)

    def hosts_changed(self) -> dict[str, SimulatedHost]:
        """Hosts that are not as in the fleet, or not of it."""
        rows = self.store.rows(
            "SELECT host_ref, facts FROM host_changed WHERE endpoint = ? ORDER BY rowid", self.endpoint
        )
        return {ref: host_of(text) for ref, text in rows}

    def put_host(self, host: SimulatedHost) -> None:
        with self.store.write():
            self.store.execute("REPLACE INTO host_changed VALUES (?, ?, ?)", self.endpoint, host.ref, host_text(host))

    # -- faults

    def faults(self) -> Faults:
        rows = self.store.rows("SELECT faults FROM endpoint_faults WHERE endpoint = ?", self.endpoint)
        if not rows:
            return Faults()
        values = json.loads(rows[0][0])
        return Faults(**{**values, "down_hosts": tuple(values.get("down_hosts", ()))})

    def set_faults(self, faults: Faults) -> None:
        with self.store.write():
            before = self.faults()
            self.store.execute("REPLACE INTO endpoint_faults VALUES (?, ?)", self.endpoint, json.dumps(asdict(faults)))
            if faults.disconnected != before.disconnected:
                kind = EventKind.DISCONNECTED if faults.disconnected else EventKind.CONNECTED
                self.store.note(self.endpoint, kind)

    def reset(self) -> None:
        """Forgets everything that changed; open consoles and migrations end."""
        tables = (
            "vm_power",
            "vm_gone",
            "vm_here",
            "vm_shape",
            "vm_guest",
            "vm_console",
            "host_changed",
            "host_maintenance",
        )
        faults = ("endpoint_faults", "migration_fault", "resize_fault", "maintenance_fault")
        with self.store.write():
            for table in (*tables, *faults, "migration_job"):
                self.store.execute(f"DELETE FROM {table} WHERE endpoint = ?", self.endpoint)  # noqa: S608
            self.store.execute("DELETE FROM migration_job WHERE to_endpoint = ?", self.endpoint)
            self.store.note(self.endpoint, EventKind.CONNECTED)

    # -- consoles

    def add_console(self, label: str, vm_ref: str) -> None:
        with self.store.write():
            pid = os.getpid()
            values = (self.endpoint, label, vm_ref, pid, _started(pid))
            self.store.execute("INSERT INTO vm_console VALUES (?, ?, ?, ?, ?, 0)", *values)
            self.store.note(self.endpoint, EventKind.CONSOLE_CHANGED, vm_ref)

    def remove_console(self, label: str, vm_ref: str) -> None:
        with self.store.write():
            if self.store.execute("DELETE FROM vm_console WHERE label = ?", label):
                self.store.note(self.endpoint, EventKind.CONSOLE_CHANGED, vm_ref)

    def is_console_live(self, label: str) -> bool:
        """False once somebody dropped it (or the state was reset): whoever serves it ends it."""
        return bool(self.store.rows("SELECT 1 FROM vm_console WHERE label = ? AND dropped = 0", label))

    def consoles(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        """Connections of processes that still live: a dead one's sockets are closed, as on any platform."""
        rows = self.store.rows(
            "SELECT label, pid, pid_started FROM vm_console WHERE endpoint = ? AND vm_ref = ? AND dropped = 0"
            " ORDER BY rowid",
            self.endpoint,
            vm_ref,
        )
        for label, pid, started in rows:
            if _started(pid) != started:
                self.remove_console(label, vm_ref)
        return [
            ConsoleConnection(label=label, family="unix") for label, pid, started in rows if _started(pid) == started
        ]

    def drop_consoles(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        """Marks connections as dropped; the process that serves each closes it within a poll. Returns those known."""
        statement = "UPDATE vm_console SET dropped = 1 WHERE label = ? AND vm_ref = ?"
        with self.store.write():
            dropped = [label for label in labels if self.store.execute(statement, label, vm_ref)]
            if dropped:
                self.store.note(self.endpoint, EventKind.CONSOLE_CHANGED, vm_ref)
            return dropped

    def end_consoles(self, vm_ref: str) -> None:
        """Those of a VM that is not here any more, within the store's transaction; as with a real one, no event."""
        self.store.execute("UPDATE vm_console SET dropped = 1 WHERE endpoint = ? AND vm_ref = ?", self.endpoint, vm_ref)

    # -- events

    def last_change(self) -> int:
        return int(self.store.rows("SELECT COALESCE(MAX(seq), 0) FROM endpoint_change")[0][0])

    def wait_changes(
        self, since: int, timeout_seconds: float, *, before: Callable[[], float | None]
    ) -> tuple[int, Sequence[HypervisorEvent]]:
        """Events after ``since``, waiting for the first at most so long; and the number to ask from next time.

        ``before`` is called before each look, and says in how many seconds it makes sense to look again.
        """
        deadline = time.monotonic() + timeout_seconds
        query = "SELECT seq, kind, vm_ref, state, at FROM endpoint_change WHERE seq > ? AND endpoint = ? ORDER BY seq"
        with self.store.changed:
            while True:
                again = before()
                rows = self.store.rows(query, since, self.endpoint)
                left = deadline - time.monotonic()
                if rows or left <= 0:
                    break
                longest = SHARED_POLL_SECONDS if self.store.path else left
                self.store.changed.wait(max(0.001, min(left, longest, left if again is None else again)))
        events = [
            HypervisorEvent(
                EventKind(kind),
                vm_ref=vm_ref,
                at=datetime.fromtimestamp(at, UTC),
                power_state=PowerState(state) if state else None,
            )
            for _seq, kind, vm_ref, state, at in rows
        ]
        return (rows[-1][0] if rows else since), events

    def wait(self, timeout_seconds: float) -> None:
        """Until something changes in this process, or the time is over."""
        with self.store.changed:
            self.store.changed.wait(timeout_seconds)


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks: tells a process from a later one with the same id. Empty: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
