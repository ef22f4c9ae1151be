"""The part of vCenter's REST API that tells tags: sessions, categories, tags and what they are attached to."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.vsphere.fake.entities import Host
from tests.vsphere.fake.service import Service, Session
from tests.vsphere.fake.types import Fault

TAGGING = "/api/cis/tagging/"
HEADER = "vmware-api-session-id"


@dataclass(frozen=True)
class Answer:
    status: int
    value: Any = None

    def body(self) -> bytes:
        return b"" if self.value is None else json.dumps(self.value).encode()


def _error(status: int, kind: str) -> Answer:
    return Answer(status, {"error_type": kind, "messages": []})


def _urn(kind: str, name: str) -> str:
    return f"urn:vmomi:InventoryService{kind}:{uuid.uuid5(uuid.NAMESPACE_OID, kind + name)}:GLOBAL"


class Rest:
    """Only vCenter 7.0 and later has it under /api; an ESXi host has not."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def answer(self, verb: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        world = self._service.world
        if world.is_standalone or int(world.api_version.split(".")[0]) < 7:
            return Answer(404)
        path, _, query = target.partition("?")
        if path == "/api/session" and verb == "POST":
            return self._log_in(headers)
        key = headers.get(HEADER, "")
        session = next((one for one in self._service.sessions.values() if one.rest_key == key), None)
        if session is None:
            return _error(401, "UNAUTHENTICATED")
        if path == "/api/session":
            return self._session(verb, session)
        with world.lock:
            return self._tagging(verb, path.removeprefix(TAGGING), query, body)

    def _log_in(self, headers: Mapping[str, str]) -> Answer:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return _error(401, "UNAUTHENTICATED")
        username, _, password = base64.b64decode(value).decode().partition(":")
        try:
            session = self._service.log_in(username, password)
        except Fault:
            return _error(401, "UNAUTHENTICATED")
        return Answer(201, session.rest_key)

    def _session(self, verb: str, session: Session) -> Answer:
        if verb == "DELETE":
            self._service.log_out(session)
            return Answer(204)
        return Answer(200, {"user": session.user})

    def _tagging(self, verb: str, path: str, query: str, body: bytes) -> Answer:
        kind, _, name = path.partition("/")
        if verb == "GET" and kind == "category":
            return self._categories(name)
        if verb == "GET" and kind == "tag":
            return self._tags(name)
        if verb == "POST" and kind == "tag-association":
            asked = json.loads(body or b"{}")
            if query == "action=list-attached-tags-on-objects":
                return Answer(200, [self._attached(one) for one in asked.get("object_ids", [])])
            if query == "action=list-attached-tags":
                return Answer(200, self._attached(asked["object_id"])["tag_ids"])
        return _error(404, "NOT_FOUND")

    def _names(self) -> list[str]:
        return sorted({tag for host in self._service.world.hosts.values() for tag in host.tags})

    def _categories(self, wanted: str) -> Answer:
        known = {_urn("Category", name): name for name in self._service.world.tag_categories}
        if not wanted:
            return Answer(200, list(known))
        if wanted not in known:
            return _error(404, "NOT_FOUND")
        shown = {"id": wanted, "name": known[wanted], "description": "", "cardinality": "MULTIPLE"}
        return Answer(200, {**shown, "associable_types": ["HostSystem"], "used_by": []})

    def _tags(self, wanted: str) -> Answer:
        known = {_urn("Tag", name): name for name in self._names()}
        if not wanted:
            return Answer(200, list(known))
        if wanted not in known:
            return _error(404, "NOT_FOUND")
        category = _urn("Category", self._service.world.tag_categories[0])
        shown = {"id": wanted, "name": known[wanted], "description": "", "category_id": category, "used_by": []}
        return Answer(200, shown)

    def _attached(self, object_id: dict[str, str]) -> dict[str, Any]:
        entity = self._service.world.objects.get(object_id["id"])
        tags = entity.tags if isinstance(entity, Host) else []
        return {"object_id": object_id, "tag_ids": [_urn("Tag", name) for name in tags]}
