"""The commands in the documents: every address that they name exists, for the method that they use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.urls import resolve

DOCS = Path(__file__).resolve().parents[2] / "docs"
ANY_UUID = "00000000-0000-4000-8000-000000000000"
CALL = re.compile(r"(?:curl|post) [^\n]*(?:\\\n[^\n]*)*?\$CLOUDOPS(/[^\s\"'?)|]*)")
BODY = re.compile(r" -d (?:'([^']*)'|\"((?:[^\"\\]|\\.)*)\")")


def _calls(document: str) -> list[tuple[str, str, str]]:
    """Method, path and body of each call in the shell blocks."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / document).read_text(encoding="utf-8"), re.DOTALL):
        for match in CALL.finditer(block):
            call, path = match.group(0), re.sub(r"\$[A-Z]+", ANY_UUID, match.group(1))
            body = BODY.search(call)
            named = re.search(r"-s?X ?([A-Z]+)", call)
            method = named.group(1) if named else ("POST" if body or call.startswith("post") else "GET")
            text = "" if body is None else body.group(1) if body.group(1) is not None else body.group(2)
            found.append((method, path, text.replace('\\"', '"')))
    return found


@pytest.mark.parametrize("document", ["api.md", "placement.md", "maintenance.md"])
def test_every_command_calls_something_that_exists(document: str) -> None:
    calls = _calls(document)
    assert len(calls) >= 7
    for method, path, body in calls:
        actions = resolve(f"/api/v1{path}").func.actions  # type: ignore[attr-defined]
        assert method.lower() in actions, path
        if body and not body.startswith("$"):
            assert isinstance(json.loads(body), dict), body
