"""How another process asks a running lab for a fault or for its state: one JSON line each way, over a Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cloudops.lab.lab import Lab
from cloudops.lab.process import ServiceError

FAULTS: dict[str, Callable[[Lab, str], None]] = {
    "freeze": Lab.freeze,
    "thaw": Lab.thaw,
    "crash": Lab.crash,
    "start": Lab.start_host,
    "unplug": Lab.unplug,
    "plug": Lab.plug,
    "kill-libvirtd": Lab.kill_libvirtd,
}
ANSWER_SECONDS = 90.0
REQUEST_SECONDS = 5.0


def ask(path: Path, do: str, name: str = "") -> dict[str, Any]:
    """Asks the lab behind a socket for one of `FAULTS`, or for its "status". Raises ServiceError with its words."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(ANSWER_SECONDS)
            line.connect(str(path))
            line.sendall(json.dumps({"do": do, "name": name}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile().readline() or '{"error": "the lab ended"}')
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ServiceError("no lab runs here. Remedy: script/lab up, or name its --state") from error
    except OSError as error:
        raise ServiceError(f"the lab did not answer: {error}") from error
    if "error" in answer:
        raise ServiceError(answer["error"])
    return answer


def serve(lab: Lab, path: Path, *, until: BinaryIO, socket_gid: int) -> None:
    """Answers, one at a time and in this thread, until `until` ends. Members of the group may ask."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(str(path))
        os.chown(path, -1, socket_gid)
        path.chmod(0o660)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(until, selectors.EVENT_READ)
        try:
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if until in ready and not os.read(until.fileno(), 4096):
                    return
                if listener in ready:
                    _answer_next(lab, listener)
        finally:
            path.unlink(missing_ok=True)


def _answer_next(lab: Lab, listener: socket.socket) -> None:
    line, _ = listener.accept()
    with line, contextlib.suppress(OSError):  # whoever asked may have gone
        line.settimeout(REQUEST_SECONDS)
        request = json.loads(line.makefile().readline() or "{}")
        line.sendall(json.dumps(_answer(lab, request.get("do", ""), request.get("name", ""))).encode() + b"\n")


def _answer(lab: Lab, do: str, name: str) -> dict[str, Any]:
    try:
        if do == "status":
            return status(lab)
        if do not in FAULTS:
            return {"error": f"a lab knows no {do!r}"}
        FAULTS[do](lab, name)
    except ServiceError as error:
        return {"error": str(error)}
    return {"state": lab.states()[name]}


def status(lab: Lab) -> dict[str, Any]:
    """``{"hosts": {name: {"state", "uri", "guests"}}, "uplink": state}``; guests: None where nobody answers."""
    states = dict(lab.states())
    hosts = {
        name: {"state": states.pop(name), "uri": lab.uri(name), "guests": _guests(lab, name)} for name in lab.names
    }
    return {"hosts": hosts, **states}


def _guests(lab: Lab, name: str) -> list[str] | None:
    if lab.states()[name] in {"off", "frozen"}:
        return None
    try:
        return sorted(lab.host(name).running())
    except ServiceError:  # its libvirtd was just killed
        return None
