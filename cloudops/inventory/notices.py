"""What one change of the inventory tells: audit events, pages to refresh, and signals to the layers above."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Unpack
from uuid import UUID

from django.db import transaction
from django.dispatch import Signal

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.events import Details
from cloudops.core.models import Event
from cloudops.inventory import signals
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.signals import VmMove

MOST_TOPICS = 200
"""Beyond this many changed objects pages are told by the lists' topics only."""


@dataclass
class Notices:
    """Collects within a transaction; :meth:`send` once at its end writes the events and tells the rest after commit."""

    by: Actor
    now: datetime
    lines: list[Event] = field(default_factory=list)
    topics: dict[str, None] = field(default_factory=dict)
    stopped: list[UUID] = field(default_factory=list)
    moves: list[VmMove] = field(default_factory=list)
    changed: list[UUID] = field(default_factory=list)
    lost: list[UUID] = field(default_factory=list)
    back: list[UUID] = field(default_factory=list)
    hosts: dict[UUID, None] = field(default_factory=dict)
    """Those of which placement is to take another look, without repeats."""

    def event(self, kind: str, **details: Unpack[Details]) -> None:
        """Adds a line to the audit trail."""
        self.lines.append(events.line(kind, by=self.by, now=self.now, **details))

    def touch(self, *topics: str) -> None:
        """Pages that watch these are to fetch again."""
        self.topics.update(dict.fromkeys(topics))

    def touch_host(self, host: Host) -> None:
        """The host's own page and every list of hosts."""
        self.touch("hosts", f"host:{host.pk}")

    def touch_vm(self, vm: Vm) -> None:
        """The VM's own page, its host's, its project's and every list of VMs."""
        self.touch("vms", f"vm:{vm.pk}", f"host:{vm.host_id}")
        if vm.project_id is not None:
            self.touch(f"project:{vm.project_id}")

    def send(self) -> None:
        """Writes and tells everything collected."""
        if self.lines:
            events.record_many(self.lines)
        topics = list(self.topics)
        if len(topics) > MOST_TOPICS:
            topics = [topic for topic in topics if ":" not in topic or topic.startswith("project:")]
        if topics:
            live.publish(*topics)
        self._signal(signals.vm_moved, "moves", self.moves)
        self._signal(signals.vm_stopped, "vm_ids", self.stopped)
        self._signal(signals.vms_changed, "vm_ids", self.changed)
        self._signal(signals.host_lost, "host_ids", self.lost)
        self._signal(signals.host_back, "host_ids", self.back)
        self._signal(signals.hosts_changed, "host_ids", list(self.hosts))

    def _signal(self, signal: Signal, name: str, items: Sequence[Any]) -> None:
        if items:
            after_commit(signal, now=self.now, **{name: list(items)})


def after_commit(signal: Signal, **what: Any) -> None:
    """Sends ``signal`` after the current transaction commits; a failing receiver is logged and hurts nobody else."""
    transaction.on_commit(partial(signal.send_robust, sender=None, **what), robust=True)


def ask(signal: Signal, **what: Any) -> Iterable[Any]:
    """The answers of a signal's receivers, those that have nothing to say left out."""
    return [answer for _, answer in signal.send(sender=None, **what) if answer]
