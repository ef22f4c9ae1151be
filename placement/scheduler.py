"""Decides where a VM goes: every host is judged by every filter, those that fit are weighed, the best is chosen.

No Django, no clock, no chance: the same request and fleet give the same answer, bit for bit. ``ENGINE`` grows when a
change of the rules would make an old decision come out differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from placement.filters import FILTERS, Column, Filter, Measure
from placement.fleet import Fleet
from placement.spec import Spec
from placement.structure import Bools, Floats, Ints
from placement.weighers import TAKES_TURNS, WEIGHERS, allocator_for, cluster_ranks, turn, with_preferences

ENGINE = 1
_Asked = list[tuple[Filter, Bools]]
TOP = 5
AS_GOOD = 0.01
"""Hosts whose scores differ by less than this share of the weights' sum are equally good."""
OUT_OF_QUESTION = 60
"""Counts as so many failed filters: nothing that people could change would let the host pass."""
MOST_STANDINGS = 64
_STANDING = tuple(one for one in FILTERS if not one.about_load)
_ABOUT_LOAD = tuple(one for one in FILTERS if one.about_load)
_EASES = tuple(sorted({one.ease for one in FILTERS if one.ease}))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one filter says of one host."""

    filter: str
    passed: bool
    measure: Measure


@dataclass(frozen=True, slots=True)
class Scored:
    """A host that fits, with each weigher's part of its score."""

    host: str
    name: str
    cluster: str
    score: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """The host that lacks least when none fits: its failed filters, and the change that would let it take the VM.

    Each change is ``{"filter", "change", …numbers}``, in JSON's own types.
    """

    host: str
    name: str
    cluster: str
    verdicts: tuple[Verdict, ...]
    changes: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ClusterResult:
    """One cluster's share of the result; ``lost`` per filter, in the order in which filters are asked."""

    id: str
    name: str
    rank: int
    considered: int
    fit: int
    lost: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """The answer. ``host`` is None when nothing fits. ``columns`` holds each filter's verdicts (None: all pass),
    ``scores`` those of the hosts at ``places``; both are in the fleet's order and good until the fleet changes.
    """

    host: str | None
    place: int | None
    considered: int
    fit: int
    lost: Mapping[str, int]
    allocator: str
    top: tuple[Scored, ...]
    nearest: NearestMiss | None
    columns: Mapping[str, Column] = field(repr=False)
    places: Ints = field(repr=False)
    scores: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Judged:
    columns: dict[str, Column]
    fits: Bools
    lost: dict[str, int]
    left: int


def decide(spec: Spec, fleet: Fleet) -> Result:
    """Judges every host and chooses the best that fits."""
    judged = _judge(spec, fleet)
    places = np.flatnonzero(judged.fits)
    chosen = _choose(spec, fleet, places)
    return Result(
        host=None if chosen.place is None else fleet.structure.ids[chosen.place],
        place=chosen.place,
        considered=len(fleet),
        fit=len(places),
        lost=judged.lost,
        allocator=chosen.allocator,
        top=chosen.top,
        nearest=None if len(places) else _nearest(spec, fleet, judged),
        columns=judged.columns,
        places=chosen.places,
        scores=chosen.scores,
    )


def legal(spec: Spec, fleet: Fleet, *, without: Collection[str] = ()) -> Bools:
    """The hosts where the VM may be, whatever is on them now: no capacity, thresholds, consoles or groups.

    ``without`` leaves out further filters by name.
    """
    fits = np.ones(len(fleet), dtype=bool)
    for one in FILTERS:
        if not one.about_load and one.name not in without:
            column = one.passes(spec, fleet)
            if column is not None:
                fits &= column
    return fits


def verdicts(spec: Spec, fleet: Fleet, result: Result, place: int) -> tuple[Verdict, ...]:
    """Every filter's verdict on one host, with what it needs and what is there."""
    return tuple(_verdict(spec, fleet, one, result.columns[one.name], place) for one in FILTERS)


def _verdict(spec: Spec, fleet: Fleet, one: Filter, column: Column, place: int) -> Verdict:
    passed = column is None or bool(column[place])
    return Verdict(one.name, passed, one.measure(spec, fleet, place))


