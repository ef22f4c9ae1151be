"""The OpenAPI description: complete, without warnings, committed as docs/openapi.yaml, and browsable under our CSP."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from django.core.management import call_command

from cloudops.core.examples import EXAMPLES
from cloudops.core.serializers import TUNABLE
from tests.api.conftest import World

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"
COMMAND = "manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml"


@pytest.fixture(scope="module")
def text() -> str:
    out = io.StringIO()
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=out)
    return out.getvalue()


@pytest.fixture(scope="module")
def described(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_the_committed_reference_is_up_to_date(text: str) -> None:
    assert REFERENCE.read_text(encoding="utf-8") == text, f"run {COMMAND}"


def _operations(described: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in described["paths"].items()
        for method, operation in item.items()
    ]


def test_every_operation_says_what_it_is_and_how_it_fails(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    known = {tag["name"] for tag in described["tags"]}
    used = set()
    for label, operation in _operations(described):
        assert operation["summary"], label
        assert {"bearer": []} in operation["security"], label
        assert {"401", "403", "429", "503"} <= set(operation["responses"]), label
        used |= set(operation["tags"])
        if label.startswith("post"):
            assert "Idempotency-Key" in {item["name"] for item in operation["parameters"]}, label
        for status, response in operation["responses"].items():
            if status >= "400":
                assert response["$ref"] == f"#/components/responses/Problem{status}", label
    assert used == known


def test_the_problem_has_a_shape_and_examples(described: dict[str, Any]) -> None:
    responses = described["components"]["responses"]
    assert len(responses) >= 9
    for response in responses.values():
        content = response["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert set(described["components"]["schemas"]["Problem"]["required"]) <= set(content["example"])


def test_main_operations_have_examples(described: dict[str, Any]) -> None:
    with_examples = {
        label
        for label, operation in _operations(described)
        if any(
            "examples" in content
            for body in (operation.get("requestBody", {}), *operation["responses"].values())
            for content in body.get("content", {}).values()
        )
    }
    assert {
        "post /api/v1/vms/{vm_id}/console-sessions/",
        "post /api/v1/console-sessions/disconnect/",
        "post /api/v1/hosts/",
        "post /api/v1/vms/assign/",
        "post /api/v1/vms/{id}/power/",
        "patch /api/v1/settings/",
        "post /api/v1/tokens/",
        "post /api/v1/memberships/",
        "post /api/v1/placements/",
        "post /api/v1/vms/{vm_id}/migrations/",
        "post /api/v1/maintenances/preview/",
        "post /api/v1/maintenances/",
    } <= with_examples


@pytest.mark.parametrize("label", sorted(EXAMPLES))
def test_examples_are_as_their_schemas_say(described: dict[str, Any], label: str) -> None:
    operation = dict(_operations(described))[label]
    example = EXAMPLES[label]
    bodies = [(operation["requestBody"], example.request)] if example.request is not None else []
    bodies += [(operation["responses"][example.status], example.response)] if example.response is not None else []
    assert bodies
    for body, value in bodies:
        (content,) = body["content"].values()
        assert content["examples"]["example"]["value"] == value
        schema = {**content["schema"], "components": described["components"]}
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


def test_settings_are_described_with_unit_and_bounds(described: dict[str, Any]) -> None:
    schema = described["components"]["schemas"]["PatchedSettingsChangeRequest"]
    assert set(schema["properties"]) == set(TUNABLE)
    assert schema["additionalProperties"] is False
    interval = schema["properties"]["console_cleanup_interval_seconds"]
    assert (interval["minimum"], interval["maximum"]) == (10, 86_400)
    assert "Recommended: 5 to 10 minutes" in interval["description"]


def test_the_description_is_served_to_whoever_is_signed_in(world: World) -> None:
    assert world.client("anonymous").get("/api/v1/schema/").status_code == 401
    for client in (world.client("tenant"), world.token_client("tenant")):
        response = client.get("/api/v1/schema/", headers={"Accept": "application/json"})
        assert response.status_code == 200
        assert response.json()["info"]["title"] == "CloudOps API"


def test_the_browsable_reference_has_nothing_inline(world: World) -> None:
    assert world.client("anonymous").get("/api/docs/").status_code == 302
    response = world.client("tenant").get("/api/docs/")
    page = response.content.decode()
    assert response.status_code == 200
    assert "<style" not in page
    assert "<script>" not in page
    assert "unsafe-inline" not in response["Content-Security-Policy"]
    script = world.client("tenant").get("/api/docs/?script=")
    assert script["Content-Type"].startswith("application/javascript")
    assert b"/api/v1/schema/" in script.content
