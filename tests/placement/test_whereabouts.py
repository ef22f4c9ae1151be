"""What two hosts' answers mean, case by case."""

from __future__ import annotations

import itertools

import pytest

from cloudops.hypervisors.port import MigrationState, MigrationStatus, PowerState, Unreachable
from placement.whereabouts import NO_JOB, UNVERIFIED_SECONDS, Place, Side, Sight, judge

RUNS, PAUSED, OFF, ABSENT = Side(PowerState.RUNNING), Side(PowerState.PAUSED), Side(PowerState.OFF), Side()
SILENT = Side(silent=Unreachable("no route to host"))
DONE, FAILED = MigrationStatus(MigrationState.COMPLETED), MigrationStatus(MigrationState.FAILED)
MOVING = MigrationStatus(MigrationState.RUNNING)


@pytest.mark.parametrize(
    ("job", "source", "target", "place"),
    [
        (MOVING, RUNS, ABSENT, Place.MOVING),
        (DONE, ABSENT, RUNS, Place.ARRIVED),
        (NO_JOB, ABSENT, RUNS, Place.ARRIVED),
        (NO_JOB, ABSENT, PAUSED, Place.ARRIVED),
        (NO_JOB, ABSENT, OFF, Place.ARRIVED),  # it arrived, and its guest shut down
        (NO_JOB, OFF, RUNS, Place.ARRIVED),
        (NO_JOB, PAUSED, RUNS, Place.ARRIVED),  # the half that a migration leaves at the source
        (FAILED, RUNS, ABSENT, Place.AT_SOURCE),
        (NO_JOB, RUNS, ABSENT, Place.AT_SOURCE),
        (NO_JOB, RUNS, PAUSED, Place.AT_SOURCE),  # the half that the destination tidies up
        (NO_JOB, RUNS, OFF, Place.AT_SOURCE),
        (FAILED, OFF, ABSENT, Place.AT_SOURCE),
        (FAILED, PAUSED, ABSENT, Place.AT_SOURCE),
        (NO_JOB, ABSENT, ABSENT, Place.GONE),
        (NO_JOB, RUNS, RUNS, Place.UNCLEAR),
        (NO_JOB, PAUSED, PAUSED, Place.UNCLEAR),
        (None, SILENT, SILENT, Place.UNCLEAR),
        (None, SILENT, RUNS, Place.ARRIVED),
        (None, SILENT, ABSENT, Place.UNCLEAR),
        (None, SILENT, PAUSED, Place.UNCLEAR),
        (None, SILENT, OFF, Place.UNCLEAR),
        (FAILED, RUNS, SILENT, Place.AT_SOURCE),
        (NO_JOB, RUNS, SILENT, Place.AT_SOURCE),
        (NO_JOB, PAUSED, SILENT, Place.UNCLEAR),  # perhaps it runs over there
        (NO_JOB, ABSENT, SILENT, Place.UNCLEAR),
        (DONE, ABSENT, SILENT, Place.UNCLEAR),
        (NO_JOB, OFF, SILENT, Place.UNCLEAR),
        (FAILED, OFF, SILENT, Place.AT_SOURCE),
    ],
)
def test_what_it_means_for_a_live_migration(
    job: MigrationStatus | None, source: Side, target: Side, place: Place
) -> None:
    verdict = judge(Sight(job, source, target), live=True, was_paused=False)
    assert verdict.place == place
    assert bool(verdict.words) or place != Place.UNCLEAR


@pytest.mark.parametrize(
    ("job", "source", "target", "place"),
    [
        (DONE, ABSENT, OFF, Place.ARRIVED),
        (NO_JOB, OFF, OFF, Place.AT_SOURCE),  # nobody knows that it came to its end: the source's is the VM
        (None, OFF, OFF, Place.AT_SOURCE),
        (DONE, OFF, OFF, Place.ARRIVED),
        (FAILED, OFF, OFF, Place.AT_SOURCE),
        (NO_JOB, OFF, ABSENT, Place.AT_SOURCE),
        (NO_JOB, RUNS, OFF, Place.AT_SOURCE),  # somebody started it meanwhile
        (NO_JOB, OFF, RUNS, Place.ARRIVED),
        (NO_JOB, OFF, SILENT, Place.UNCLEAR),
    ],
)
def test_what_it_means_for_a_vm_that_is_off(job: MigrationStatus, source: Side, target: Side, place: Place) -> None:
    assert judge(Sight(job, source, target), live=False, was_paused=False).place == place


def test_a_vm_that_was_paused_stays_so_at_its_source() -> None:
    assert judge(Sight(NO_JOB, PAUSED, SILENT), live=True, was_paused=True).place == Place.AT_SOURCE


def test_what_may_still_change_is_not_acted_on_at_once() -> None:
    assert judge(Sight(FAILED, RUNS, ABSENT), live=True, was_paused=False).settle_seconds == 0
    for source, target in ((RUNS, PAUSED), (PAUSED, RUNS), (ABSENT, ABSENT), (RUNS, ABSENT)):
        assert judge(Sight(NO_JOB, source, target), live=True, was_paused=False).settle_seconds > 0
    assert judge(Sight(None, SILENT, RUNS), live=True, was_paused=False).settle_seconds == UNVERIFIED_SECONDS


def test_it_is_never_at_the_source_while_it_runs_elsewhere_nor_arrived_while_it_runs_at_the_source() -> None:
    """Whatever both say, with every job, live or not."""
    sides, jobs = (RUNS, PAUSED, OFF, ABSENT, SILENT), (None, NO_JOB, DONE, FAILED)
    for job, source, target, live, was_paused in itertools.product(jobs, sides, sides, (True, False), (True, False)):
        verdict = judge(Sight(job, source, target), live=live, was_paused=was_paused)
        if target.runs:
            assert verdict.place in {Place.ARRIVED, Place.UNCLEAR}
        if source.runs:
            assert verdict.place in {Place.AT_SOURCE, Place.UNCLEAR}
        if not source.known and not target.known:
            assert verdict.place == Place.UNCLEAR
        if verdict.place == Place.ARRIVED:
            assert target.known
            assert target.state is not None
            if not target.runs and source.known and source.state is not None:
                assert job is DONE
        if verdict.place == Place.AT_SOURCE:
            assert source.known
            assert source.state is not None
