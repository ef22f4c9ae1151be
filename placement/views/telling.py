"""How a decision is laid out on a page: the filters that matter as columns, the hosts that matter first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from placement import words
from placement.explaining import Explained, ExplainedCluster, ExplainedHost, ExplainedVerdict

HOSTS_SHOWN: Final = 25
ALL_SHOWN: Final = 2_000
ALWAYS: Final = ("vcpus", "memory")


@dataclass(frozen=True, slots=True)
class Cell:
    """One verdict: a mark, a short text where numbers matter, and the words for hover and for screen readers."""

    passed: bool
    text: str
    words: str


@dataclass(frozen=True, slots=True)
class HostLine:
    """A host's line; ``cells`` in the order of the columns."""

    host: ExplainedHost
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class ClusterTable:
    """One cluster: its hosts, the fitting ones with the best score first, then those that lack least."""

    cluster: ExplainedCluster
    lines: tuple[HostLine, ...]
    hidden: int


def told(explained: Explained, whole_cluster: str | None = None) -> dict[str, Any]:
    """The context of a decision's page; ``whole_cluster`` names one whose hosts are all shown."""
    columns = [name for name in words.TITLES if name in ALWAYS or name in _failing(explained)]
    chosen = explained.host(explained.result.host) if explained.result.host else None
    return {
        "explained": explained,
        "columns": [words.TITLES[name] for name in columns],
        "unanimous": [title for name, title in words.TITLES.items() if name not in columns],
        "chosen": _line(chosen, columns) if chosen else None,
        "tables": [
            _table(explained, cluster, columns, ALL_SHOWN if cluster.id == whole_cluster else HOSTS_SHOWN)
            for cluster in explained.clusters
        ],
        "lost": [(words.TITLES[name], count) for name, count in explained.result.lost.items()],
        "nearest": explained.summary["nearest"],
        "nearest_remedies": _nearest_remedies(explained),
    }


def _failing(explained: Explained) -> set[str]:
    return {name for name, column in explained.result.columns.items() if column is not None and not column.all()}


def _nearest_remedies(explained: Explained) -> tuple[str, ...]:
    nearest = explained.result.nearest
    host = explained.host(nearest.host) if nearest else None
    return host.remedies if host else ()


def _table(explained: Explained, cluster: ExplainedCluster, columns: list[str], limit: int) -> ClusterTable:
    lines = tuple(_line(host, columns) for host in explained.ranked(cluster.id, take=limit))
    return ClusterTable(cluster, lines, cluster.considered - len(lines))


def _line(host: ExplainedHost, columns: list[str]) -> HostLine:
    verdicts = {verdict.filter: verdict for verdict in host.verdicts}
    return HostLine(host, tuple(_cell(verdicts[name]) for name in columns))


def _cell(verdict: ExplainedVerdict) -> Cell:
    text = ""
    if verdict.filter == "memory":
        text = words.memory(int(verdict.available))
    elif verdict.filter in ("vcpus", "consoles"):
        text = str(verdict.available)
    if not verdict.passed:
        return Cell(False, text, f"{verdict.title}: {verdict.words}")
    if text:
        needed = words.memory(int(verdict.needed)) if verdict.filter == "memory" else str(verdict.needed)
        return Cell(True, text, f"{verdict.title}: {text} free, {needed} needed")
    return Cell(True, "", f"{verdict.title}: passes")
