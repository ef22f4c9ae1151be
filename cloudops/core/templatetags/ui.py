"""Template tags of the design system. A built-in library: templates need no ``{% load %}``.

Rows of big tables call these hundreds of times, hence plain string building instead of an included template. What comes
from outside is always escaped; numbers are formatted here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from django import template
from django.http import HttpRequest, QueryDict
from django.utils import timezone
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString

from cloudops.core import capacity
from cloudops.core.icons import ICONS

register = template.Library()

_KINDS: dict[str, str] = {
    word: kind
    for kind, words in {
        "ok": "up running active ok ready healthy connected enabled succeeded done available in_use live",
        "busy": "connecting pending starting stopping migrating draining restarting syncing queued moving resuming"
        " reconnecting booting",
        "notice": "idle detached cordoned degraded paused suspended warning stale lapsed waiting overcommitted foreign",
        "danger": "unreachable failed error crashed refused blocked down lost denied",
        "off": "closed stopped shutoff off disabled unknown expired revoked cancelled down_for_maintenance never",
    }.items()
    for word in words.split()
}


@register.simple_tag
def icon(name: str, size: str = "") -> SafeString:
    """Inline SVG of ``ICONS[name]`` (KeyError if unknown), ``size`` "", "sm" or "lg". Decorative: label its button."""
    extra = f" icon-{size}" if size else ""
    return SafeString(
        f'<svg class="icon icon-{escape(name)}{escape(extra)}" viewBox="0 0 16 16" aria-hidden="true">'
        f"{ICONS[name]}</svg>"
    )


@register.simple_tag
def status(state: str, text: str = "", kind: str = "", detail: str = "") -> SafeString:
    """Shape and word. ``kind`` (ok, busy, notice, danger, off, neutral) follows from the state's word unless given."""
    word = text or str(state).replace("_", " ")
    kind = kind or _KINDS.get(str(state).lower(), "neutral")
    small = format_html(" <small>{}</small>", detail) if detail else ""
    return format_html(
        '<span class="status status-{}"><span class="status-dot"></span><span>{}{}</span></span>', kind, word, small
    )


