"""vCenter's tags of hosts, which only its REST API tells (``/api/cis/tagging``, vCenter 7.0.2 and later)."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from cloudops.hypervisors.port import CertificateMismatch, HypervisorError, NoPermission, Unreachable
from cloudops.hypervisors.vsphere.dial import PinnedConnection
from cloudops.hypervisors.vsphere.errors import typed
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.session import Session

logger = logging.getLogger(__name__)

SESSION_HEADER = "vmware-api-session-id"
NAMES_SECONDS = 600.0
"""How long the name of a tag is believed: renaming one is rare."""
RETRY_SECONDS = 60.0
"""How long tags are left alone after they could not be read."""
SHARE_OF_TIME = 0.5
"""Of what a reading of the hosts may take: they matter more than their tags."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
LONGEST_TAG = 63


class TagReader:
    """Keeps the names of tags and one REST session. Whoever cannot read tags still reads hosts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._key = ""
        self._names: dict[str, str] = {}
        self._names_read_at = 0.0
        self._not_before = 0.0

    def read(self, link: Link, host_refs: Sequence[str]) -> Mapping[str, tuple[str, ...]] | None:
        """Tags by host, as words that CloudOps takes for tags; None where they are not told: by a standalone ESXi host,
        an old vCenter, or one whose REST API does not answer well just now. Raises CertificateMismatch."""
        now = time.monotonic()
        if not link.is_vcenter or not host_refs or now < self._not_before:
            return None
        with self._lock:
            deadline = now + max(0.0, link.deadline - now) * SHARE_OF_TIME
            connection = PinnedConnection(link.address, link.port, trust=self._session.trust, deadline=deadline)
            try:
                return self._read(connection, host_refs)
            except CertificateMismatch:
                raise
            except Exception as error:
                failure = typed(error, "The REST API")
                self._not_before = time.monotonic() + RETRY_SECONDS
                if not isinstance(failure, _Absent):
                    logger.warning("Tags of %s could not be read: %s", self._session.address, failure)
                return None
            finally:
                connection.close()

    def _read(self, connection: PinnedConnection, host_refs: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        asked = {"object_ids": [{"id": ref, "type": "HostSystem"} for ref in host_refs]}
        answer = self._ask(connection, "POST", "tag-association?action=list-attached-tags-on-objects", asked)
        attached = {one["object_id"]["id"]: one["tag_ids"] for one in answer}
        if time.monotonic() - self._names_read_at > NAMES_SECONDS:
            self._names.clear()
            self._names_read_at = time.monotonic()
        for tag in sorted({tag for tags in attached.values() for tag in tags} - set(self._names)):
            self._names[tag] = str(self._ask(connection, "GET", f"tag/{tag}")["name"])
        return {ref: words(self._names[tag] for tag in attached.get(ref, ())) for ref in host_refs}

    def _ask(self, connection: PinnedConnection, verb: str, path: str, body: object = None) -> Any:
        """Logs in when there is no session, or when vCenter has forgotten it."""
        if self._key:
            status, answer = self._send(connection, verb, f"/api/cis/tagging/{path}", self._signed(), body)
            if status != 401:
                return _checked(status, answer, path)
        status, key = self._send(connection, "POST", "/api/session", self._basic())
        self._key = str(_checked(status, key, "session"))
        status, answer = self._send(connection, verb, f"/api/cis/tagging/{path}", self._signed(), body)
        return _checked(status, answer, path)

    def _send(
        self, connection: PinnedConnection, verb: str, path: str, headers: Mapping[str, str], body: object = None
    ) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        connection.request(verb, path, content, {**headers, "Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES)
        try:
            return response.status, json.loads(data) if data else None
        except ValueError:
            return response.status, None

    def _basic(self) -> dict[str, str]:
        spec = self._session.spec
        credentials = base64.b64encode(f"{spec.username}:{spec.secret}".encode()).decode()
        return {"Authorization": f"Basic {credentials}"}

    def _signed(self) -> dict[str, str]:
        return {SESSION_HEADER: self._key}


class _Absent(Unreachable):
    """There is no such API."""


def words(names: Any) -> tuple[str, ...]:
    """vCenter's names as CloudOps' tags, in order and each once; a name of which nothing is left is none."""
    return tuple(sorted({word for name in names if (word := slug(name))}))


def slug(name: str) -> str:
    """``GPU: A100 (80 GB)`` is ``gpu-a100-80-gb``: lower case, digits, single dashes, at most 63 characters."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:LONGEST_TAG].strip("-")


def _checked(status: int, answer: Any, path: str) -> Any:
    if status in (200, 201) and answer is not None:
        return answer
    if status == 404:
        raise _Absent(f"There is no {path}.")
    if status in (401, 403):
        raise NoPermission(f"{path} is refused (HTTP {status}).")
    raise HypervisorError(f"{path} was answered with HTTP {status}.")
