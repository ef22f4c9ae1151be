"""What a decision looks like when it is told: as the gist that is stored, and host by host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from placement import words
from placement.fleet import Fleet
from placement.scheduler import NearestMiss, Result, Verdict, cluster_results, decide, verdicts
from placement.spec import Spec
from placement.structure import Floats, Ints


@dataclass(frozen=True, slots=True)
class ExplainedVerdict:
    """One filter's verdict on one host. ``words`` is empty where the host passes."""

    filter: str
    title: str
    passed: bool
    needed: Any
    available: Any
    missing: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class ExplainedHost:
    """One host: ``score`` and its ``parts`` where it fits and was compared, every filter's verdict in any case."""

    id: str
    name: str
    cluster: str
    fits: bool
    chosen: bool
    score: float | None
    verdicts: tuple[ExplainedVerdict, ...]
    reasons: tuple[str, ...]
    remedies: tuple[str, ...]


@dataclass(frozen=True)
class ExplainedCluster:
    """One cluster in the order in which they were looked at; ``lost`` per filter."""

    id: str
    name: str
    rank: int
    considered: int
    fit: int
    lost: Mapping[str, int]
    explained: Explained

    @cached_property
    def hosts(self) -> tuple[ExplainedHost, ...]:
        return tuple(self.explained.hosts(cluster=self.id))


@dataclass(frozen=True)
class Explained:
    """A decision made again on what it was made on. ``exact``: it came out as it was stored."""

    spec: Spec
    fleet: Fleet
    result: Result
    exact: bool = True

    @classmethod
    def of(cls, spec: Spec, fleet: Fleet) -> Explained:
        return cls(spec, fleet, decide(spec, fleet))

    @cached_property
    def _scores(self) -> dict[int, float]:
        return dict(zip(self.result.places.tolist(), self.result.scores.tolist(), strict=True))

    @cached_property
    def clusters(self) -> tuple[ExplainedCluster, ...]:
        """Every cluster, in the order in which they were looked at."""
        return tuple(
            ExplainedCluster(one.id, one.name, one.rank, one.considered, one.fit, one.lost, self)
            for one in cluster_results(self.spec, self.fleet, self.result)
        )

    def hosts(self, *, cluster: str | None = None) -> Iterator[ExplainedHost]:
        """Every host (of a cluster), in their order."""
        structure = self.fleet.structure
        for place, host in enumerate(structure.ids):
            if cluster is None or structure.cluster_of(place).id == cluster:
                yield self._host(place, host)

    def ranked(self, cluster: str, *, skip: int = 0, take: int | None = None) -> tuple[ExplainedHost, ...]:
        """A cluster's hosts, the chosen one first, then those that fit with the best score first, then those that fail
        least; only those that are taken are told."""
        structure = self.fleet.structure
        inside = np.array([one.id == cluster for one in structure.clusters], dtype=bool)[structure.cluster]
        scores = self._all_scores()
        if self.result.place is not None:
            scores[self.result.place] = np.inf
        return self._in_order(np.flatnonzero(inside), scores, skip, take)

    def best(self, take: int) -> tuple[ExplainedHost, ...]:
        """So many hosts of all: those that fit with the best score first, then those that fail least; only these are
        told."""
        return self._in_order(np.arange(len(self.fleet)), self._all_scores(), 0, take)

    def _all_scores(self) -> Floats:
        scores = np.full(len(self.fleet), -np.inf)
        scores[self.result.places] = self.result.scores
        return scores

    def _in_order(self, places: Ints, scores: Floats, skip: int, take: int | None) -> tuple[ExplainedHost, ...]:
        fails = np.zeros(len(self.fleet), dtype=np.int32)
        for column in self.result.columns.values():
            if column is not None:
                fails += ~column
        ordered = places[np.lexsort((places, -scores[places], fails[places]))]
        chosen = ordered[skip : None if take is None else skip + take]
        return tuple(self._host(int(place), self.fleet.structure.ids[int(place)]) for place in chosen)

    def host(self, host_id: str) -> ExplainedHost | None:
        """One host; None when it was not there at the time."""
        place = self.fleet.structure.index.get(host_id)
        return None if place is None else self._host(place, host_id)

    def _host(self, place: int, host: str) -> ExplainedHost:
        structure = self.fleet.structure
        found = verdicts(self.spec, self.fleet, self.result, place)
        fits = all(one.passed for one in found)
        score = self._scores.get(place)
        name = structure.names[place]
        return ExplainedHost(
            id=host,
            name=name,
            cluster=structure.cluster_of(place).name,
            fits=fits,
            chosen=place == self.result.place,
            score=None if score is None else round(score, 6),
            verdicts=tuple(self._verdict(one) for one in found),
            reasons=tuple(words.reason(one, self.spec) for one in found if not one.passed),
            remedies=tuple(words.remedies(found, name)),
        )

    def _verdict(self, one: Verdict) -> ExplainedVerdict:
        measure = one.measure
        return ExplainedVerdict(
            filter=one.filter,
            title=words.TITLES[one.filter],
            passed=one.passed,
            needed=measure.needed,
            available=measure.available,
            missing=measure.missing,
            words=words.reason(one, self.spec),
        )

    @cached_property
    def summary(self) -> dict[str, Any]:
        return summary_of(self.spec, self.result)

    @cached_property
    def words(self) -> str:
        """The outcome in one or two sentences, for people who run the fleet."""
        if self.result.host is None:
            return words.refusal(self.spec, self.result)
        return words.chosen(self.spec, self.result)

    @cached_property
    def tenant_words(self) -> tuple[str, ...]:
        """The outcome in words that reveal nothing of hosts and other tenants."""
        return words.for_tenant(self.spec, self.result.lost, placed=self.result.host is not None)


def summary_of(spec: Spec, result: Result) -> dict[str, Any]:
    """The gist that is stored: losses per filter, nearest miss, best hosts with scores and what they are made of."""
    return {
        "host": result.host,
        "considered": result.considered,
        "fit": result.fit,
        "allocator": result.allocator,
        "lost": dict(result.lost),
        "weighers": list(result.top[0].parts) if result.top else [],
        "top": [[one.host, one.score, *one.parts.values()] for one in result.top],
        "nearest": _miss(spec, result.nearest),
    }


def _miss(spec: Spec, miss: NearestMiss | None) -> dict[str, Any] | None:
    if miss is None:
        return None
    return {
        "host": miss.host,
        "name": miss.name,
        "cluster": miss.cluster,
        "changes": list(miss.changes),
        "words": [words.reason(one, spec) for one in miss.verdicts],
        "verdicts": [
            {
                "filter": one.filter,
                "needed": one.measure.needed,
                "available": one.measure.available,
                "missing": list(one.measure.missing),
            }
            for one in miss.verdicts
        ],
    }