@register.simple_tag
def timeago(value: dt.datetime | None, empty: str = "never", suffix: bool = True) -> SafeString:
    """A ``<time>`` in relative words with the exact time on hover; the page keeps it current. ``empty`` when None."""
    if value is None:
        return format_html('<span class="muted">{}</span>', empty)
    seconds = (timezone.now() - value).total_seconds()
    words = capacity.duration_words(abs(seconds))
    if suffix and seconds >= 5:
        words += " ago"
    elif suffix:
        words = "now" if seconds > -5 else f"in {words}"
    return format_html(
        '<time datetime="{}" data-rel="{}" data-tip="{}">{}</time>',
        value.astimezone(dt.UTC).isoformat(timespec="seconds"),
        "ago" if suffix else "span",
        timezone.localtime(value).strftime("%Y-%m-%d %H:%M:%S %Z"),
        words,
    )


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds in words: ``42 s``, ``9 min``, ``2 h 5 min``, ``3 d 4 h``. A dash for None."""
    return "–" if seconds is None else capacity.duration_words(float(seconds))


@register.filter
def clock(seconds: float | None) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``. A dash for None."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@register.filter
def mib(value: float | None) -> str:
    """Mebibytes in the unit a person would choose: ``512 MiB``, ``1.5 GiB``, ``2 TiB``. A dash for None."""
    return "–" if value is None else capacity.mib_words(value)


@register.simple_tag
def capacity_bar(
    used: float,
    total: float,
    claimed: float = 0,
    label: str = "",
    unit: str = "",
    physical: float | None = None,
    size: str = "",
    stacked: bool = False,
) -> SafeString:
    """Used, claimed and free of ``total``. "MiB" is scaled; ``physical`` marks 100 % if overcommitted."""
    segments = (("used", used), ("claimed", claimed))
    words, name = capacity.numbers(used + claimed, total, unit)
    tip = [f"{label or 'Used'}: {capacity.amount(used, unit)}"]
    if claimed:
        tip.append(f"Claimed: {capacity.amount(claimed, unit)}")
    tip.append(f"Free: {capacity.amount(max(0, total - used - claimed), unit)}")
    if physical is not None and physical < total:
        tip.append(f"Physical: {capacity.amount(physical, unit)}, the rest is overcommitted")
    return _bar(segments, total, f"<b>{escape(words)}</b> {escape(name)}", label, tip, size, stacked, physical, "")


@register.simple_tag
def cpu_bar(
    busy: float, vcpus: int, threads: int, label: str = "CPU", size: str = "", stacked: bool = False
) -> SafeString:
    """Threads at work within the vCPUs promised to running VMs. More vCPUs than threads is a host's daily life, so
    only the work colours the bar; a tick marks the threads that there are."""
    segments = (("used", busy), ("claimed", max(0.0, vcpus - busy)))
    words = f"<b>{vcpus} of {threads}</b> vCPU"
    tip = [f"At work: {capacity.plain(busy)} of {threads} threads", f"Promised to running VMs: {vcpus} vCPUs"]
    judged = capacity.level(busy, threads)
    return _bar(segments, threads, words, label, tip, size, stacked, None, "", judged)


@register.simple_tag
def console_bar(
    active: int,
    limit: int | None,
    idle: int = 0,
    pending: int = 0,
    foreign: int = 0,
    label: str = "",
    size: str = "",
    stacked: bool = False,
) -> SafeString:
    """Console slots of a host, VM or user against its limit (None or 0: none). ``active`` excludes the idle ones."""
    segments = (("used", active), ("idle", idle), ("pending", pending), ("foreign", foreign))
    count = active + idle + pending + foreign
    words = f"<b>{count} of {limit}</b>" if limit else f"<b>{count}</b> open"
    words += f" · {idle} idle" if idle else ""
    tip = [f"Active: {active}", f"Idle: {idle}"]
    tip += [f"Opening: {pending}"] if pending else []
    tip += [f"Foreign: {foreign}"] if foreign else []
    tip += [f"Free: {max(0, limit - count)}"] if limit else []
    return _bar(segments, limit or 0, words, label or "Consoles", tip, size, stacked, None, " cap-consoles")


def _bar(
    segments: Iterable[tuple[str, float]],
    limit: float,
    words: str,
    label: str,
    tip: list[str],
    size: str,
    stacked: bool,
    mark: float | None,
    extra: str,
    level: str = "",
) -> SafeString:
    shape = capacity.layout(segments, limit, mark)
    rects = "".join(
        f'<rect class="cap-{part.name}" x="{part.x}%" width="{part.width}%" height="100%"/>' for part in shape.parts
    )
    rects += "".join(f'<rect class="cap-tick" x="{tick}%" width="2" height="100%"/>' for tick in shape.ticks)
    svg = f'<svg class="cap-svg" aria-hidden="true">{rects}</svg>'
    classes = "cap" + (" cap-lg" if size == "lg" else "") + (" cap-stacked" if stacked else "") + extra
    text = f'<span class="cap-text">{words}</span>'
    level = level or shape.level
    if stacked:
        body = f'<span class="cap-head"><span class="cap-name">{escape(label)}</span>{text}</span>{svg}'
    else:
        body = f'{svg}<span class="sr-only">{escape(label)} </span>{text}'
    return SafeString(
        f'<span class="{classes}" data-level="{level}" data-tip="{escape(chr(10).join(tip))}">{body}</span>'
    )


@register.simple_tag
def idle_bar(idle_seconds: float | None, disconnect_seconds: int, warning_seconds: int = 0) -> SafeString:
    """Idle time filling toward the disconnect. Ticks in the page until the next update. A dash for None."""
    if idle_seconds is None:
        return SafeString('<span class="muted">–</span>')
    warned = bool(warning_seconds and idle_seconds >= warning_seconds)
    return format_html(
        '<span class="idle" data-idle="{}" data-idle-warning="{}"><progress max="{}" value="{}" class="{}" '
        'aria-label="Idle time before disconnect"></progress><span>{}</span></span>',
        int(idle_seconds),
        warning_seconds,
        disconnect_seconds,
        int(idle_seconds),
        "is-notice" if warned else "",
        clock(idle_seconds),
    )


@register.simple_tag
def slot_strip(slots: Iterable[Mapping[str, Any]], limit: int) -> SafeString:
    """One cell per slot, free ones too. A slot: ``state`` (active, idle, warned, pending, foreign), ``user``, ``vm``,
    ``idle_seconds``, ``since`` (datetime or None) and ``url`` (or "")."""
    cells = [_slot(slot, number, limit) for number, slot in enumerate(slots, start=1)]
    free = max(0, limit - len(cells))
    cells += [
        format_html('<li class="slot slot-free" data-tip="Slot {} of {}: free"></li>', n, limit)
        for n in range(limit - free + 1, limit + 1)
    ]
    label = (
        f"{limit - free} of {limit} console slots taken"
        if len(cells) <= limit
        else f"{len(cells)} consoles, limit {limit}"
    )
    return format_html(
        '<ol class="slots" aria-label="{}">{}</ol>', label, format_html_join("", "{}", ((cell,) for cell in cells))
    )


def _slot(slot: Mapping[str, Any], number: int, limit: int) -> SafeString:
    user = str(slot.get("user") or "")
    state = str(slot["state"])
    lines = [
        f"Slot {number} of {limit}: {state}",
        " · ".join(part for part in (user, str(slot.get("vm") or "")) if part),
    ]
    if slot.get("idle_seconds") is not None:
        lines.append(f"idle {capacity.duration_words(float(slot['idle_seconds']))}")
    if slot.get("since"):
        lines.append(f"since {timezone.localtime(slot['since']).strftime('%Y-%m-%d %H:%M')}")
    tip = "\n".join(line for line in lines if line)
    over = " slot-over" if number > limit else ""
    letters = "?" if state == "foreign" else user[:2]
    words = format_html('<span aria-hidden="true">{}</span><span class="sr-only">{}</span>', letters, tip)
    if not slot.get("url"):
        return format_html('<li class="slot slot-{}{}" data-tip="{}">{}</li>', state, over, tip, words)
    return format_html(
        '<li><a class="slot slot-{}{}" href="{}" data-tip="{}">{}</a></li>', state, over, slot["url"], tip, words
    )


@register.simple_tag
def copyable(text: object, label: str = "", short: int = 0) -> SafeString:
    """Mono text with a copy button. ``short``: show that many first characters, copy all."""
    full = str(text)
    shown = full[:short] + "…" if short and len(full) > short else full
    return format_html(
        '<span class="copy"><span class="copy-text">{}</span><button type="button" class="copy-button" data-copy="{}" '
        'aria-label="Copy {}">{}</button></span>',
        shown,
        full,
        label or full,
        icon("copy"),
    )


@register.simple_tag
def disabled(reason: str | None) -> SafeString:
    """Attributes of a control that stays visible, does nothing and says why. Nothing when there is no reason."""
    return format_html('aria-disabled="true" data-reason="{}"', reason) if reason else SafeString("")


@register.simple_tag(takes_context=True)
def sort_link(context: template.Context, key: str, label: str, default: str = "") -> SafeString:
    """A column head that sorts by ``?sort=key`` or ``?sort=-key`` and starts again at the first page."""
    query = _query(context)
    current = query.get("sort", default)
    wanted = f"-{key}" if current == key else key
    query["sort"] = wanted
    query.pop("cursor", None)
    mark = icon("chevron-down" if current.startswith("-") else "chevron-up") if current.lstrip("-") == key else ""
    state = (
        format_html(' aria-current="true" data-sort="{}"', "descending" if current.startswith("-") else "ascending")
        if mark
        else ""
    )
    return format_html('<a class="sort" href="?{}"{}>{}{}</a>', query.urlencode(), state, label, mark)


@register.simple_tag(takes_context=True)
def chip(context: template.Context, key: str, value: object, label: str, count: int | None = None) -> SafeString:
    """A filter in the URL: on if ``?key=value`` is; a click turns it round and starts again at the first page."""
    query = _query(context)
    value = str(value)
    is_on = query.get(key) == value
    if is_on:
        query.pop(key)
    else:
        query[key] = value
    query.pop("cursor", None)
    number = format_html('<span class="count">{}</span>', count) if count is not None else ""
    state = format_html('aria-current="true" aria-label="Remove filter: {}"', label) if is_on else SafeString("")
    return format_html(
        '<a class="chip" href="?{}" {}>{}{}{}</a>',
        query.urlencode(),
        state,
        label,
        number,
        icon("close") if is_on else "",
    )


@register.simple_tag(takes_context=True)
def nav_item(context: template.Context, href: str, name: str, label: str, go: str = "", count: int = 0) -> SafeString:
    """A link of the rail; ``go`` is the letter after ``g`` that leads here. Marks itself below ``href``."""
    request = context.get("request")
    path = request.path if isinstance(request, HttpRequest) else ""
    here = path == href or (href != "/" and path.startswith(href)) or (href == "/fleet/" and path == "/")
    return format_html(
        '<a class="rail-item" href="{}"{}{}>{}<span class="rail-label">{}</span>{}</a>',
        href,
        SafeString(' aria-current="page"') if here else "",
        format_html(' data-go="{}"', go) if go else "",
        icon(name),
        label,
        format_html('<span class="count">{}</span>', count) if count else "",
    )


@register.simple_tag
def spark(values: Iterable[float | None], label: str = "") -> SafeString:
    """A line of the last values, 96 by 20 px, with ``label`` for those who do not see it. Gaps (None) are skipped."""
    line, area = capacity.spark_paths(values)
    return format_html(
        '<svg class="spark" viewBox="0 0 96 20" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="spark-area" d="{}"/><path d="{}"/></svg>',
        label,
        area,
        line,
    )


@register.inclusion_tag("partials/problem.html")
def problem(problem: Any, compact: bool = False) -> dict[str, Any]:
    """What went wrong: ``title``, ``detail``, ``remedy``, ``code`` of a mapping or an object."""
    return {"problem": problem, "compact": compact}


@register.inclusion_tag("partials/field.html")
def field(bound: Any, unit: str = "", optional: bool = False) -> dict[str, Any]:
    """One form field with label, help, unit and its errors beside it."""
    widget = bound.field.widget
    kind = getattr(widget, "input_type", "")
    return {
        "field": bound,
        "unit": unit,
        "optional": optional,
        "is_check": kind == "checkbox" and not hasattr(widget, "choices"),
    }


def _query(context: template.Context) -> QueryDict:
    request = context.get("request")
    return request.GET.copy() if isinstance(request, HttpRequest) else QueryDict(mutable=True)
