"""A dead Redis keeps nobody out: the cache misses instead of failing."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import caches
from django.test import Client

from tests.pages.installation import PASSWORD, Installation

pytestmark = pytest.mark.django_db
NOBODY = {"BACKEND": "cloudops.core.cache.Cache", "LOCATION": "redis://127.0.0.1:1/0", "OPTIONS": {"socket_timeout": 1}}


@pytest.fixture
def _no_redis(settings: Any) -> None:
    settings.CACHES = {"default": NOBODY}


@pytest.mark.usefixtures("_no_redis")
def test_people_sign_in_and_see_their_pages(with_password: Installation, client: Client) -> None:
    assert client.post("/account/login/", {"login": "tina", "password": PASSWORD}).status_code == 302
    assert client.get("/my/vms/").status_code == 200
    assert client.get("/my/consoles/").status_code == 200


@pytest.mark.usefixtures("_no_redis")
def test_every_question_has_an_answer() -> None:
    cache = caches["default"]
    assert cache.get("a", "default") == "default"
    assert cache.get_or_set("a", 3) == 3
    assert cache.add("a", 1)
    assert cache.get_many(["a"]) == {}
    assert cache.set_many({"a": 1}) == []
    assert cache.incr("a") == 1
    assert not cache.has_key("a")
    assert not cache.touch("a")
    assert not cache.delete("a")
    cache.set("a", 1)
    cache.delete_many(["a"])
    cache.clear()
