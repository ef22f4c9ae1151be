"""What changes at a simulated endpoint: power states, console connections and faults, in memory or in a shared file."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloudops.hypervisors.port import ConsoleConnection, EventKind, HypervisorEvent, PowerState

SCHEMA = """
CREATE TABLE IF NOT EXISTS vm_power (
    endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref)
);
CREATE TABLE IF NOT EXISTS vm_console (
    endpoint TEXT NOT NULL, label TEXT PRIMARY KEY, vm_ref TEXT NOT NULL, pid INTEGER NOT NULL,
    pid_started TEXT NOT NULL, dropped INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS endpoint_faults (endpoint TEXT PRIMARY KEY, faults TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS endpoint_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, kind TEXT NOT NULL, vm_ref TEXT NOT NULL,
    state TEXT NOT NULL, at REAL NOT NULL
);
"""
CHANGES_KEPT = 2000
BUSY_SECONDS = 5.0
SHARED_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with an endpoint: every call takes ``latency_seconds`` more; ``unreachable`` as if switched off;
    ``hang`` as if frozen (calls end at the endpoint's timeout); ``error`` is what the platform says to every call."""

    latency_seconds: float = 0.0
    unreachable: bool = False
    hang: bool = False
    error: str = ""

    @property
    def disconnected(self) -> bool:
        return self.unreachable or self.hang


class State:
    """One endpoint's changing half. Safe for several threads; with a file also for several processes."""

    def __init__(self, path: str, endpoint: str) -> None:
        """``path`` empty: in memory. Its directory is created; several endpoints may share the file."""
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._shared = bool(path)
        self._endpoint = endpoint
        self._db = sqlite3.connect(
            path or ":memory:", check_same_thread=False, timeout=BUSY_SECONDS, isolation_level=None
        )
        # Notified on every change made in this process; changes of other processes are found by looking.
        self._changed = threading.Condition(threading.RLock())
        with self._changed:
            if self._shared:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(SCHEMA)

    def power_states(self) -> dict[str, PowerState]:
        """The VMs whose power state is another than at the beginning."""
        with self._changed:
            rows = self._db.execute("SELECT vm_ref, state FROM vm_power WHERE endpoint = ?", (self._endpoint,))
            return {ref: PowerState(state) for ref, state in rows}

    def set_power(self, vm_ref: str, state: PowerState, *, event: bool = True) -> None:
        with self._write():
            self._db.execute("REPLACE INTO vm_power VALUES (?, ?, ?)", (self._endpoint, vm_ref, state.value))
            if event:
                self._note(EventKind.VM_CHANGED, vm_ref, state.value)

    def faults(self) -> Faults:
        with self._changed:
            query = "SELECT faults FROM endpoint_faults WHERE endpoint = ?"
            row = self._db.execute(query, (self._endpoint,)).fetchone()
        return Faults(**json.loads(row[0])) if row else Faults()

    def set_faults(self, faults: Faults) -> None:
        with self._write():
            before = self.faults()
            values = (self._endpoint, json.dumps(asdict(faults)))
            self._db.execute("REPLACE INTO endpoint_faults VALUES (?, ?)", values)
            if faults.disconnected != before.disconnected:
                self._note(EventKind.DISCONNECTED if faults.disconnected else EventKind.CONNECTED, "", "")

    def reset(self) -> None:
        """Forgets everything that changed; open consoles end."""
        with self._write():
            for table in ("vm_power", "vm_console", "endpoint_faults"):
                self._db.execute(f"DELETE FROM {table} WHERE endpoint = ?", (self._endpoint,))  # noqa: S608
            self._note(EventKind.CONNECTED, "", "")

    def add_console(self, label: str, vm_ref: str) -> None:
        with self._write():
            pid = os.getpid()
            values = (self._endpoint, label, vm_ref, pid, _started(pid))
            self._db.execute("INSERT INTO vm_console VALUES (?, ?, ?, ?, ?, 0)", values)
            self._note(EventKind.CONSOLE_CHANGED, vm_ref, "")

    def remove_console(self, label: str, vm_ref: str) -> None:
        with self._write():
            if self._db.execute("DELETE FROM vm_console WHERE label = ?", (label,)).rowcount:
                self._note(EventKind.CONSOLE_CHANGED, vm_ref, "")

    def is_console_live(self, label: str) -> bool:
        """False once somebody dropped it (or the state was reset): whoever serves it ends it."""
        with self._changed:
            return bool(
                self._db.execute("SELECT 1 FROM vm_console WHERE label = ? AND dropped = 0", (label,)).fetchone()
            )

    def consoles(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        """Connections of processes that still live: a dead one's sockets are closed, as on any platform."""
        with self._changed:
            rows = self._db.execute(
                "SELECT label, pid, pid_started FROM vm_console WHERE endpoint = ? AND vm_ref = ? AND dropped = 0"
                " ORDER BY rowid",
                (self._endpoint, vm_ref),
            ).fetchall()
        for label, pid, started in rows:
            if _started(pid) != started:
                self.remove_console(label, vm_ref)
        return [
            ConsoleConnection(label=label, family="unix") for label, pid, started in rows if _started(pid) == started
        ]

    def drop_consoles(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        """Marks connections as dropped; the process that serves each closes it within a poll. Returns those known."""
        with self._write():
            dropped = [
                label
                for label in labels
                if self._db.execute(
                    "UPDATE vm_console SET dropped = 1 WHERE label = ? AND vm_ref = ?", (label, vm_ref)
                ).rowcount
            ]
            if dropped:
                self._note(EventKind.CONSOLE_CHANGED, vm_ref, "")
            return dropped

    def last_change(self) -> int:
        with self._changed:
            return int(self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM endpoint_change").fetchone()[0])

    def wait_changes(self, since: int, timeout_seconds: float) -> tuple[int, Sequence[HypervisorEvent]]:
        """Events after ``since``, waiting for the first at most so long; and the number to ask from next time."""
        deadline = time.monotonic() + timeout_seconds
        query = "SELECT seq, kind, vm_ref, state, at FROM endpoint_change WHERE seq > ? AND endpoint = ? ORDER BY seq"
        with self._changed:
            while True:
                rows = self._db.execute(query, (since, self._endpoint)).fetchall()
                left = deadline - time.monotonic()
                if rows or left <= 0:
                    break
                self._changed.wait(min(left, SHARED_POLL_SECONDS) if self._shared else left)
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
        with self._changed:
            self._changed.wait(timeout_seconds)

    @contextmanager
    def _write(self) -> Iterator[None]:
        with self._changed:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._changed.notify_all()

    def _note(self, kind: EventKind, vm_ref: str, state: str) -> None:
        self._db.execute(
            "INSERT INTO endpoint_change (endpoint, kind, vm_ref, state, at) VALUES (?, ?, ?, ?, ?)",
            (self._endpoint, kind.value, vm_ref, state, time.time()),
        )
        self._db.execute(
            "DELETE FROM endpoint_change WHERE seq <= (SELECT MAX(seq) FROM endpoint_change) - ?", (CHANGES_KEPT,)
        )


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks: tells a process from a later one with the same id. Empty: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
