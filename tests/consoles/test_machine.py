"""Whatever people, processes and clocks do: never above a limit, never a leaked slot, never an illegal step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cloudops.accounts.models import Project
from cloudops.core.errors import Refusal, TransitionConflict
from cloudops.core.models import Event
from cloudops.inventory.models import Vm
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from consoles import attach, limits, reaper, sessions
from consoles.attach import Attached
from consoles.errors import ConsoleLimit
from consoles.models import ATTACHED, TRANSITIONS, ConsoleSession, Status
from consoles.reasons import ClosedReason
from consoles.sessions import Opened, Traffic
from tests.consoles.world import actor, add_process, build
from tests.examples import examples

HOST_LIMIT, VM_LIMIT, USER_LIMIT, PROJECT_QUOTA = 3, 2, 2, 4
REASONS = st.sampled_from(list(ClosedReason))


@dataclass
class Line:
    """A socket in some process, as that process knows it."""

    attached: Attached
    number: int
    process: ServerProcess
    alive: bool = True


class Consoles(RuleBasedStateMachine):
    """Two hosts, three VMs of a project with a quota, three users, two processes."""

    links = Bundle("links")
    lines = Bundle("lines")

    @initialize()
    def build(self) -> None:
        self.example = transaction.atomic()
        self.example.__enter__()
        self.now = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)
        self.world = build(self.now)
        self.world.settings(console_host_limit=HOST_LIMIT, console_vm_limit=VM_LIMIT, console_user_limit=USER_LIMIT)
        Project.objects.filter(pk=self.world.project.pk).update(quota_consoles=PROJECT_QUOTA)
        self.hosts = [self.world.host, self.world.add_host("second-host")]
        self.vms = [self.world.vm, self.world.other_vm, self.world.add_vm("gamma", host=self.hosts[1])]
        self.users = [self.world.tenant, self.world.second, self.world.admin]
        self.processes = [self.world.process, add_process(self.now)]
        self.used: set[str] = set()
        self.refusals: list[ConsoleLimit] = []

    @rule(target=links, vm=st.integers(0, 2), user=st.integers(0, 2))
    def open(self, vm: int, user: int) -> Any:
        try:
            return self.world.open(self.now, vm=self.vms[vm], user=self.users[user])
        except ConsoleLimit as refusal:
            self.refusals.append(refusal)
            return None

    @rule(target=lines, link=links, process=st.integers(0, 1))
    def redeem(self, link: Opened | None, process: int) -> Any:
        if link is None:
            return None
        try:
            attached = self.world.redeem(link, self.now, process_id=self.processes[process].pk)
        except Refusal:
            return None
        assert link.secret not in self.used, "a secret worked twice"
        self.used.add(link.secret)
        return Line(attached, attached.session.attachment, self.processes[process])

    @rule(line=lines)
    def activate(self, line: Line | None) -> None:
        if line is None or line.attached.session.status != Status.CONNECTING:
            return
        try:
            attach.activate(session=line.attached.session, relay_address=("192.0.2.1", 5), now=self.now)
        except TransitionConflict:
            line.alive = False

    @rule(line=lines, reason=REASONS)
    def socket_ends(self, line: Line | None, reason: ClosedReason) -> None:
        if line is None:
            return
        pk = line.attached.session.pk
        before = ConsoleSession.objects.get(pk=pk)
        changed = sessions.finish(
            session_id=pk,
            attachment=line.number,
            reason=reason,
            traffic=Traffic(self.now, 1, 1),
            by=actor(self.world.tenant),
            now=self.now,
        )
        assert changed == (before.attachment == line.number and before.status in ATTACHED)

    @rule(target=lines, line=consumes(lines), process=st.integers(0, 1))
    def resume(self, line: Line | None, process: int) -> Any:
        if line is None:
            return None
        try:
            attached = self.world.resume(line.attached.resume_secret, self.now, process_id=self.processes[process].pk)
        except Refusal:
            return line
        return Line(attached, attached.session.attachment, self.processes[process])

    @rule(link=links)
    def close(self, link: Opened | None) -> None:
        if link is not None:
            sessions.close(session=link.session, by=actor(self.world.admin), now=self.now)

    @rule(process=st.integers(0, 1))
    def process_renews(self, process: int) -> None:
        row = self.processes[process]
        if not processes.renew(process=row, now=self.now):
            self.processes[process] = add_process(self.now)

    @rule(process=st.integers(0, 1))
    def process_stops(self, process: int) -> None:
        processes.stop(process=self.processes[process], now=self.now)
        self.processes[process] = add_process(self.now)

    @rule(seconds=st.sampled_from([1, 3, 9, 13, 30, 61, 200]))
    def time_passes(self, seconds: int) -> None:
        """Processes that are not renewed by then are dead: their leases lapse."""
        self.now += timedelta(seconds=seconds)

    @rule(vm=st.integers(0, 2), host=st.integers(0, 1))
    def vm_moves(self, vm: int, host: int) -> None:
        Vm.objects.filter(pk=self.vms[vm].pk).update(host=self.hosts[host])

    @rule()
    def reaper_runs(self) -> None:
        reaper.reap(now=self.now)

    @invariant()
    def never_above_a_limit(self) -> None:
        if not hasattr(self, "hosts"):
            return
        columns = ("host_id", "vm_id", "user_id", "vm__project_id")
        holders = list(ConsoleSession.objects.holding_slots(self.now).values_list(*columns))
        for column, limit in enumerate((HOST_LIMIT, VM_LIMIT, USER_LIMIT, PROJECT_QUOTA)):
            counts = Counter(row[column] for row in holders)
            assert all(count <= limit for count in counts.values()), counts

    @invariant()
    def nobody_was_refused_with_a_slot_free(self) -> None:
        for refusal in getattr(self, "refusals", []):
            assert refusal.numbers["in_use"] == refusal.numbers["limit"]

    def every_step_was_legal(self) -> None:
        steps = Event.objects.filter(subject_type="consoles.consolesession").exclude(from_state="").order_by()
        for before, after in steps.values_list("from_state", "to_state").distinct():
            assert after in TRANSITIONS[before]

    def teardown(self) -> None:
        if not hasattr(self, "hosts"):
            return
        try:
            self.now += timedelta(seconds=1000)
            for host in self.hosts:
                assert limits.usage_of_host(host, now=self.now).in_use == 0, "a slot leaked"
            reaper.reap(now=self.now)
            assert not ConsoleSession.objects.live().exists(), "the reaper left something behind"
            self.every_step_was_legal()
        finally:
            transaction.set_rollback(True)
            self.example.__exit__(None, None, None)


@pytest.mark.django_db
@pytest.mark.timeout(300)
def test_consoles() -> None:
    run_state_machine_as_test(
        Consoles,
        settings=settings(
            max_examples=examples(25),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