def _judge(spec: Spec, fleet: Fleet) -> _Judged:
    """What does not depend on the load is the same for all requests that ask the same of hosts: an owner's fleet keeps
    it."""
    known = {} if fleet.derived is None else fleet.derived.standings
    standing: _Judged | None = known.get(spec.of_hosts)
    if standing is None:
        if len(known) >= MOST_STANDINGS:
            known.clear()
        standing = known[spec.of_hosts] = _ask(_STANDING, spec, fleet, _nothing_asked(fleet))
    return _ask(_ABOUT_LOAD, spec, fleet, standing)


def _nothing_asked(fleet: Fleet) -> _Judged:
    return _Judged({}, np.ones(len(fleet), dtype=bool), {}, len(fleet))


def _ask(filters: Iterable[Filter], spec: Spec, fleet: Fleet, before: _Judged) -> _Judged:
    columns, lost, fits, left = dict(before.columns), dict(before.lost), before.fits, before.left
    for one in filters:
        column = columns[one.name] = one.passes(spec, fleet)
        if column is None:
            continue
        fits = fits & column
        count = int(np.count_nonzero(fits))
        if count != left:
            lost[one.name], left = left - count, count
    return _Judged(columns, fits, lost, left)


@dataclass(frozen=True, slots=True)
class _Chosen:
    place: int | None
    allocator: str
    places: Ints
    scores: Floats
    top: tuple[Scored, ...] = ()


def _choose(spec: Spec, fleet: Fleet, places: Ints) -> _Chosen:
    places, (name, weights) = _narrow(spec, fleet, places)
    if not len(places):
        return _Chosen(None, name, places, np.zeros(0))
    weights = with_preferences(spec, weights)
    parts = {one: _part(WEIGHERS[one](spec, fleet, places), weight) for one, weight in weights.items()}
    scores = reduce(np.add, parts.values())
    best = _best(scores, max(TOP, spec.among))
    pick = best[0]
    if name in TAKES_TURNS and spec.among > 1:
        margin = scores[pick] - AS_GOOD * sum(abs(weight) for weight in weights.values())
        equal = [at for at in best[: spec.among] if scores[at] >= margin]
        pick = equal[turn(spec.seed, len(equal))]
    shown = [pick, *(at for at in best if at != pick)][:TOP]
    told = zip(*(part[shown].tolist() for part in parts.values()), strict=True)
    top = tuple(
        _scored(fleet, place, dict(zip(parts, values, strict=True)))
        for place, values in zip(places[shown].tolist(), told, strict=True)
    )
    return _Chosen(int(places[pick]), name, places, scores, top)


def _part(column: Floats, weight: float) -> Floats:
    return column if weight == 1.0 else weight * column


def _narrow(spec: Spec, fleet: Fleet, places: Ints) -> tuple[Ints, tuple[str, Mapping[str, float]]]:
    """The hosts to compare, and how. Where clusters have different allocators their scores cannot be compared: then
    the first cluster in order that has a fitting host is taken, and its own allocator chooses within it."""
    structure = fleet.structure
    if spec.allocator or not structure.has_policies or not len(places):
        return places, allocator_for(spec, None)
    found = np.unique(structure.cluster[places])
    kinds = [allocator_for(spec, structure.clusters[int(number)]) for number in found]
    if all(kind == kinds[0] for kind in kinds):
        return places, kinds[0]
    ranks = cluster_ranks(spec, fleet)
    first = int(found[np.argmin(ranks[found])])
    return places[structure.cluster[places] == first], allocator_for(spec, structure.clusters[first])


def _best(scores: Floats, count: int) -> list[int]:
    """The places of the highest scores, best first; of equals the first."""
    left = scores.copy()
    found = []
    for _ in range(min(count, len(left))):
        at = int(left.argmax())
        found.append(at)
        left[at] = -np.inf
    return found


def _scored(fleet: Fleet, place: int, parts: Mapping[str, float]) -> Scored:
    structure = fleet.structure
    rounded = {name: round(part, 6) for name, part in parts.items()}
    return Scored(
        structure.ids[place],
        structure.names[place],
        structure.cluster_of(place).name,
        round(sum(parts.values()), 6),
        rounded,
    )


