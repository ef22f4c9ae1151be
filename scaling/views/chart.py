"""A VM's size over time as a drawing: step lines in a box of 100 by 100, scaled by the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

BOX = 100.0
HEADROOM = 1.12


class Sample(Protocol):
    """A size from one moment on."""

    at: datetime
    wanted_vcpus: int
    wanted_memory_mib: int
    vcpus: int
    memory_mib: int
    guest_memory_mib: int | None


@dataclass(frozen=True, slots=True)
class Chart:
    """One resource: SVG paths of what was wanted and of what it had (``area``: the same down to the ground), and the
    number at the top of the box."""

    name: str
    unit: str
    wanted: str
    real: str
    area: str
    top: int
    last_wanted: int
    last_real: int


def charts(samples: Sequence[Sample], *, since: datetime, until: datetime) -> list[Chart]:
    """Memory and vCPUs between two moments; empty without samples. A sample before ``since`` tells how it began."""
    if not samples:
        return []
    return [
        _chart("Memory", "MiB", samples, lambda s: s.wanted_memory_mib, lambda s: s.memory_mib, since, until),
        _chart("vCPUs", "vCPU", samples, lambda s: s.wanted_vcpus, lambda s: s.vcpus, since, until),
    ]


def _chart(
    name: str,
    unit: str,
    samples: Sequence[Sample],
    wanted: Callable[[Sample], int],
    real: Callable[[Sample], int],
    since: datetime,
    until: datetime,
) -> Chart:
    top = max(1, *(max(wanted(one), real(one)) for one in samples))
    places = [_x(one.at, since, until) for one in samples]
    line = _steps(places, [real(one) for one in samples], top)
    return Chart(
        name=name,
        unit=unit,
        wanted=_steps(places, [wanted(one) for one in samples], top),
        real=line,
        area=f"{line}V{BOX:g}H{places[0]:g}Z",
        top=top,
        last_wanted=wanted(samples[-1]),
        last_real=real(samples[-1]),
    )


def _x(at: datetime, since: datetime, until: datetime) -> float:
    share = (at - since) / (until - since) if until > since else 0.0
    return round(BOX * min(1.0, max(0.0, share)), 2)


def _steps(places: Sequence[float], values: Sequence[int], top: int) -> str:
    """A value holds until the next one."""
    heights = [round(BOX - BOX * value / (top * HEADROOM), 2) for value in values]
    path = f"M{places[0]:g} {heights[0]:g}"
    for place, height in zip(places[1:], heights[1:], strict=True):
        path += f"H{place:g}V{height:g}"
    return f"{path}H{BOX:g}"
