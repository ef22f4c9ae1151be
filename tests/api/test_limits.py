"""Rate limits: their headers, Retry-After, the narrower ones, and a Redis that is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework.throttling import SimpleRateThrottle

from cloudops.core import throttling
from tests.api.conftest import World

TOKEN = {"label": "ci", "scopes": [], "days": 1}


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    rates = {"user": "5/min", "anon": "2/min", "console_opening": "2/min", "token_creation": "1/hour"}
    monkeypatch.setattr(SimpleRateThrottle, "THROTTLE_RATES", rates)
    return rates


def test_answers_tell_how_much_is_left(world: World, rates: dict[str, str]) -> None:
    client = world.client("tenant")
    left = [client.get("/api/v1/me/")["X-RateLimit-Remaining"] for _ in range(5)]
    assert left == ["4", "3", "2", "1", "0"]
    refused = client.get("/api/v1/me/")
    assert refused.status_code == 429
    assert refused.json()["code"] == "throttled"
    assert 0 < int(refused["Retry-After"]) <= 60
    assert refused["X-RateLimit-Limit"] == "5"
    assert 0 < int(refused["X-RateLimit-Reset"]) <= 60
    assert world.client("stranger").get("/api/v1/me/").status_code == 200


def test_opening_consoles_has_a_limit_of_its_own(world: World, rates: dict[str, str]) -> None:
    client = world.client("tenant")
    path = world.path("/vms/{web}/console-sessions/")
    statuses = [client.post(path, {}, format="json").status_code for _ in range(3)]
    assert statuses == [201, 201, 429]
    assert client.get(path).status_code == 200


def test_making_tokens_has_a_limit_of_its_own(world: World, rates: dict[str, str]) -> None:
    client = world.client("tenant")
    assert client.post("/api/v1/tokens/", TOKEN, format="json").status_code == 201
    refused = client.post("/api/v1/tokens/", TOKEN, format="json")
    assert refused.status_code == 429
    assert int(refused["Retry-After"]) > 3_000
    assert client.get("/api/v1/tokens/").status_code == 200


def test_guessing_tokens_is_limited_by_address(world: World, rates: dict[str, str]) -> None:
    client = world.client("anonymous")
    client.credentials(HTTP_AUTHORIZATION="Bearer cops_guess")
    statuses = [client.get("/api/v1/me/").status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert world.client("anonymous").get("/api/v1/me/").status_code == 429
    assert client.get("/api/v1/me/", REMOTE_ADDR="192.0.2.99").status_code == 401
    assert world.client("tenant").get("/api/v1/me/").status_code == 200


def test_limits_let_everybody_in_while_redis_is_away(
    world: World, rates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def get(self, *_: Any, **__: Any) -> Any:
            raise RedisConnectionError("refused")

    for throttle in (throttling.UserThrottle, throttling.ConsoleOpeningThrottle):
        monkeypatch.setattr(throttle, "cache", Away())
    client = world.client("tenant")
    assert [client.get("/api/v1/me/").status_code for _ in range(7)] == [200] * 7


def test_the_guide_tells_the_limits_that_are_set() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    words = {"min": "a minute", "hour": "an hour"}
    rates: Any = settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]
    for rate in rates.values():
        count, _, period = rate.partition("/")
        assert f"{int(count):,} {words[period]}" in guide
