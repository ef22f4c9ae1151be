"""How capacity bars are laid out and numbers are worded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudops.core import capacity


def test_a_bar_below_its_limit_leaves_the_rest_free() -> None:
    layout = capacity.layout([("used", 14), ("claimed", 2)], 32)
    assert layout == ((("used", 0, 43.75), ("claimed", 43.75, 6.25)), (), "ok")


def test_beyond_the_limit_the_bar_rescales_and_a_tick_marks_the_limit() -> None:
    layout = capacity.layout([("used", 40), ("foreign", 10)], 40)
    assert layout.parts[-1].x + layout.parts[-1].width == 100
    assert layout.level == "full"
    assert layout.ticks == (80,)


def test_overcommitting_is_marked_where_the_physical_capacity_ends() -> None:
    assert capacity.layout([("used", 30)], 48, mark=24).ticks == (50,)
    assert capacity.layout([("used", 30)], 24, mark=24).ticks == (80,)


@pytest.mark.parametrize(
    ("count", "limit", "level"),
    [(0, 40, "ok"), (31, 40, "ok"), (32, 40, "high"), (39, 40, "high"), (40, 40, "full"), (9, 0, "ok")],
)
def test_levels_step_at_80_and_100_percent(count: int, limit: int, level: str) -> None:
    assert capacity.level(count, limit) == level


@given(st.lists(st.floats(0, 1e6), max_size=5), st.floats(0, 1e6))
def test_segments_follow_each_other_and_stay_inside_the_bar(values: list[float], limit: float) -> None:
    layout = capacity.layout([(str(index), value) for index, value in enumerate(values)], limit)
    end = 0.0
    for part in layout.parts:
        assert part.x == pytest.approx(end, abs=0.05)
        end = part.x + part.width
    assert end <= 100.05
    assert all(0 <= tick <= 100 for tick in layout.ticks)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (93600, "1 d 2 h"),
        (954000, "11 d"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, words: str) -> None:
    assert capacity.duration_words(seconds) == words


def test_memory_is_told_in_the_unit_of_its_size() -> None:
    assert [capacity.mib_words(value) for value in (512, 1536, 2_097_152)] == ["512 MiB", "1.5 GiB", "2 TiB"]
    assert capacity.numbers(100_352, 131_072, "MiB") == ("98 of 128", "GiB")
    assert capacity.numbers(14, 24, "vCPU") == ("14 of 24", "vCPU")


def test_a_spark_line_needs_two_values_and_skips_gaps() -> None:
    assert capacity.spark_paths([3]) == ("", "")
    line, area = capacity.spark_paths([0, None, 4])
    assert line == "M0.0 19.0L96.0 1.0"
    assert area.endswith("L96.0 20L0.0 20Z")
