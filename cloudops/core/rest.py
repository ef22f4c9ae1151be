"""What every API view shares: who asks and when, idempotency, rate-limit headers, and bodies that hold no surprises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Final

from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.utils import timezone
from rest_framework import exceptions, mixins, serializers
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from cloudops.core import idempotency
from cloudops.core.actors import Actor
from cloudops.core.errors import Refusal
from cloudops.core.filters import KnownFilters
from cloudops.core.requests import actor_of
from cloudops.core.throttling import AnonThrottle

MAX_BODY_BYTES: Final = 1 << 20
MOST_BITS: Final = 1_000
_JSON_TYPES: Final[tuple[tuple[type[Any], type, str], ...]] = (
    (serializers.BooleanField, bool, "Send true or false."),
    (serializers.IntegerField, int, "Send a whole number."),
    (serializers.FloatField, float, "Send a number."),
    (serializers.CharField, str, "Send a text."),
    (serializers.UUIDField, str, "Send an id."),
)


class Body(serializers.Serializer[Any]):
    """What a request may send, taken at its word.

    A field that is not known is refused, as a misspelt name must not be ignored in silence; so is a value of another
    JSON type, where DRF would make one of it ("yes" for true, 5 for "5"). Query parameters are texts all.
    """

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            errors = {str(name): ["There is no such field."] for name in data if name not in self.fields}
            if not self.context.get("from_query"):
                errors |= self._type_errors(data)
            if errors:
                raise serializers.ValidationError(errors)
        return super().to_internal_value(data)

    def _type_errors(self, data: Mapping[str, Any]) -> dict[str, list[str]]:
        errors = {}
        for name, field in self.fields.items():
            value = data.get(name)
            single = field.child if isinstance(field, serializers.ListField) else field
            values = value if isinstance(value, list) and single is not field else [value]
            if message := next(filter(None, (_type_error(single, item) for item in values)), ""):
                errors[name] = [message]
        return errors


def _type_error(field: Any, value: Any) -> str:
    field = getattr(field, "pk_field", None) or field
    for kind, json_type, message in _JSON_TYPES:
        if isinstance(field, kind) and value is not None:
            return "" if _fits(value, json_type) else message
    return ""


def _fits(value: Any, json_type: type) -> bool:
    """JSON has one type of numbers: 2.0 is whole, and 2 is a number; true and false are none."""
    if json_type in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and (json_type is int or value.bit_length() < MOST_BITS)
    return isinstance(value, json_type) or (json_type is int and isinstance(value, float) and value.is_integer())


class Shown(serializers.ModelSerializer[Any]):
    """What an answer shows: read-only."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        for field in fields.values():
            field.read_only = True
        return fields


class BodyTooLarge(Refusal):
    code = "body-too-large"
    status = 413
    title = "The body is too large."
    remedy = f"Send at most {MAX_BODY_BYTES} bytes."


