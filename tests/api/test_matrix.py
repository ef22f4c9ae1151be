"""Every endpoint, called by everybody: one table, which must name every route that there is.

Who may do what does not depend on the database: on SQLite only. test_schemathesis.py sends these requests to
PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from django.db import transaction
from django.urls import URLPattern, URLResolver

from cloudops import api
from tests.api.conftest import PEOPLE, World

ANY_UUID = "00000000-0000-4000-8000-000000000000"
SIMULATED = {"kind": "simulated", "uri": "simulated://new?hosts=1&vms=2&seed=2"}


class Row(NamedTuple):
    """One method of one route: what anonymous, stranger, tenant, operator and admin get."""

    method: str
    path: str
    expected: tuple[int, int, int, int, int]
    body: Any = None
    note: str = ""


READ_ALL = (401, 200, 200, 200, 200)
FLEET = (401, 403, 403, 200, 200)
OWN = (401, 404, 200, 200, 200)
ADMIN = (401, 403, 403, 403, 200)
CHANGE_FLEET = (401, 403, 403, 200, 200)

SIZE = {"offering": "{growing_offering}", "vcpus": 1, "memory_mib": 1024}
STOPS = {"hosts": ["{host}"], "choices": [{"vm": "{web}", "choice": "stop"}]}

TABLE = [
    Row("get", "/me/", READ_ALL),
    Row("patch", "/me/", READ_ALL, {"current_project": None}),
    Row("patch", "/me/", (401, 404, 200, 404, 404), {"current_project": "{apollo}"}, note="only a member"),
    Row("get", "/settings/", FLEET),
    Row("patch", "/settings/", ADMIN, {"console_host_limit": 41}),
    Row("get", "/users/", ADMIN),
    Row("post", "/users/", (401, 403, 403, 403, 201), {"username": "new", "password": "a long enough pass phrase"}),
    Row("get", "/users/{spare}/", ADMIN),
    Row("patch", "/users/{spare}/", ADMIN, {"first_name": "Sam"}),
    Row("post", "/users/{spare}/set-password/", (401, 403, 403, 403, 204), {"password": "a long enough pass phrase"}),
    Row("post", "/users/{spare}/deactivate/", ADMIN),
    Row("post", "/users/{spare}/reactivate/", ADMIN),
    Row("get", "/projects/", READ_ALL),
    Row("post", "/projects/", (401, 403, 403, 403, 201), {"name": "new"}),
    Row("get", "/projects/{apollo}/", OWN),
    Row("patch", "/projects/{apollo}/", ADMIN, {"description": "x"}),
    Row("delete", "/projects/{empty}/", (401, 403, 403, 403, 204)),
    Row("get", "/memberships/", READ_ALL),
    Row("post", "/memberships/", (401, 403, 403, 403, 201), {"project": "{apollo}", "user": "{spare}"}),
    Row("get", "/memberships/{tenant_membership}/", OWN),
    Row("patch", "/memberships/{tenant_membership}/", ADMIN, {"can_console": False}),
    Row("delete", "/memberships/{member_membership}/", (401, 403, 403, 403, 204)),
    Row("get", "/tokens/", READ_ALL),
    Row("post", "/tokens/", (401, 201, 201, 201, 201), {"label": "ci", "scopes": ["console"], "days": 7}),
    Row("get", "/tokens/{tenant_token}/", (401, 404, 200, 404, 404)),
    Row("delete", "/tokens/{tenant_token}/", (401, 404, 204, 404, 404)),
    Row("get", "/events/", READ_ALL),
    Row("get", "/events/{event}/", OWN),
    Row("get", "/operations/", READ_ALL),
    Row("get", "/operations/{operation}/", OWN),
    Row("post", "/operations/{operation}/read/", OWN),
    Row("get", "/servers/", FLEET),
    Row("get", "/servers/{process}/", FLEET),
    Row("post", "/servers/{process}/drain/", ADMIN),
    Row("post", "/servers/{process}/undrain/", ADMIN),
    Row("get", "/clusters/", FLEET),
    Row("post", "/clusters/", (401, 403, 403, 201, 201), {"name": "linux-c"}),
    Row("get", "/clusters/{cluster}/", FLEET),
    Row("patch", "/clusters/{cluster}/", CHANGE_FLEET, {"description": "x"}),
    Row("delete", "/clusters/{unused_cluster}/", (401, 403, 403, 204, 204)),
    Row("get", "/tags/", FLEET),
    Row("get", "/offerings/", READ_ALL),
    Row("post", "/offerings/", (401, 403, 403, 403, 201), {"name": "big", "vcpus": 8, "memory_mib": 8192}),
    Row("get", "/offerings/{offering}/", READ_ALL),
    Row("get", "/offerings/{hidden_offering}/", (401, 404, 404, 200, 200), note="disabled"),
    Row("get", "/offerings/{offering}/versions/", FLEET),
    Row("patch", "/offerings/{offering}/", ADMIN, {"description": "x"}),
    Row("delete", "/offerings/{hidden_offering}/", (401, 403, 403, 403, 204)),
    Row("get", "/hosts/", FLEET),
    Row("post", "/hosts/", (401, 403, 403, 201, 201), {**SIMULATED, "cluster": "{cluster}"}),
    Row("post", "/hosts/test-connection/", CHANGE_FLEET, SIMULATED),
    Row("get", "/hosts/{host}/", FLEET),
    Row("patch", "/hosts/{host}/", CHANGE_FLEET, {"console_limit_override": 10}),
    Row("delete", "/hosts/{host}/?force=true&whole_endpoint=true", (401, 403, 403, 204, 204)),
    Row("post", "/hosts/{host}/test-connection/", CHANGE_FLEET),
    Row(
        "post",
        "/hosts/{host}/accept-certificate/",
        (401, 403, 403, 409, 409),
        {"sha256": "ab" * 32},
        note="a libvirt host has none",
    ),
    Row("post", "/hosts/{host}/cordon/", CHANGE_FLEET, {"reason": "new memory"}),
    Row("post", "/hosts/{host}/uncordon/", CHANGE_FLEET),
    Row("post", "/hosts/{host}/sync/", (401, 403, 403, 202, 202)),
    Row("get", "/hosts/{host}/console-usage/", FLEET),
    Row("get", "/hosts/{host}/console-sessions/", FLEET),
    Row("get", "/vms/", READ_ALL),
    Row("post", "/vms/assign/", ADMIN, {"vms": ["{loose}"], "project": "{apollo}"}),
    Row("get", "/vms/{web}/", OWN),
    Row("patch", "/vms/{web}/", CHANGE_FLEET, {"offering": "{offering}"}),
    Row("patch", "/vms/{web}/", CHANGE_FLEET, {"pinned": True, "template": None}, note="placement"),
    Row("post", "/vms/{simulated}/power/", (401, 404, 202, 202, 202), {"action": "shutdown"}),
    Row("get", "/vms/{simulated}/screenshot/", (401, 404, 200, 403, 200), note="operator without console right"),
    Row("post", "/vms/{simulated}/refresh/", OWN),
    Row("get", "/vms/{web}/console-usage/", OWN),
    Row("get", "/vms/{web}/console-sessions/", OWN),
    Row("post", "/vms/{web}/console-sessions/", (401, 404, 201, 403, 201), {"view_only": True}),
    Row("get", "/console-sessions/", READ_ALL),
    Row("get", "/console-sessions/{session}/", OWN),
    Row("delete", "/console-sessions/{session}/", (401, 404, 204, 204, 204)),
    Row("delete", "/console-sessions/{member_session}/", (401, 404, 403, 204, 204), note="a fellow member's"),
    Row("post", "/console-sessions/disconnect/", READ_ALL, {"idle_seconds_over": 300}),
    Row("post", "/console-sessions/clean-up/", ADMIN),
    Row(
        "post", "/console-sessions/{member_session}/release-request/", (401, 404, 201, 201, 201), {"message": "Please"}
    ),
    Row("get", "/console-usage/", READ_ALL),
    Row("get", "/release-requests/", READ_ALL),
    Row("get", "/release-requests/{request}/", (401, 404, 200, 404, 404)),
    Row("post", "/release-requests/{request}/answer/", (401, 404, 200, 404, 404), {"release": True}),
    Row("get", "/foreign-connections/", FLEET),
    Row("delete", "/foreign-connections/{unnamed}/", (401, 403, 403, 409, 409), note="only counted by its platform"),
    Row("get", "/templates/", FLEET),
    Row("post", "/templates/", (401, 403, 403, 403, 201), {"name": "alpine", "host_tags": ["ssd"]}),
    Row("get", "/templates/{template}/", FLEET),
    Row("patch", "/templates/{template}/", ADMIN, {"soft_host_tags": ["ssd"]}),
    Row("delete", "/templates/{unused_template}/", (401, 403, 403, 403, 204)),
    Row("get", "/capacity/", FLEET),
    Row("get", "/capacity/hosts/", FLEET),
    Row("get", "/capacity/drift/", FLEET),
    Row("post", "/capacity/drift/mend/", CHANGE_FLEET),
    Row("get", "/decisions/", READ_ALL),
    Row("get", "/decisions/{decision}/", OWN),
    Row("post", "/placements/", OWN, {"vm": "{web}"}),
    Row("post", "/placements/", FLEET, {"offering": "{offering}", "template": "{template}"}, note="no VM yet"),
    Row("post", "/placements/", (401, 403, 403, 200, 200), {"vm": "{web}", "across_clusters": True}, note="relaxed"),
    Row("get", "/cluster-policies/", FLEET),
    Row("get", "/cluster-policies/{cluster}/", FLEET),
    Row("patch", "/cluster-policies/{cluster}/", CHANGE_FLEET, {"allocator": "pack", "cpu_ratio": 2}),
    Row("delete", "/cluster-policies/{cluster}/", (401, 403, 403, 204, 204)),
    Row("get", "/affinity-groups/", FLEET),
    Row("post", "/affinity-groups/", (401, 403, 403, 201, 201), {"name": "new", "kind": "together", "vms": ["{web}"]}),
    Row("get", "/affinity-groups/{group}/", FLEET),
    Row("patch", "/affinity-groups/{group}/", CHANGE_FLEET, {"strict": False, "vms": []}),
    Row("delete", "/affinity-groups/{group}/", (401, 403, 403, 204, 204)),
    Row("post", "/vms/{simulated}/migrations/", (401, 403, 403, 202, 202), {"host": "{far_host}"}),
    Row("get", "/vms/{web}/migration-targets/", FLEET),
    Row("get", "/migrations/", FLEET),
    Row("get", "/migrations/{migration}/", FLEET),
    Row("post", "/migrations/{migration}/abort/", (401, 403, 403, 202, 202)),
    Row("post", "/migrations/bulk/", (401, 403, 403, 202, 202), {"vms": ["{web}", "{simulated}"]}),
    Row("get", "/maintenances/", FLEET),
    Row("post", "/maintenances/", (401, 403, 403, 201, 201), {"hosts": ["{host}"], "reason": "new memory"}),
    Row("post", "/maintenances/", (401, 403, 403, 403, 201), STOPS, note="stopping a VM by choice"),
    Row("post", "/maintenances/preview/", CHANGE_FLEET, {"hosts": ["{host}"]}),
    Row("get", "/maintenances/{job}/", FLEET),
    Row("post", "/maintenances/{job}/cancel/", CHANGE_FLEET, {"abort_running": True}),
    Row("post", "/maintenances/{cancelled_job}/resume/", (401, 403, 403, 201, 201)),
    Row("post", "/maintenances/{job}/retry/", CHANGE_FLEET),
    Row("post", "/maintenances/{held_job}/complete/", CHANGE_FLEET, {"uncordon": False}),
    Row("get", "/maintenances/{done_job}/homecoming/", CHANGE_FLEET),
    Row("post", "/maintenances/{done_job}/bring-home/", (401, 403, 403, 201, 201)),
    Row("post", "/maintenances/{held_job}/hosts/{held_host}/release/", CHANGE_FLEET, {}),
    Row("get", "/maintenances/{job}/moves/", FLEET),
    Row("post", "/maintenances/{job}/moves/{move}/choose/", CHANGE_FLEET, {"choice": "skip"}),
    Row("post", "/maintenances/{job}/moves/{move}/choose/", ADMIN, {"choice": "stop"}, note="stopping a VM"),
    Row("post", "/maintenances/{job}/moves/{move}/retry/", CHANGE_FLEET),
    Row("get", "/vms/{web}/size/", OWN),
    Row("get", "/vms/{web}/offerings/", OWN),
    Row("get", "/vms/{web}/size-history/", OWN),
    Row("get", "/vms/{web}/resizes/", OWN),
    Row("post", "/vms/{simulated}/resize/preflight/", OWN, SIZE),
    Row("post", "/vms/{simulated}/resize/", (401, 404, 202, 202, 202), {**SIZE, "how": "restart"}),
    Row("post", "/vms/{simulated}/resize/next-start/", OWN, SIZE),
    Row("delete", "/vms/{simulated}/resize/next-start/", (401, 404, 409, 409, 409), note="nothing waits"),
    Row("post", "/vms/{simulated}/prepare-scaling/", (401, 404, 409, 409, 409), note="its offering is not dynamic"),
    Row("get", "/resizes/{resize}/", OWN),
    Row("post", "/resizes/{resize}/continue/", (401, 404, 202, 202, 202)),
    Row("post", "/resizes/{resize}/roll-back/", (401, 404, 202, 202, 202)),
    Row("post", "/resizes/{resize}/cancel/", (401, 404, 409, 409, 409), note="it has ended"),
    Row("get", "/vms/{web}/headroom/", FLEET),
    Row("patch", "/vms/{web}/headroom/", CHANGE_FLEET, {"memory_factor": 2, "dynamic_scaling": False}),
    Row("get", "/clusters/{cluster}/headroom/", FLEET),
    Row("patch", "/clusters/{cluster}/headroom/", CHANGE_FLEET, {"max_vcpus": 16, "vcpu_factor": None}),
    Row("post", "/scaling/preflight/", FLEET, {"offering": "{growing_offering}", "cluster": "{cluster}"}),
    Row("post", "/hosts/{dead_host}/fence/", ADMIN, {"reason": "Switched off at the rack."}),
    Row("post", "/hosts/{fenced_host}/unfence/", ADMIN, {}),
]


@pytest.mark.sqlite
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.path} {row.note}".strip())
def test_everybody_gets_what_the_table_says(world: World, row: Row) -> None:
    got = {}
    for person in PEOPLE:
        with transaction.atomic():
            response = _call(world, row, person)
            transaction.set_rollback(True)
        got[person] = response.status_code
        _demand_problem(response)
    assert got == dict(zip(PEOPLE, row.expected, strict=True))


def _demand_problem(response: Any) -> None:
    status = response.status_code
    if status >= 400:
        problem = response.json()
        assert response.headers["Content-Type"] == "application/problem+json"
        assert problem["status"] == status
        assert all(problem[name] for name in ("type", "title", "code", "detail", "remedy"))
    if status == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def _call(world: World, row: Row, person: str) -> Any:
    return getattr(world.client(person), row.method)(world.path(row.path), filled(row.body, world), format="json")


def filled(body: Any, world: World) -> Any:
    """``"{apollo}"`` in a body becomes that row's id."""
    if isinstance(body, dict):
        return {name: filled(value, world) for name, value in body.items()}
    if isinstance(body, list):
        return [filled(value, world) for value in body]
    if isinstance(body, str) and body.startswith("{"):
        return world.rows[body[1:-1]].pk
    return body


