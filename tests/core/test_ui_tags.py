"""The template tags: what they escape, what they say beside the picture, and where their links lead."""

from __future__ import annotations

import datetime as dt

import pytest
from django.template import Context, Template
from django.test import RequestFactory
from django.utils import timezone

from cloudops.core.templatetags import ui


def render(source: str, path: str = "/", **context: object) -> str:
    return Template(source).render(Context({"request": RequestFactory().get(path), **context}))


@pytest.mark.parametrize(
    "source",
    [
        "{% status word %}",
        "{% status 'up' detail=word %}",
        "{% copyable word %}",
        "{% disabled word %}",
        "{% capacity_bar 1 2 label=word %}",
        "{% console_bar active=1 limit=2 label=word %}",
        "{% chip 'q' word word %}",
        "{% sort_link word word %}",
        "{% nav_item word 'vm' word %}",
        "{% spark values word %}",
        "{% slot_strip slots 3 %}",
        "{% problem problem %}",
    ],
)
def test_what_comes_from_outside_is_escaped(source: str) -> None:
    word = "\"'><script>x</script>"
    slots = [{"state": "active", "user": word, "vm": word, "url": word}, {"state": "foreign", "user": word}]
    problem = {"title": word, "detail": word, "remedy": word, "code": word}
    html = render(source, word=word, values=[1, 2], slots=slots, problem=problem)
    assert "<script" not in html
    assert "'>" not in html


def test_a_status_is_a_shape_and_a_word() -> None:
    assert "status-ok" in ui.status("running")
    assert "status-busy" in ui.status("draining", detail="4 of 9")
    assert "4 of 9" in ui.status("draining", detail="4 of 9")
    assert "status-neutral" in ui.status("unheard_of")
    assert "unheard of" in ui.status("unheard_of")


def test_a_console_bar_tells_count_limit_and_idle_in_words() -> None:
    html = ui.console_bar(active=29, idle=5, pending=1, foreign=5, limit=40)
    assert "40 of 40" in html
    assert "5 idle" in html
    assert 'data-level="full"' in html
    assert "Foreign: 5" in html


def test_a_slot_strip_shows_every_slot_and_marks_those_over_the_limit() -> None:
    slots = [{"state": "active", "user": "anna", "vm": "web-7", "idle_seconds": 3.0}] * 3
    assert ui.slot_strip(slots, 5).count("<li") == 5
    over = ui.slot_strip(slots, 2)
    assert over.count("slot-over") == 1
    assert "3 consoles, limit 2" in over


def test_times_are_relative_and_keep_the_exact_moment() -> None:
    then = timezone.now() - dt.timedelta(minutes=2, seconds=5)
    html = ui.timeago(then)
    assert "2 min ago" in html
    assert then.astimezone(dt.UTC).isoformat(timespec="seconds") in html
    assert "never" in ui.timeago(None)


def test_a_chip_adds_its_filter_and_a_second_click_takes_it_away() -> None:
    off = render("{% chip 'state' 'up' 'Up' count=4 %}", "/fleet/?q=kvm&cursor=abc")
    assert 'href="?q=kvm&amp;state=up"' in off
    assert "aria-current" not in off
    on = render("{% chip 'state' 'up' 'Up' %}", "/fleet/?state=up")
    assert 'href="?"' in on
    assert "aria-current" in on


def test_a_column_head_turns_its_order_round() -> None:
    up = render("{% sort_link 'name' 'Host' default='name' %}", "/fleet/?cursor=abc")
    assert 'href="?sort=-name"' in up
    assert 'data-sort="ascending"' in up
    assert 'href="?sort=name"' in render("{% sort_link 'name' 'Host' %}", "/fleet/?sort=-name")
    assert "aria-current" not in render("{% sort_link 'vms' 'VMs' %}", "/fleet/?sort=name")


def test_the_rail_marks_where_one_is() -> None:
    assert "aria-current" in render("{% nav_item '/vms/' 'vm' 'VMs' %}", "/vms/123/")
    assert "aria-current" not in render("{% nav_item '/vms/' 'vm' 'VMs' %}", "/my/vms/")


def test_a_disabled_control_says_why_and_an_enabled_one_nothing() -> None:
    assert ui.disabled("") == ""
    assert ui.disabled("No host is up.") == 'aria-disabled="true" data-reason="No host is up."'


def test_an_unknown_icon_is_a_defect() -> None:
    with pytest.raises(KeyError):
        ui.icon("no-such-icon")
