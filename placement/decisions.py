"""Decisions: made on the fleet as it is now, stored with everything that tells why, and told again at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.models import Model

from cloudops.core import live, runtime
from cloudops.core.actors import Actor
from cloudops.core.models import Operation
from cloudops.inventory.models import Host, Vm
from placement import claims, mirror, words
from placement.errors import CapacityGone, DecisionTooOld, NoHostFits
from placement.explaining import Explained, ExplainedHost, summary_of
from placement.fleet import Fleet
from placement.mirror import Kept
from placement.models import Claim, ClaimKind, Decision, FleetSnapshot
from placement.scheduler import ENGINE, Result, decide
from placement.spec import Spec
from placement.statements import made

ATTEMPTS = 8
PLACED, REFUSED = map(str, Decision.Outcome.values)
TELL_SECONDS = 0.25
_NOTHING = nullcontext()
MOST_CANDIDATES = 500


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the VM goes: the decision as stored, and the room taken."""

    decision: Decision
    claim: Claim


@dataclass(frozen=True, slots=True)
class Decided:
    """A dry run: the result, every host explained, and the stored decision where that was asked for."""

    result: Result
    explained: Explained
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One host for "migrate to …": whether the VM fits there, how well, and if not why not and what would help."""

    host: Host
    fits: bool
    score: float | None
    reasons: tuple[str, ...]
    remedies: tuple[str, ...]
    explained: ExplainedHost


def dry_run(spec: Spec, *, by: Actor, now: datetime, store: bool = False, vm: Vm | None = None) -> Decided:
    """Where it would go, with nothing taken. ``store`` keeps it among the decisions."""
    owner = mirror.current()
    with owner.up_to_date(now=now, consoles=_needs_consoles(spec)) as fleet:
        mine = fleet.copy()
        kept = owner.keep(now=now) if store else None
    explained = Explained.of(spec, mine)
    decision = None
    if kept is not None:
        with transaction.atomic():
            decision = _row(spec, explained.result, kept, vm=vm, operation=None, by=by, now=now)
            _store(decision, kept)
    return Decided(explained.result, explained, decision)


def place(
    vm: Vm,
    *,
    spec: Spec,
    kind: str = ClaimKind.INCOMING,
    operation: Operation | None = None,
    ignore_hold: bool = False,
    ignore_schedulable: bool = False,
    by: Actor,
    now: datetime,
) -> Placed:
    """Decides, takes the room and stores the decision, all or nothing, in the caller's transaction or one of its own.

    Another scheduler may take the room in between: then it decides again, a few times. Raises :class:`NoHostFits`, with
    the decision that says why; inside a transaction use :func:`recording` around it, or the refused decision is undone
    with the rest. Raises :class:`AlreadyClaimed` for a VM that has a claim of this kind.
    """
    owner = mirror.current()
    fresh = False
    for attempt in range(ATTEMPTS):
        asked = replace(spec, seed=spec.seed + attempt) if attempt else spec
        needs = _needs_consoles(spec)
        with owner.up_to_date(now=now, consoles=needs, everything=fresh, lately=not attempt) as fleet:
            result = decide(asked, fleet)
            if result.host is None and not fresh:
                fresh = True  # nobody is refused on what may be out of date
                continue
            kept = owner.keep(now=now)
            ground = None if result.host is None else owner.ground(result.host)
        row = partial(_row, asked, result, kept, vm=vm, operation=operation, by=by, now=now)
        if ground is None:
            raise _refused(row(), kept, asked, result)
        claim = made(
            Claim,
            id=uuid4(),
            host_id=UUID(ground.host),
            vm_id=vm.pk,
            kind=str(kind),
            operation_id=operation.pk if operation else None,
            vcpus=spec.vcpus,
            memory_mib=spec.memory_mib,
            adopted=False,
            created_at=now,
        )
        beside = _Beside(row, kept.new)
        with claims.Once(claim), _together():
            taken = claims.insert(
                claim,
                beside=beside,
                structure=ground.structure,
                ignore_hold=ignore_hold,
                ignore_schedulable=ignore_schedulable,
            )
            if taken and kept.new is not None:
                transaction.on_commit(partial(owner.stored, kept), robust=True)
        if taken:
            owner.claimed(ground, vcpus=spec.vcpus, memory_mib=spec.memory_mib)
            _tell()
            return Placed(beside.decision, claim)
        fresh = attempt >= ATTEMPTS // 2
    raise CapacityGone(f"Others were quicker {ATTEMPTS} times.", attempts=ATTEMPTS)


@dataclass(slots=True)
class _Beside:
    """What is stored beside a claim, made when it is asked for."""

    make: Callable[[], Decision]
    snapshot: FleetSnapshot | None
    made: Decision | None = None

    def __call__(self) -> tuple[Model, ...]:
        return (self.decision,) if self.snapshot is None else (self.snapshot, self.decision)

    @property
    def decision(self) -> Decision:
        if self.made is None:
            self.made = self.make()
        return self.made


def _together() -> AbstractContextManager[None]:
    """A transaction or a savepoint, but where one statement does everything by itself."""
    wrapper = connections[DEFAULT_DB_ALIAS]
    alone = not wrapper.in_atomic_block and wrapper.vendor == "postgresql"
    return _NOTHING if alone else transaction.atomic()


def _needs_consoles(spec: Spec) -> bool:
    return bool(spec.consoles) or "least-consoles" in (spec.allocator, spec.default_allocator) or bool(spec.weights)


def _row(
    spec: Spec,
    result: Result,
    kept: Kept,
    *,
    vm: Vm | None,
    operation: Operation | None,
    by: Actor,
    now: datetime,
) -> Decision:
    return made(
        Decision,
        id=uuid4(),
        at=now,
        purpose=str(spec.purpose),
        outcome=PLACED if result.host else REFUSED,
        vm_id=vm.pk if vm else None,
        vm_name=vm.name if vm else "",
        project_id=vm.project_id if vm else None,
        host_id=UUID(result.host) if result.host else None,
        host_name=result.top[0].name if result.top else "",
        requested_by_id=by.user_id,
        requested_by_name=by.name[:200],
        operation_id=operation.pk if operation else None,
        allocator=result.allocator,
        engine=ENGINE,
        hosts_considered=result.considered,
        hosts_fit=result.fit,
        spec=spec.to_json(),
        summary=summary_of(spec, result),
        snapshot_id=kept.snapshot_id,
        changes=kept.changes,
    )


def _store(decision: Decision, kept: Kept) -> None:
    mirror.current().store(kept)
    decision.save(force_insert=True)
    _tell()


_told_at = 0.0


def _tell() -> None:
    """Pages hear of a stream of decisions a few times a second. Who asked for this one tells of the VM."""
    global _told_at
    if time.monotonic() - _told_at >= TELL_SECONDS:
        _told_at = time.monotonic()
        live.publish("decisions")


def _refused(decision: Decision, kept: Kept, spec: Spec, result: Result) -> NoHostFits:
    refusal = NoHostFits(
        words.refusal(spec, result),
        remedy=words.refusal_remedy(result),
        decision=str(decision.pk),
        considered=result.considered,
        lost=dict(result.lost),
        nearest=decision.summary["nearest"],
    )
    refusal.keep = lambda: _keep(decision, kept)
    refusal.tenant_words = " ".join(words.for_tenant(spec, result.lost, placed=False))
    if not connection.in_atomic_block:
        refusal.keep()
    return refusal


def _keep(decision: Decision, kept: Kept) -> None:
    """The operation that asked, and a VM that was just made, may have been undone with the transaction."""
    with transaction.atomic():
        if decision.operation_id and not Operation.objects.filter(pk=decision.operation_id).exists():
            decision.operation = None
        if decision.vm_id:
            there = Vm.objects.select_for_update(of=("self",), no_key=True).filter(pk=decision.vm_id)
            if there.values_list("pk").first() is None:
                decision.vm = None
        _store(decision, kept)


@contextmanager
def recording() -> Iterator[None]:
    """A transaction around :func:`place` and what belongs to it. When no host fits everything is undone, and then the
    decision that says why is stored all the same."""
    try:
        with transaction.atomic():
            yield
    except NoHostFits as refusal:
        refusal.keep()
        raise


def explain(decision: Decision) -> Explained:
    """The decision made again on what it was made on, with every host's verdicts.

    Raises :class:`DecisionTooOld` when that was not kept. ``exact`` is False only when the rules changed since.
    """
    if decision.snapshot is None:
        raise DecisionTooOld()
    fleet = _fleet(decision.snapshot)
    fleet.apply(bytes(decision.changes))
    spec = Spec.from_json(decision.spec)
    explained = Explained.of(spec, fleet)
    same = explained.summary == decision.summary
    return Explained(spec, fleet, explained.result, exact=same)


def _fleet(snapshot: FleetSnapshot) -> Fleet:
    if snapshot.base is None:
        return Fleet.decode(bytes(snapshot.data))
    return Fleet.decode(bytes(snapshot.base.data), bytes(snapshot.data))


def for_tenant(decision: Decision) -> tuple[str, ...]:
    """What a tenant may know of a decision about their own VM."""
    placed = decision.outcome == Decision.Outcome.PLACED
    return words.for_tenant(Spec.from_json(decision.spec), decision.summary["lost"], placed=placed)


def candidates(vm: Vm, *, spec: Spec, now: datetime, limit: int = MOST_CANDIDATES) -> list[Candidate]:
    """Hosts for this VM, the best first, then those that fail least; so many at most, as each is told in full. Two
    queries beside the mirror's."""
    del vm  # what counts of it is in the specification
    owner = mirror.current()
    with owner.up_to_date(now=now, consoles=_needs_consoles(spec)) as fleet:
        mine = fleet.copy()
    found = Explained.of(spec, mine).best(limit)
    rows = Host.objects.select_related("cluster", "endpoint").in_bulk([UUID(one.id) for one in found])
    return [
        Candidate(row, one.fits, one.score, one.reasons, one.remedies, one)
        for one in found
        if (row := rows.get(UUID(one.id))) is not None
    ]


def purge(*, now: datetime, batch: int = 5_000) -> int:
    """Removes decisions past their retention, and snapshots that none needs any more; returns how many decisions."""
    horizon = now - timedelta(days=runtime.current().placement_decision_retention_days)
    removed = 0
    while True:
        ids = list(Decision.objects.filter(at__lt=horizon).order_by("at").values_list("pk", flat=True)[:batch])
        removed += Decision.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < batch:
            break
    unused = now - 2 * mirror.SNAPSHOT_AGE
    told = Decision.objects.filter(snapshot__isnull=False).values("snapshot")
    bases = FleetSnapshot.objects.filter(base__isnull=False).values("base")
    for _ in range(2):  # those that differ from others go first, then what they differ from
        FleetSnapshot.objects.filter(taken_at__lt=unused).exclude(pk__in=told).exclude(pk__in=bases).delete()
    return removed