class StrictJsonParser(JSONParser):
    """JSON that a database can store: not nested beyond measure, and without half characters (lone surrogates)."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            data = super().parse(stream, media_type, parser_context)
            json.dumps(data, ensure_ascii=False).encode()
        except RecursionError:
            raise exceptions.ParseError("The JSON is nested too deeply.") from None
        except UnicodeEncodeError:
            raise exceptions.ParseError("The JSON has half a character (a lone surrogate) in a text.") from None
        return data


class ApiViewSet(GenericViewSet[Any]):
    """The base of every API view.

    ``rights`` names the installation-wide right that an action needs (``*``: all others), ``scopes`` the API token's
    scope where it is not read for safe methods and manage for the rest; ``accounts.permissions`` enforces both.
    A view fetches, calls one domain function with ``by=self.by, now=self.now``, and renders.
    """

    rights: ClassVar[Mapping[str, str]] = {}
    scopes: ClassVar[Mapping[str, str]] = {}
    filter_backends: Any = [KnownFilters]
    parser_classes = [StrictJsonParser]
    metadata_class = None
    lookup_value_converter: ClassVar[str] = "uuid"
    http_method_names: ClassVar[list[str]] = ["get", "post", "patch", "delete", "head"]  # type: ignore[misc]
    _claim: idempotency.Claim | None = None
    _throttles: list[Any] | None = None

    @cached_property
    def by(self) -> Actor:
        """Who asks."""
        return actor_of(self.request)

    @property
    def me(self) -> Any:
        """The person who asks; the gate has seen to it that they are signed in."""
        return self.request.user

    @cached_property
    def now(self) -> datetime:
        """When this request began."""
        return timezone.now()

    def body(self, serializer: type[serializers.Serializer[Any]], *, partial: bool = False) -> dict[str, Any]:
        """The request's body as ``serializer`` understands it. Raises ValidationError."""
        if not isinstance(self.request.data, Mapping):
            raise exceptions.ValidationError({"non_field_errors": ["Send a JSON object."]})
        checked = serializer(data=self.request.data, partial=partial, context=self.get_serializer_context())
        checked.is_valid(raise_exception=True)
        return dict(checked.validated_data)

    def parameters(self, serializer: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The query parameters as ``serializer`` understands them. Raises ValidationError."""
        context = {**self.get_serializer_context(), "from_query": True}
        checked = serializer(data=self.request.query_params.dict(), context=context)
        checked.is_valid(raise_exception=True)
        return dict(checked.validated_data)

    def get_object(self) -> Any:
        """The one that the address names, among those that the caller may see; a list's filters do not apply."""
        return get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])

    def shown(
        self, obj: Any, *, status: int = 200, serializer: type[serializers.BaseSerializer[Any]] | None = None
    ) -> Response:
        """``obj`` as the answer."""
        shape = serializer or self.get_serializer_class()
        return Response(shape(obj, context=self.get_serializer_context()).data, status=status)

    def page(
        self, queryset: QuerySet[Any], serializer: type[serializers.BaseSerializer[Any]] | None = None
    ) -> Response:
        """One page of a list that is not this view's own."""
        rows = self.paginate_queryset(queryset)
        shape = serializer or self.get_serializer_class()
        return self.get_paginated_response(shape(rows, many=True, context=self.get_serializer_context()).data)

    def paginate_queryset(self, queryset: Any) -> Any:
        rows = super().paginate_queryset(queryset)
        if rows is not None:
            self.prepare(rows)
        return rows

    def prepare(self, rows: list[Any]) -> None:
        """A page's rows, before they are shown: what belongs to each is fetched here for all of them together."""

    def get_throttles(self) -> list[Any]:
        self._throttles = super().get_throttles()
        return self._throttles

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authentication, rights and throttles as ever, then the Idempotency-Key."""
        super().initial(request, *args, **kwargs)
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise BodyTooLarge
        if request.method == "POST" and self.action is not None:
            self._claim = idempotency.begin(request, now=self.now)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, idempotency.Replayed):
            return exc.response
        if isinstance(exc, (exceptions.NotAuthenticated, exceptions.AuthenticationFailed)):
            exc = self._counted(exc)
        try:
            return super().handle_exception(exc)
        except Exception:
            if self._claim is not None:
                idempotency.release(self._claim)
            raise

    def _counted(self, error: exceptions.APIException) -> exceptions.APIException:
        """DRF throttles only whom it let in; whoever knocks without being let in is counted here, by address."""
        throttle = AnonThrottle()
        self._throttles = [throttle]
        if throttle.allow_request(self.request, self):
            return error
        return exceptions.Throttled(throttle.wait())

    def finalize_response(self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[arg-type]
        if self._claim is not None and isinstance(response, Response):
            idempotency.keep(self._claim, response)
        self._tell_limits(response)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def _tell_limits(self, response: HttpResponseBase) -> None:
        """The narrowest rate limit's state, in the headers that clients commonly know."""
        states = [state for throttle in self._throttles or () if (state := _limit_state(throttle)) is not None]
        if states:
            remaining, limit, reset = min(states)
            response["X-RateLimit-Limit"] = str(limit)
            response["X-RateLimit-Remaining"] = str(remaining)
            response["X-RateLimit-Reset"] = str(reset)


def _limit_state(throttle: Any) -> tuple[int, int, int] | None:
    history, limit = getattr(throttle, "history", None), getattr(throttle, "num_requests", None)
    if history is None or limit is None:
        return None
    oldest = history[-1] if history else throttle.now
    return max(0, limit - len(history)), limit, max(0, round(oldest + throttle.duration - throttle.now))


class Lists(mixins.ListModelMixin):
    """GET on the collection."""


class Retrieves(mixins.RetrieveModelMixin):
    """GET on one."""
