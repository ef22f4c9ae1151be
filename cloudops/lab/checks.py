"""Looks at a running installation from outside, as a person's browser would."""

from __future__ import annotations

import http.cookiejar
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

from cloudops.lab.process import ServiceError

SECONDS = 10.0


def is_ready(base_url: str) -> bool:
    """Whether /readyz answers 200: the database, Redis and migrations are as they must be."""
    try:
        with urllib.request.urlopen(f"{base_url}/readyz", timeout=2) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200)
    except OSError:
        return False


def look_around(base_url: str, username: str, password: str, vm_names: Sequence[str]) -> None:
    """Signs in and finds the VMs on "My VMs". Raises ServiceError saying what is not as it should be."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(url: str, form: dict[str, str] | None = None) -> tuple[str, str]:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with browser.open(url, data, timeout=SECONDS) as answer:
                return answer.geturl(), answer.read().decode()
        except urllib.error.HTTPError as error:
            raise ServiceError(f"{url} answered {error.code}: {error.read()[:300]!r}") from error
        except OSError as error:
            raise ServiceError(f"{url} did not answer: {error}") from error

    sign_in, page = get(f"{base_url}/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    if token is None:
        raise ServiceError(f"{sign_in} has no form to sign in with")
    landed, _ = get(sign_in, {"csrfmiddlewaretoken": token[1], "login": username, "password": password})
    if landed == sign_in:
        raise ServiceError(f"{username} could not sign in at {sign_in}")
    deadline = time.monotonic() + SECONDS
    while missing := [name for name in vm_names if name not in (mine := get(f"{base_url}/my/vms/")[1])]:
        if time.monotonic() > deadline:
            raise ServiceError(f"{', '.join(missing)} not on {username}'s page of VMs: {mine[:300]!r}")
        time.sleep(0.5)
