"""Numbers for people: how a capacity bar is laid out, and how amounts and durations are worded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HIGH_SHARE = 0.8
"""From here a bar warns; from 1.0 it is full."""


class Part(NamedTuple):
    """One segment; ``x`` and ``width`` in percent of the bar."""

    name: str
    x: float
    width: float


class Layout(NamedTuple):
    """A bar: its segments, ticks (percent) and level ("ok", "high" or "full")."""

    parts: tuple[Part, ...]
    ticks: tuple[float, ...]
    level: str


def layout(segments: Iterable[tuple[str, float]], limit: float, mark: float | None = None) -> Layout:
    """Lay out ``segments`` against ``limit`` (0: none). Beyond the limit the bar rescales; a tick stays at the limit.

    ``mark`` is a second tick, such as where overcommitting starts. Empty segments are left out.
    """
    present = [(name, value) for name, value in segments if value > 0]
    count = sum(value for _, value in present)
    scale = max(limit, count) or 1
    parts, x = [], 0.0
    for name, value in present:
        width = 100 * value / scale
        parts.append(Part(name, round(x, 2), round(width, 2)))
        x += width
    ticks = [round(100 * mark / scale, 2)] if mark is not None and 0 < mark < limit else []
    if 0 < limit < count:
        ticks.append(round(100 * limit / scale, 2))
    return Layout(tuple(parts), tuple(ticks), level(count, limit))


def level(count: float, limit: float) -> str:
    """The step of colour: "high" from 80 %, "full" from 100 %, else "ok". No limit is never full."""
    if limit <= 0:
        return "ok"
    return "full" if count >= limit else "high" if count >= HIGH_SHARE * limit else "ok"


def plain(value: float) -> str:
    """At most one decimal, none when it is zero."""
    return f"{value:.1f}".removesuffix(".0")


def amount(value: float, unit: str) -> str:
    """``value`` with its unit; MiB becomes what a person would choose."""
    if unit == "MiB":
        return mib_words(value)
    return f"{plain(value)} {unit}".strip()


def numbers(value: float, limit: float, unit: str) -> tuple[str, str]:
    """("98 of 128", "GiB"): both numbers in the unit that suits the limit."""
    if unit != "MiB":
        return f"{plain(value)} of {plain(limit)}", unit
    size, name = _binary_unit(limit)
    return f"{plain(value / size)} of {plain(limit / size)}", name


def mib_words(value: float) -> str:
    """Mebibytes as MiB, GiB or TiB."""
    size, name = _binary_unit(value)
    return f"{plain(value / size)} {name}"


def _binary_unit(value_mib: float) -> tuple[int, str]:
    if abs(value_mib) >= 1024 * 1024:
        return 1024 * 1024, "TiB"
    return (1024, "GiB") if abs(value_mib) >= 1024 else (1, "MiB")


def duration_words(seconds: float) -> str:
    """``42 s``, ``9 min``, ``2 h 5 min``, ``3 d 4 h``: at most two units, rounded down."""
    total = max(0, int(seconds))
    if total < 60:
        return f"{total} s"
    minutes = total // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours and days < 10 else f"{days} d"


def spark_paths(values: Iterable[float | None], width: int = 96, height: int = 20) -> tuple[str, str]:
    """SVG path data (line, area) of ``values`` from zero to their maximum. Empty strings for fewer than two values."""
    row = list(values)
    points = [(index, value) for index, value in enumerate(row) if value is not None]
    if len(points) < 2:
        return "", ""
    top = max(value for _, value in points) or 1
    span = max(1, len(row) - 1)
    steps = [f"{width * index / span:.1f} {height - 1 - (height - 2) * value / top:.1f}" for index, value in points]
    line = "M" + "L".join(steps)
    first, last = width * points[0][0] / span, width * points[-1][0] / span
    return line, f"{line}L{last:.1f} {height}L{first:.1f} {height}Z"
