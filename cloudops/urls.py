"""The URL composition root: every app's pages, signing in, the API and health."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path

from cloudops import api
from cloudops.managers.probes import health_urlpatterns

urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("cloudops.accounts.urls")),
    path("account/", include("allauth.urls")),
    path("", include("cloudops.inventory.urls")),
    path("", include("cloudops.managers.urls")),
    path("", include("placement.urls")),
    path("", include("consoles.urls")),
    path("", include("scaling.urls")),
    *api.urlpatterns,
    *health_urlpatterns,
]

handler400 = "cloudops.core.views.bad_request"
handler403 = "cloudops.core.views.forbidden"
handler404 = "cloudops.core.views.not_found"
handler500 = "cloudops.core.views.server_error"
