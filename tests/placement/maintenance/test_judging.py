"""The table of what is done with one VM, case by case."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from placement.maintenance import words
from placement.maintenance.judging import Ended, Row, Seen, Verdict, judge
from placement.maintenance.options import Choice
from placement.models import MaintenanceMove, MoveStatus

HERE, THERE = uuid4(), uuid4()
SEEN = Seen("running", "Running", HERE, "kvm1", host_up=True)
OFF = replace(SEEN, power_state="off", state_words="Off")
DEAD = replace(SEEN, host_up=False, host_error="No route.")
UNKNOWN = replace(SEEN, power_state="unknown", state_words="Unknown")
FAILED = Ended(ok=False, code="migration-interrupted", detail="Line cut.", target_id=str(THERE), target_name="kvm2")


def verdict(status: str = "waiting", seen: Seen = SEEN, *, move_powered_off: bool = False, **row: Any) -> Verdict:
    return judge(Row(status=status, **row), seen, leaving={HERE}, move_powered_off=move_powered_off)


@pytest.mark.parametrize(
    ("row", "seen", "status", "code"),
    [
        ({}, SEEN, "waiting", ""),
        ({}, replace(SEEN, power_state="paused"), "waiting", ""),
        ({}, replace(SEEN, busy="Resize web"), "waiting", words.OPERATION_RUNNING),
        ({}, replace(SEEN, pinned=True), "blocked", words.PINNED),
        ({"relaxed": frozenset({"move-pinned"})}, replace(SEEN, pinned=True), "waiting", ""),
        ({}, DEAD, "blocked", words.UNREACHABLE),
        ({}, UNKNOWN, "blocked", words.STATE_UNKNOWN),
        ({}, OFF, "skipped", words.POWERED_OFF),
        ({}, replace(OFF, power_state="crashed"), "skipped", words.POWERED_OFF),
        ({}, replace(OFF, busy="Start web"), "waiting", words.OPERATION_RUNNING),
        ({"choice": Choice.HOST}, OFF, "waiting", ""),
        ({"choice": Choice.SKIP}, SEEN, "skipped", words.BY_CHOICE),
        ({"choice": Choice.SKIP}, DEAD, "skipped", words.BY_CHOICE),
        ({"choice": Choice.STOP}, SEEN, "waiting", ""),
        ({"choice": Choice.STOP}, OFF, "stopped", words.BY_CHOICE),
        ({}, replace(SEEN, missing=True), "gone", words.MISSING),
        ({}, replace(SEEN, host_id=THERE), "moved", words.MOVED_BY_OTHERS),
        ({"status": "moved"}, SEEN, "waiting", ""),
        ({"status": "moved"}, replace(SEEN, host_id=THERE), "moved", ""),
        ({"status": "gone"}, SEEN, "waiting", ""),
        ({"status": "skipped"}, SEEN, "waiting", ""),
        ({"status": "skipped"}, UNKNOWN, "skipped", ""),
        ({"status": "skipped"}, replace(UNKNOWN, host_up=False), "skipped", ""),
        ({"status": "stopped"}, OFF, "skipped", words.POWERED_OFF),
        ({"status": "moving", "running": True}, DEAD, "moving", ""),
        ({"status": "moving", "ended": Ended(ok=True)}, replace(SEEN, host_id=THERE), "moved", ""),
        ({"status": "moving", "ended": FAILED}, replace(SEEN, host_id=THERE), "moved", ""),
        ({"status": "moving", "ended": FAILED}, SEEN, "waiting", "migration-failed"),
        ({"status": "moving", "ended": FAILED}, DEAD, "blocked", words.UNREACHABLE),
        ({"status": "moving", "ended": replace(FAILED, code=words.ABORTED)}, SEEN, "blocked", words.ABORTED),
        ({"status": "blocked", "reason_code": words.ABORTED}, SEEN, "blocked", ""),
        ({"status": "blocked", "reason_code": words.NO_HOST}, SEEN, "blocked", ""),
        ({"status": "blocked", "reason_code": words.PINNED}, SEEN, "waiting", ""),
        ({"status": "blocked", "reason_code": words.UNREACHABLE}, SEEN, "waiting", ""),
        ({"status": "stopping", "running": True}, SEEN, "stopping", ""),
        ({"status": "stopping", "ended": Ended(ok=True)}, OFF, "stopped", words.BY_CHOICE),
        ({"status": "stopping", "ended": FAILED}, SEEN, "blocked", words.STOP_FAILED),
    ],
)
def test_verdicts(row: dict[str, Any], seen: Seen, status: str, code: str) -> None:
    found = verdict(seen=seen, **row)
    assert (found.status, found.said.code) == (status, code)


def test_a_failure_names_the_host_that_is_not_tried_again() -> None:
    found = verdict("moving", ended=FAILED)
    assert found.failed == FAILED
    assert "kvm2" in found.said.words
    assert "Line cut." in found.said.words


def test_vms_that_are_off_move_when_that_was_asked_for() -> None:
    assert verdict(seen=OFF, move_powered_off=True).status == "waiting"


@pytest.mark.parametrize("status", MoveStatus.values)
def test_every_verdict_is_a_legal_step(status: str) -> None:
    legal = {status, *MaintenanceMove.TRANSITIONS[MoveStatus(status)]}
    powers = ("running", "paused", "off", "crashed", "unknown")
    operations = ((False, None), (False, FAILED), (False, Ended(ok=True)), (True, None))
    for choice, power, up, place, missing, (running, ended) in itertools.product(
        ("", "host", "skip", "stop"), powers, (True, False), (HERE, THERE), (True, False), operations
    ):
        row = Row(status=status, choice=choice, running=running, ended=ended)
        seen = replace(SEEN, power_state=power, host_up=up, host_id=place, missing=missing)
        found = judge(row, seen, leaving={HERE}, move_powered_off=False)
        assert found.status in legal, (row, seen, found)


@pytest.mark.parametrize("status", sorted(set(MoveStatus.values) - {"stopping", "moving"}))
def test_a_vm_is_never_stopped_unless_that_was_chosen(status: str) -> None:
    for seen in (SEEN, DEAD, UNKNOWN):
        assert verdict(status, seen).status != "stopping"
        assert verdict(status, seen).status != "stopped" or status == "stopped"
