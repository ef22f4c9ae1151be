"""What the OpenAPI description says beyond what the views tell: how to sign in, and how every error looks."""

from __future__ import annotations

from typing import Any, Final

from django.urls import register_converter
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import serializers

from cloudops.core.examples import EXAMPLES, Example
from cloudops.core.idempotency import HEADER
from cloudops.core.problems import CONTENT_TYPE

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error (RFC 9457). Numbers that belong to it (limits, counts) are further members.",
    "required": ["type", "title", "status", "code", "detail", "remedy"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string", "description": "What kind of error it is, in words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "code": {"type": "string", "description": "What kind of error it is, for programs."},
        "detail": {"type": "string", "description": "What happened this time."},
        "remedy": {"type": "string", "description": "What to do about it."},
        "fields": {
            "type": "object",
            "description": "What is wrong with which field or parameter.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
}
_EXAMPLES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "400": (
        "Something in the request is not right.",
        {"code": "invalid", "detail": "Some fields are not right.", "fields": {"name": ["This field is required."]}},
    ),
    "401": ("You are not signed in.", {"code": "not-authenticated", "detail": "No credentials were sent."}),
    "403": ("You may not do this.", {"code": "forbidden", "detail": "This needs the right “fleet.manage”."}),
    "404": ("There is no such thing, or you may not see it.", {"code": "not-found", "detail": "No such VM."}),
    "409": (
        "The present state does not allow it.",
        {
            "code": "console-limit",
            "detail": "40 of 40 console slots of host kvm-01 are taken.",
            "limit": 40,
            "in_use": 40,
        },
    ),
    "413": ("The body is too large.", {"code": "body-too-large"}),
    "415": ("That format is not understood.", {"code": "unsupported-media-type", "detail": "Send application/json."}),
    "422": ("This Idempotency-Key was used for another request.", {"code": "idempotency-key-reused"}),
    "429": ("Too many requests.", {"code": "throttled", "detail": "Expected available in 12 seconds."}),
    "502": ("The hypervisor reported an error.", {"code": "hypervisor-error"}),
    "503": ("A part that this needs does not answer.", {"code": "unavailable"}),
}
_RETRY: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_REPLAYED: Final = {
    "Idempotency-Replayed": {
        "description": "`true` when this is the kept answer of an earlier request.",
        "schema": {"type": "string"},
    }
}
_METHODS: Final = {"get", "post", "patch", "delete"}


class ProblemSerializer(serializers.Serializer[Any]):
    """An error (RFC 9457); see the Problem schema."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    remedy = serializers.CharField()


class RowIdConverter:
    """A row's number in an address; 18 digits fit every database's 64 bits."""

    regex = "[0-9]{1,18}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


register_converter(RowIdConverter, "rowid")


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """API tokens."""

    target_class = "cloudops.accounts.tokens.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "An API token: Account → API tokens."}


def describe_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """drf-spectacular postprocessing: problem responses, Idempotency-Key, and bodies that refuse unknown fields."""
    components = result.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for schema in schemas.values():
        _forget_column_ranges(schema)
    schemas["Problem"] = PROBLEM
    components["responses"] = {_name(status): _problem(status) for status in _EXAMPLES}
    for path, item in result["paths"].items():
        for method in _METHODS & set(item):
            _describe(item[method], method, path, schemas)
            _illustrate(item[method], EXAMPLES.get(f"{method} {path}", Example()))
    return result


def _forget_column_ranges(schema: dict[str, Any]) -> None:
    """What an answer's number could be at most depends on the database, and tells nobody anything."""
    for value in schema.get("properties", {}).values():
        if value.get("readOnly"):
            for name in ("minimum", "maximum"):
                value.pop(name, None)
            if value.get("format") == "int64":
                del value["format"]


def _illustrate(operation: dict[str, Any], example: Example) -> None:
    """Puts an example beside the schema of the request and of the answer."""
    response = operation["responses"].get(example.status, {})
    for part, value in ((operation.get("requestBody", {}), example.request), (response, example.response)):
        for content in part.get("content", {}).values() if value is not None else ():
            content["examples"] = {"example": {"value": value}}


def _name(status: str) -> str:
    return f"Problem{status}"


def _problem(status: str) -> dict[str, Any]:
    title, members = _EXAMPLES[status]
    example = {"type": f"about:blank#{members['code']}", "title": title, "status": int(status), "detail": title}
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": {**example, "remedy": "…", **members}}
    headers = {"headers": _RETRY} if status in {"409", "429", "503"} else {}
    return {"description": title, "content": {CONTENT_TYPE: content}, **headers}


def _describe(operation: dict[str, Any], method: str, path: str, schemas: dict[str, Any]) -> None:
    for status in sorted(_statuses(operation, method, path)):
        operation["responses"][status] = {"$ref": f"#/components/responses/{_name(status)}"}
    if method == "post":
        operation.setdefault("parameters", []).append(_IDEMPOTENCY)
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                response.setdefault("headers", {}).update(_REPLAYED)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        _close(content.get("schema", {}), schemas)


def _close(schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """A body and the bodies in it refuse fields that they do not know."""
    referred = schemas.get(schema.get("$ref", "").rpartition("/")[2], {})
    if "properties" in referred and "additionalProperties" not in referred:
        referred["additionalProperties"] = False
        for value in referred["properties"].values():
            _close(value, schemas)
    if "items" in schema:
        _close(schema["items"], schemas)


def _statuses(operation: dict[str, Any], method: str, path: str) -> set[str]:
    """The errors that an operation may answer with: those it names itself, and those that follow from its shape."""
    statuses = {"401", "403", "429", "503", *(status for status in operation["responses"] if status in _EXAMPLES)}
    if operation.get("parameters") or "requestBody" in operation or method == "post":
        statuses.add("400")
    if "{" in path:
        statuses.add("404")
    if method != "get":
        statuses |= {"409", "413", "415"}
    if method == "post":
        statuses |= {"404", "422", "502"}
    if path.endswith("/screenshot/"):
        statuses |= {"409", "502"}
    return statuses


_IDEMPOTENCY: Final = {
    "in": "header",
    "name": HEADER,
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[\x21-\x7e]+$"},
    "description": "Makes it safe to send the request again: it is carried out once, and its answer kept for a day.",
}
