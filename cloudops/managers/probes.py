"""``/healthz``, ``/readyz`` and ``/metrics``: what load balancers, orchestrators and Prometheus ask."""

from __future__ import annotations

import ipaddress

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from cloudops.accounts import tokens
from cloudops.accounts.models import User
from cloudops.core import problems
from cloudops.core.errors import Forbidden
from cloudops.core.requests import address_of
from cloudops.managers import health, metrics


class MetricsForbidden(Forbidden):
    code = "metrics-forbidden"
    title = "Metrics are not for everybody."
    remedy = "Ask from an address in CLOUDOPS_METRICS_ALLOWED, or with an administrator's API token."


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The process is alive and answers; nothing else is asked, so that a dead database restarts nobody."""
    return JsonResponse({"alive": True})


@never_cache
@require_safe
async def readyz(request: HttpRequest) -> JsonResponse:
    """Whether a load balancer should send people here: 200 or 503, with every check."""
    answer = await health.readiness(now=timezone.now())
    return JsonResponse(answer.as_dict(), status=200 if answer.ready else 503)


@never_cache
@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    """Metrics, for the monitoring's addresses and for administrators."""
    if not (_comes_from_monitoring(request) or _is_admin(request)):
        refusal = MetricsForbidden()
        return JsonResponse(problems.body(refusal), status=refusal.status, content_type=problems.CONTENT_TYPE)
    return HttpResponse(metrics.exposition(now=timezone.now()), content_type=metrics.CONTENT_TYPE)


def _comes_from_monitoring(request: HttpRequest) -> bool:
    address = address_of(request)
    if "X-Forwarded-For" in request.headers and address == request.META.get("REMOTE_ADDR"):
        return False  # a proxy that is not declared as trusted: whose request it is, is not known
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.METRICS_ALLOWED)


def _is_admin(request: HttpRequest) -> bool:
    user = request.user
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        token = tokens.resolve(secret.strip(), now=timezone.now())
        return token is not None and token.user.is_admin
    return isinstance(user, User) and user.is_active and user.is_admin


health_urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", prometheus, name="metrics"),
]
