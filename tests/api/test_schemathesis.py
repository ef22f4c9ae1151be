"""Schemathesis against the API in-process: no server error, and every answer as the description says.

Each request is undone after it, so that every example meets the same installation. On PostgreSQL only, as its types are
the stricter ones; test_matrix.py sends every request to SQLite.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import pytest
from django.core import signals
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cloudops import api
from tests.api.conftest import World
from tests.api.test_matrix import TABLE, Row, filled
from tests.examples import examples

POSITIVE_EXAMPLES = int(os.environ.get("CLOUDOPS_TEST_API_EXAMPLES", "5"))
NEGATIVE_EXAMPLES = max(1, POSITIVE_EXAMPLES * 3 // 5)
CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROWS_BY_RESOURCE = {
    "vms": ("simulated", "web", "other"),
    "hosts": ("host", "far_host"),
    "clusters": ("cluster", "unused_cluster"),
    "offerings": ("offering", "hidden_offering"),
    "console-sessions": ("session", "member_session"),
    "release-requests": ("request",),
    "foreign-connections": ("foreign", "unnamed"),
    "operations": ("operation",),
    "events": ("event",),
    "servers": ("process",),
    "users": ("spare", "tenant", "admin"),
    "projects": ("apollo", "empty"),
    "memberships": ("tenant_membership", "member_membership"),
    "tokens": ("tenant_token", "admin_token"),
    "templates": ("template", "unused_template"),
    "decisions": ("decision",),
    "cluster-policies": ("cluster", "unused_cluster"),
    "affinity-groups": ("group",),
    "migrations": ("migration",),
    "resizes": ("resize",),
    "maintenances": ("job", "held_job", "cancelled_job", "done_job"),
}
ROWS_BY_PARAMETER = {"host_id": ("held_host",), "move_id": ("move",)}
ROWS_BY_PATH = {
    "/api/v1/hosts/{host_id}/fence/": {"host_id": ("dead_host",)},
    "/api/v1/hosts/{host_id}/unfence/": {"host_id": ("fenced_host",)},
    "/api/v1/maintenances/{id}/hosts/{host_id}/release/": {"id": ("held_job",)},
    "/api/v1/maintenances/{id}/moves/{move_id}/choose/": {"id": ("job",)},
    "/api/v1/maintenances/{id}/moves/{move_id}/retry/": {"id": ("job",)},
}
ROWS_BY_FIELD = {
    "cluster": ("cluster",),
    "project": ("apollo", "zephyr"),
    "user": ("spare", "tenant"),
    "offering": ("offering", "growing_offering"),
    "host": ("host",),
    "vm": ("web",),
    "vms": ("web", "loose"),
    "hosts": ("host", "far_host"),
    "template": ("template",),
    "ids": ("session", "member_session"),
}
DESCRIPTION: dict[str, Any] = SchemaGenerator(patterns=api.urlpatterns).get_schema(public=True)  # type: ignore[no-untyped-call]
OPERATIONS = {
    result.ok().label: result.ok() for result in from_dict(DESCRIPTION).get_all_operations() if isinstance(result, Ok)
}


@cache
def application() -> Any:
    """One for all tests: Schemathesis looks through all modules of each that it has not met."""
    return get_wsgi_application()


@pytest.fixture(autouse=True)
def _no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate limits have tests of their own."""
    monkeypatch.setattr("rest_framework.throttling.SimpleRateThrottle.get_rate", lambda self: "1000000/min")


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """As Django's own test client: a request must not close the connection that holds the test's transaction."""
    for signal in (signals.request_started, signals.request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (signals.request_started, signals.request_finished):
        signal.connect(close_old_connections)


def test_the_whole_description_is_looked_at() -> None:
    assert len(OPERATIONS) == sum(len(item) for item in DESCRIPTION["paths"].values()) > 120


@pytest.mark.postgres
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_no_request_brings_the_api_down(world: World, label: str) -> None:
    """Every request is sent by an administrator and by a tenant."""
    operation = OPERATIONS[label]
    operation.schema.app = operation.app = application()
    tokens = [_token_headers(world, person) for person in ("admin", "tenant")]

    def positive(case: Any, choice: Any) -> None:
        _use_real_ids(case, world, choice)
        for headers in tokens:
            _send(case, headers, CONFORMANCE)

    def negative(case: Any) -> None:
        for headers in tokens:
            _send(case, headers, [*CONFORMANCE, negative_data_rejection])

    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    _bounded(examples(POSITIVE_EXAMPLES))(given(case=valid, choice=st.randoms(use_true_random=False))(positive))()
    if _has_input(label):
        invalid = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        _bounded(examples(NEGATIVE_EXAMPLES))(given(case=invalid)(negative))()


@pytest.mark.postgres
@pytest.mark.parametrize("row", [row for row in TABLE if row.expected[-1] < 300], ids=lambda row: f"{row[0]} {row[1]}")
def test_what_an_administrator_may_do_is_answered_as_described(world: World, row: Row) -> None:
    """Random requests reach success by chance; the matrix's requests surely do."""
    operation, names = _operation(row)
    operation.schema.app = operation.app = application()
    ids = dict(zip(names, [str(world.rows[name].pk) for name in re.findall(r"{(\w+)}", row.path)], strict=True))
    body = {} if row.body is None else {"body": json.loads(json.dumps(filled(row.body, world), default=str))}
    media_type = "application/json" if row.body is not None else None
    query = dict(parse_qsl(row.path.partition("?")[2]))
    case = operation.Case(path_parameters=ids, query=query, media_type=media_type, **body)
    assert _send(case, _token_headers(world, "admin"), CONFORMANCE) == row.expected[-1]


def _operation(row: Row) -> tuple[Any, list[str]]:
    """The described operation that a row of the matrix calls, and its path's parameters."""
    wanted = row.path.partition("?")[0].split("/")
    for label, operation in OPERATIONS.items():
        method, path = label.split(" ", 1)
        parts = path.removeprefix("/api/v1").split("/")
        pairs = list(zip(parts, wanted, strict=False))
        same = all(part == word or (part.startswith("{") and word.startswith("{")) for part, word in pairs)
        if same and len(parts) == len(wanted) and method.lower() == row.method:
            return operation, re.findall(r"{(\w+)}", path)
    raise AssertionError(f"{row.method} {row.path} is not described")


def _bounded(examples: int) -> Any:
    quiet = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(20_26)(quiet(test))


def _has_input(label: str) -> bool:
    method, path = label.split(" ", 1)
    described = DESCRIPTION["paths"][path][method.lower()]
    return bool(described.get("parameters") or "requestBody" in described)


def _token_headers(world: World, person: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.token(person, 'console', 'power', 'scale', 'manage')}"}


def _send(case: Any, headers: dict[str, str], checks: list[Any]) -> int:
    with transaction.atomic():
        try:
            return int(case.call_and_validate(headers=headers, checks=checks).status_code)
        finally:
            transaction.set_rollback(True)


def _use_real_ids(case: Any, world: World, choice: Any) -> None:
    """Ids that exist, four times out of five: random ones would only ever be not found."""
    path = case.operation.path
    rows_here = ROWS_BY_PARAMETER | ROWS_BY_PATH.get(path, {})
    for name in case.path_parameters or {}:
        if choice.random() < 0.8:
            row = world.rows[choice.choice(rows_here.get(name, ROWS_BY_RESOURCE.get(path.split("/")[3], ())))]
            case.path_parameters[name] = str(row.pk)
    if path == "/api/v1/placements/" and isinstance(case.body, dict):
        _either_or(case.body, choice)
    if isinstance(case.body, dict):
        for name, value in _references(case.body):
            rows = [world.rows[key].pk for key in ROWS_BY_FIELD[name]]
            if value is not None and choice.random() < 0.8:
                one = choice.choice(rows)
                real = one if isinstance(one, int) else str(one)
                case.body[name] = [str(pk) for pk in rows] if isinstance(value, list) else real


def _references(body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from [(name, value) for name, value in body.items() if name in ROWS_BY_FIELD]


def _either_or(body: dict[str, Any], choice: Any) -> None:
    """A place is asked for a VM, or for an offering: most bodies that hold both would only be refused."""
    without_vm, only_vm = ("offering", "template", "cluster", "weights"), ("vm", "drop_soft_tags", "copy_storage")
    kept, dropped = choice.choice([("vm", without_vm), ("offering", only_vm)])
    body[kept] = ""  # a real one follows, most of the time
    for name in dropped:
        body.pop(name, None)