def _nearest(spec: Spec, fleet: Fleet, judged: _Judged) -> NearestMiss | None:
    """When all hosts fail, the one that fails fewest filters, then the easiest to change, then by least."""
    asked = [(one, column) for one in FILTERS if (column := judged.columns[one.name]) is not None]
    failed = np.zeros(len(fleet), dtype=np.uint16)
    for one, column in asked:
        failed += ~column * np.uint16(1 if one.ease else OUT_OF_QUESTION)
    least = int(failed.min(initial=OUT_OF_QUESTION))
    if least >= OUT_OF_QUESTION:
        return None
    places, asked = _easiest(failed == least, asked, alone=least == 1)
    cost = np.zeros(len(places))
    for one, column in asked:
        misses = ~column[places]
        if misses.any():
            cost += misses * float(one.ease)
            if one.shortfall is not None:
                short = np.maximum(one.shortfall(spec, fleet, places), 0.0)
                cost += misses * (short / (1.0 + short))
    place = int(places[cost.argmin()])
    missed = tuple(_verdict(spec, fleet, one, column, place) for one, column in asked if not column[place])
    structure = fleet.structure
    return NearestMiss(
        structure.ids[place],
        structure.names[place],
        structure.cluster_of(place).name,
        missed,
        tuple(smallest_change(verdict) for verdict in missed),
    )


def _easiest(hosts: Bools, asked: _Asked, *, alone: bool) -> tuple[Ints, _Asked]:
    """The places of these hosts, and the filters, that are worth comparing: where each host fails a filter ``alone``,
    those with the easiest filter, as shortfalls weigh less than one step of ease."""
    if alone:
        for ease in _EASES:
            group = [(one, column) for one, column in asked if one.ease == ease]
            if group and (found := hosts & ~reduce(np.logical_and, (column for _, column in group))).any():
                if all(one.shortfall is None for one, _ in group):
                    return np.array([found.argmax()]), group
                return np.flatnonzero(found), group
    return np.flatnonzero(hosts), asked


_CHANGES: Mapping[str, str] = {
    "schedulable": "uncordon",
    "connection": "reconnect",
    "hold": "end-hold",
    "cluster-scope": "allow-across-clusters",
    "tags": "add-tags",
    "networks": "connect-networks",
    "datastores": "connect-datastores",
    "local-disks": "copy-storage",
    "together": "move-group",
    "apart": "relax-group",
    "threshold": "raise-threshold",
    "vcpus": "free-vcpus",
    "memory": "free-memory",
    "consoles": "close-consoles",
}


def smallest_change(verdict: Verdict) -> dict[str, Any]:
    """What would let the host pass this filter, with the exact amount where there is one."""
    change: dict[str, Any] = {"filter": verdict.filter, "change": _CHANGES.get(verdict.filter, "none")}
    if verdict.measure.missing:
        change["missing"] = list(verdict.measure.missing)
    if verdict.filter == "hold":
        change["hold"] = verdict.measure.available
    if verdict.filter in ("vcpus", "memory", "consoles"):
        change["amount"] = verdict.measure.needed - verdict.measure.available
    return change


def cluster_results(spec: Spec, fleet: Fleet, judged: Result) -> tuple[ClusterResult, ...]:
    """Each cluster's share of a result, in the order in which clusters are looked at."""
    structure = fleet.structure
    if not structure.clusters:
        return ()

    def sums(column: Bools) -> list[int]:
        found: list[int] = np.add.reduceat(column, structure.starts, dtype=np.int32).tolist()
        return found

    ranks = cluster_ranks(spec, fleet).tolist()
    left = np.ones(len(fleet), dtype=bool)
    lost: dict[str, list[int]] = {}
    for name in judged.lost:
        column = judged.columns[name]
        if column is not None:
            lost[name] = sums(left & ~column)
            left = left & column
    fit = sums(left)
    found = []
    for number, cluster in enumerate(structure.clusters):
        hosts = structure.hosts_of(number)
        share = {name: counts[number] for name, counts in lost.items() if counts[number]}
        considered = hosts.stop - hosts.start
        found.append(ClusterResult(cluster.id, cluster.name, ranks[number], considered, fit[number], share))
    return tuple(sorted(found, key=lambda one: one.rank))
