"""Which hosts are shown for a VM: the best of a large fleet, without judging each host in words."""

from __future__ import annotations

import pytest

from placement.explaining import Explained, ExplainedHost
from tests.placement.world import fleet, row, spec

SHOWN = 20


def large(count: int) -> Explained:
    """A third lacks the tag, some have no room, some are cordoned; no two have the same room."""
    hosts = [
        row(
            f"kvm-{number:04}",
            tags=frozenset({"ssd"}) if number % 3 else frozenset(),
            memory_claimed_mib=number * 8 if number % 5 else 16_000,
            schedulable=number % 7 > 0,
        )
        for number in range(count)
    ]
    return Explained.of(spec(tags={"ssd": "offering fast"}, allocator="spread"), fleet(*hosts))


def test_the_best_hosts_are_those_of_a_full_sort() -> None:
    told = large(200)
    everybody = sorted(told.hosts(), key=lambda one: (not one.fits, len(one.reasons), -(one.score or 0.0)))
    fitting = sum(one.fits for one in everybody)

    assert 0 < fitting < 200
    assert [one.name for one in told.best(fitting)] == [one.name for one in everybody[:fitting]]
    assert [(one.fits, len(one.reasons)) for one in told.best(200)] == [
        (one.fits, len(one.reasons)) for one in everybody
    ]


def test_only_what_is_shown_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told, asked = large(2_000), []
    plain = Explained._host

    def count(self: Explained, place: int, host: str) -> ExplainedHost:
        asked.append(place)
        return plain(self, place, host)

    monkeypatch.setattr(Explained, "_host", count)

    assert len(told.best(SHOWN)) == len(asked) == SHOWN
