"""Where claims differ from what hypervisors report."""

from __future__ import annotations

from collections import Counter

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages
from placement import reconciling
from placement.reconciling import DriftKind

SHOWN = 200
TITLES = {
    DriftKind.UNCLAIMED: ("no claim", "notice"),
    DriftKind.STALE: ("claim left over", "notice"),
    DriftKind.ELSEWHERE: ("claim elsewhere", "notice"),
    DriftKind.SIZE: ("another size", "notice"),
    DriftKind.ORPHAN: ("nobody's claim", "notice"),
    DriftKind.SUM: ("sum is off", "danger"),
    DriftKind.OVER_CAPACITY: ("too much promised", "danger"),
}


@require_safe
@needs(Right.FLEET_VIEW)
def drift(request: HttpRequest) -> HttpResponse:
    """Every difference, those that people have to see to first."""
    wanted = pages.filters(request, "kind")
    found = reconciling.drift(now=timezone.now())
    counts = Counter(one.kind for one in found)
    shown = [one for one in found if not wanted or one.kind == wanted["kind"]]
    shown.sort(key=lambda one: one.mended)
    context = {
        "rows": [{"drift": one, "title": TITLES[one.kind][0], "look": TITLES[one.kind][1]} for one in shown[:SHOWN]],
        "hidden": max(0, len(shown) - SHOWN),
        "kinds": [(str(kind), title, counts[kind]) for kind, (title, _) in TITLES.items() if counts[kind]],
        "total": len(found),
        "mendable": sum(one.mended for one in found),
        "filtered": bool(wanted),
    }
    return pages.show(request, "placement/drift.html", context, fragment="placement/_drift.html")


@require_POST
@needs(Right.FLEET_MANAGE)
def mend(request: HttpRequest) -> HttpResponse:
    """Puts right now what would be put right at the next look by itself."""
    mended = sum(one.mended for one in reconciling.reconcile(now=timezone.now()))
    words = "1 difference is" if mended == 1 else f"{mended} differences are"
    text = f"{words} put right." if mended else "Nothing was to be put right."
    return pages.done(request, text, to=reverse("drift"))