def _routes(patterns: list[URLPattern | URLResolver], prefix: str = "") -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        where = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, where)
        else:
            for method in getattr(pattern.callback, "actions", None) or ():
                if method != "head":
                    yield method, where


def test_the_table_names_every_route() -> None:
    routes = set(_routes(api.urlpatterns))
    named = {(row.method, _pattern(row.path, routes)) for row in TABLE}
    assert len(routes) > 120
    assert routes - named == set()


def _pattern(path: str, routes: set[tuple[str, str]]) -> str:
    wanted = path.partition("?")[0].split("/")
    for _, route in routes:
        parts = route.removeprefix("api/v1").split("/")
        if len(parts) == len(wanted) and all(
            part == word or (part.startswith("<") and word.startswith("{"))
            for part, word in zip(parts, wanted, strict=True)
        ):
            return route
    raise AssertionError(f"{path} is not a route")


@pytest.mark.sqlite
@pytest.mark.parametrize("row", [row for row in TABLE if "{" in row.path], ids=lambda row: f"{row.method} {row.path}")
def test_what_does_not_exist_is_not_found(world: World, row: Row) -> None:
    """The same answer as to a stranger, or the right is missing anyway; never an error of ours."""
    path = row.path.partition("?")[0]
    while "{" in path:
        name = path[path.index("{") + 1 : path.index("}")]
        nothing = ANY_UUID if "-" in str(world.rows[name].pk) else "999999999999999999"
        path = path.replace(f"{{{name}}}", nothing)
    for person in PEOPLE[1:]:
        response = getattr(world.client(person), row.method)(f"/api/v1{path}", filled(row.body, world), format="json")
        allowed = {404} if person == "admin" else {403, 404}
        assert response.status_code in allowed, response.content[:300]
        _demand_problem(response)
