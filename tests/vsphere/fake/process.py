"""The fake as a process of its own, with the face of :class:`tests.vsphere.fake.vcenter.FakeVcenter`.

In place of ``world`` and ``service`` it has ``actions``, which take names and plain values.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from cloudops.hypervisors.port import EndpointSpec
from tests.vsphere.fake.access import endpoint_spec
from tests.vsphere.fake.actions import Actions
from tests.vsphere.fake.control import Remote
from tests.vsphere.fake.faults import Faults

ROOT = Path(__file__).resolve().parents[3]
STOP_SECONDS = 10.0


class FakeProcess:
    """``python -m tests.vsphere.fake``; it ends with this context, and by itself when this process is no more."""

    def __init__(
        self,
        hosts: int = 2,
        vms: int = 4,
        *,
        clusters: int = 1,
        vnc: Mapping[str, str] | None = None,
        standalone: bool = False,
        api_version: str = "8.0.2.0",
        address: str = "127.0.0.2",
        port: int = 0,
    ) -> None:
        self._arguments = ["--hosts", str(hosts), "--vms", str(vms), "--clusters", str(clusters)]
        self._arguments += ["--api-version", api_version, "--address", address, "--port", str(port)]
        self._arguments += [word for name, where in (vnc or {}).items() for word in ("--vnc", f"{name}={where}")]
        self._arguments += ["--standalone"] if standalone else []
        self._process: subprocess.Popen[str] | None = None
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.vsphere.fake", *self._arguments]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._end()
            raise RuntimeError("the fake vCenter did not start; its words are above")
        self._told = json.loads(line)
        self.faults = cast(Faults, Remote(self._told["control"], "faults"))
        self.actions = cast(Actions, Remote(self._told["control"], "actions"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._process = None

    def kill(self) -> None:
        """SIGKILL, as a vCenter whose power fails."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def uri(self) -> str:
        return self._told["uri"]

    @property
    def username(self) -> str:
        return self._told["username"]

    @property
    def password(self) -> str:
        return self._told["password"]

    @property
    def fingerprint_sha256(self) -> str:
        return self._told["fingerprint_sha256"]

    @property
    def certificate_pem(self) -> str:
        return self._told["certificate_pem"]

    @property
    def control(self) -> str:
        """Where its control listens: http://127.0.0.1:PORT."""
        return self._told["control"]

    def spec(self, *, key: str = "fake-vcenter", timeout_seconds: float = 10.0, **others: Any) -> EndpointSpec:
        """The endpoint as the product's driver is given it; ``others`` replace its fields."""
        return endpoint_spec(self, key=key, timeout_seconds=timeout_seconds, **others)

    def connections(self, vm: str = "") -> int:
        return self.actions.connections(vm)

    def calls(self, method: str) -> int:
        return self.actions.calls(method)
