"""Where simulated endpoints keep what changes: one SQLite database per shared file, and one for this process's memory.

Time is :func:`now`: seconds since 1970, or what a test's clock says.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloudops.hypervisors.port import EventKind

SCHEMA = """
CREATE TABLE IF NOT EXISTS vm_power (
    endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref)
);
CREATE TABLE IF NOT EXISTS vm_gone (endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref));
CREATE TABLE IF NOT EXISTS vm_here (
    endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref)
);
CREATE TABLE IF NOT EXISTS host_changed (
    endpoint TEXT NOT NULL, host_ref TEXT NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (endpoint, host_ref)
);
CREATE TABLE IF NOT EXISTS vm_console (
    endpoint TEXT NOT NULL, label TEXT PRIMARY KEY, vm_ref TEXT NOT NULL, pid INTEGER NOT NULL,
    pid_started TEXT NOT NULL, dropped INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS migration_job (
    endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, facts TEXT NOT NULL, to_endpoint TEXT NOT NULL,
    to_host TEXT NOT NULL, rate REAL NOT NULL, post_copy INTEGER NOT NULL, started_at REAL NOT NULL,
    seconds REAL NOT NULL, stop_share REAL, stop_error TEXT NOT NULL, stop_detail TEXT NOT NULL, due_at REAL,
    state TEXT NOT NULL, ended_at REAL, label TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref)
);
CREATE INDEX IF NOT EXISTS migration_due ON migration_job (due_at) WHERE state = 'running';
CREATE INDEX IF NOT EXISTS migration_to ON migration_job (to_endpoint) WHERE state = 'running';
CREATE TABLE IF NOT EXISTS migration_fault (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, host_ref TEXT NOT NULL, direction TEXT NOT NULL,
    share REAL, error TEXT NOT NULL, detail TEXT NOT NULL, uses INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS vm_shape (
    endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, shape TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref)
);
CREATE TABLE IF NOT EXISTS vm_guest (
    endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, pending TEXT NOT NULL, PRIMARY KEY (endpoint, vm_ref)
);
CREATE TABLE IF NOT EXISTS resize_fault (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, vm_ref TEXT NOT NULL, kind TEXT NOT NULL,
    error TEXT NOT NULL, detail TEXT NOT NULL, applied INTEGER NOT NULL, uses INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS host_maintenance (
    endpoint TEXT NOT NULL, host_ref TEXT NOT NULL, asked_at REAL NOT NULL, entered INTEGER NOT NULL,
    PRIMARY KEY (endpoint, host_ref)
);
CREATE TABLE IF NOT EXISTS maintenance_fault (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, error TEXT NOT NULL, detail TEXT NOT NULL,
    leaves INTEGER NOT NULL, uses INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS endpoint_faults (endpoint TEXT PRIMARY KEY, faults TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS endpoint_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, kind TEXT NOT NULL, vm_ref TEXT NOT NULL,
    state TEXT NOT NULL, at REAL NOT NULL
);
"""
CHANGES_KEPT = 10_000
BUSY_SECONDS = 5.0
SHARED_POLL_SECONDS = 0.25

_clock: Callable[[], float] = time.time
_stores: dict[str, Store] = {}
_stores_lock = threading.Lock()


def set_clock(clock: Callable[[], float] | None) -> None:
    """What simulated migrations of this process go by, in seconds; None: the real time again."""
    global _clock
    _clock = clock or time.time


def now() -> float:
    """Seconds, by the clock that holds."""
    return _clock()


class Store:
    """Safe for several threads; with a file also for several processes."""

    def __init__(self, path: str) -> None:
        """``path`` empty: in memory. Its directory is created."""
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(
            path or ":memory:", check_same_thread=False, timeout=BUSY_SECONDS, isolation_level=None
        )
        # Notified on every change made in this process; changes of other processes are found by looking.
        self.changed = threading.Condition(threading.RLock())
        self._depth = 0
        with self.changed:
            if path:
                self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(SCHEMA)

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.changed:
            return self._db.execute(sql, values).fetchall()

    def execute(self, sql: str, *values: Any) -> int:
        """One statement within :meth:`write`; returns how many rows it changed."""
        return self._db.execute(sql, values).rowcount

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction, during which nobody else writes; nested ones join it."""
        with self.changed:
            if self._depth:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
            self._db.execute("COMMIT")
            self.changed.notify_all()

    def note(self, endpoint: str, kind: EventKind, vm_ref: str = "", state: str = "") -> None:
        """Adds an event, within :meth:`write`."""
        self.execute(
            "INSERT INTO endpoint_change (endpoint, kind, vm_ref, state, at) VALUES (?, ?, ?, ?, ?)",
            *(endpoint, kind.value, vm_ref, state, now()),
        )
        self.execute(
            "DELETE FROM endpoint_change WHERE seq <= (SELECT MAX(seq) FROM endpoint_change) - ?", CHANGES_KEPT
        )


def store(path: str) -> Store:
    """This process's store for a file, or for its memory."""
    with _stores_lock:
        if path not in _stores:
            _stores[path] = Store(path)
        return _stores[path]


def _after_fork() -> None:
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_after_fork)
