"""An OpenID Connect provider on loopback: oidc-provider-mock (real discovery, code flow, signed tokens), in a
process of its own, with a switch to answer wrongly.

``PUT /tamper`` with JSON changes the answers from then on, and ``{}`` ends that:
``{"id_token": {claim: value or null}, "userinfo": {…}, "discovery": {…}, "token_status": 500}``.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloudops.lab.process import Child, free_port

CLIENT_ID = "cloudops"
CLIENT_SECRET = "only-for-tests"


class Provider:
    """A running provider; ``url`` is its issuer."""

    def __init__(self, port: int) -> None:
        self.url = f"http://localhost:{port}"

    def knows(self, sub: str, **claims: Any) -> None:
        """From now on ``sub`` is somebody with these claims."""
        self._put(f"/users/{sub}", claims)

    def tamper(self, **changes: Any) -> None:
        self._put("/tamper", changes)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/jwks", timeout=2) as answer:  # noqa: S310 - our own server
                return bool(answer.status == 200)
        except OSError:
            return False

    def _put(self, path: str, body: Any) -> None:
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path, method="PUT", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310
            pass


@contextmanager
def running_provider(folder: Path) -> Iterator[Provider]:
    """Starts one, and stops it at the end."""
    port = free_port()
    # Its libraries warn of their own deprecations, which is none of our business.
    argv = [sys.executable, "-W", "ignore", "-m", "tests.sso.provider", str(port)]
    child = Child(
        "oidc", argv, log=folder / "oidc.log", env={"AUTHLIB_INSECURE_TRANSPORT": "1", "PATH": "/usr/bin:/bin"}
    )
    try:
        provider = Provider(port)
        child.wait_ready(provider.answers, deadline_seconds=30)
        yield provider
    finally:
        child.stop()


def serve(port: int) -> None:
    """The process's whole life."""
    import flask
    import oidc_provider_mock
    from authlib.jose import jwt
    from oidc_provider_mock._storage import storage
    from werkzeug.serving import run_simple

    app: flask.Flask = oidc_provider_mock.app()
    wrong: dict[str, Any] = {}

    @app.put("/tamper")
    def tamper() -> Any:
        wrong.clear()
        wrong.update(flask.request.get_json())
        return "", 204

    def changed(claims: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    @app.after_request
    def answer_wrongly(response: flask.Response) -> flask.Response:
        path = flask.request.path
        if path == "/oauth2/token" and response.status_code == 200:
            if status := wrong.get("token_status"):
                return flask.Response('{"error": "server_error"}', status=status, mimetype="application/json")
            body = response.get_json()
            if "id_token" in wrong and wrong["id_token"] is None:
                del body["id_token"]
            elif changes := wrong.get("id_token"):
                claims = changed(jwt.decode(body["id_token"], storage.jwk), changes)
                body["id_token"] = jwt.encode({"alg": "RS256"}, claims, storage.jwk).decode()
            response.set_data(json.dumps(body))
        for name, route in (("userinfo", "/userinfo"), ("discovery", "/.well-known/openid-configuration")):
            if path == route and name in wrong:
                response.set_data(json.dumps(changed(response.get_json(), wrong[name])))
        return response

    app.debug = False
    run_simple("localhost", port, app, threaded=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
