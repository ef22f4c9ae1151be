"""The fake as a context manager: a world, a service and its listeners in a thread of their own."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cloudops.hypervisors.port import EndpointSpec
from tests.vsphere.fake import methods
from tests.vsphere.fake.access import endpoint_spec
from tests.vsphere.fake.actions import Actions
from tests.vsphere.fake.certificates import Certificate
from tests.vsphere.fake.entities import Host, Vm
from tests.vsphere.fake.faults import VCENTER, Faults
from tests.vsphere.fake.plans import ClusterPlan, DatastorePlan, HostPlan, VmPlan, WorldPlan, simple_plan
from tests.vsphere.fake.server import Listener
from tests.vsphere.fake.service import Service
from tests.vsphere.fake.world import World

USERNAME = "cloudops@vsphere.local"
PASSWORD = "s3cret & <spoken>"
START_SECONDS = 30.0
T = TypeVar("T")

assert methods.__all__


class FakeVcenter:
    """A vCenter with ESXi hosts, or with ``standalone`` one ESXi host by itself, on loopback addresses of their own."""

    def __init__(
        self,
        hosts: int | Sequence[HostPlan] = 2,
        vms: int | Sequence[VmPlan] = 4,
        *,
        clusters: int | Sequence[ClusterPlan] = 1,
        datastores: Sequence[DatastorePlan] = (),
        api_version: str = "8.0.2.0",
        standalone: bool = False,
        address: str = "127.0.0.2",
        port: int = 0,
        username: str = USERNAME,
        password: str = PASSWORD,
        task_seconds: float = 0.1,
    ) -> None:
        plan = simple_plan(hosts, vms, clusters=clusters if isinstance(clusters, int) else 1)
        plan = WorldPlan(plan.hosts, plan.vms, () if isinstance(clusters, int) else clusters, datastores)
        self.world = World(plan, address=address, api_version=api_version, is_standalone=standalone)
        self.faults = Faults()
        self.service = Service(self.world, self.faults, username, password)
        self.service.task_seconds = task_seconds
        self.actions = Actions(self)
        self.username = username
        self.password = password
        self._address = address
        self._port = port
        self._listeners: dict[str, Listener] = {}
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="fake vCenter", daemon=True)

    # Starting and stopping

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError("the fake vCenter did not start")
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = self.service.loop
        if loop is not None and self._stop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError("the fake vCenter did not stop")

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
            self._ready.set()
            raise

    async def _main(self) -> None:
        self.service.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with tempfile.TemporaryDirectory(prefix="fake-vcenter-") as folder:
            self._folder = Path(folder)
            self.faults.bind(
                wake=self.service.wake,
                expire=self.service.expire_sessions,
                listen=self._listen,
                swap=self._swap,
            )
            try:
                await self._open_all()
                self._ready.set()
                await self._stop.wait()
            finally:
                await self._close_all()

    async def _open_all(self) -> None:
        world = self.world
        if world.is_standalone:
            (host,) = world.hosts.values()
            await self._open(host.name, self._address, self._port, host=host.name, has_api=True)
            self._listeners[VCENTER] = self._listeners[host.name]
            self._know(host)
            return
        await self._open(VCENTER, self._address, self._port, host="", has_api=True)
        for host in list(world.hosts.values()):
            await self._open_host(host)

    async def _open_host(self, host: Host) -> None:
        number = len(self._listeners)
        host.address = f"127.0.{1 + number // 250}.{1 + number % 250}"
        await self._open(host.name, host.address, 0, host=host.name, has_api=False)
        self._know(host)

    async def _open(self, name: str, address: str, port: int, *, host: str, has_api: bool) -> None:
        certificate = Certificate(self._folder, name, address)
        listener = Listener(self.service, certificate, address, port, host=host, has_api=has_api)
        await listener.open()
        self._listeners[name] = listener
        self.service.certificates[name] = certificate

    def _know(self, host: Host) -> None:
        listener = self._listeners[host.name]
        with self.world.lock:
            host.address, host.port = listener.address, listener.port
            host.thumbprint_sha1 = listener.certificate.thumbprint("sha1")
            host.certificate_pem = listener.certificate.pem
            self.world.changed(host)

    async def _close_all(self) -> None:
        for task in list(self.service.background):
            task.cancel()
        await asyncio.gather(*self.service.background, return_exceptions=True)
        for listener in set(self._listeners.values()):
            await listener.close()
        await asyncio.sleep(0)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        loop = self.service.loop
        assert loop is not None
        return asyncio.run_coroutine_threadsafe(work, loop).result(START_SECONDS)

    def _listen(self, place: str, on: bool) -> None:
        listener = self._listeners[place]
        self._do(listener.open() if on else listener.close())

    def _swap(self, place: str) -> str:
        certificate = self._listeners[place].certificate
        certificate.renew()
        for host in self.world.hosts.values():
            if self._listeners[host.name].certificate is certificate:
                self._know(host)
        return certificate.sha256

    # What tests use

    @property
    def address(self) -> str:
        return self._address

    @property
    def port(self) -> int:
        return self._listeners[VCENTER].port

    @property
    def uri(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def fingerprint_sha256(self) -> str:
        return self._listeners[VCENTER].certificate.sha256

    @property
    def certificate_pem(self) -> str:
        return self._listeners[VCENTER].certificate.pem

    def spec(self, *, key: str = "fake-vcenter", timeout_seconds: float = 10.0, **others: Any) -> EndpointSpec:
        """The endpoint as the product's driver is given it; ``others`` replace its fields."""
        return endpoint_spec(self, key=key, timeout_seconds=timeout_seconds, **others)

    def vm(self, name: str) -> Vm:
        return self.world.vms[name]

    def host(self, name: str) -> Host:
        return self.world.hosts[name]

    def add_host(self, plan: HostPlan) -> Host:
        """A host that joins while the fake runs."""
        host = self.world.add_host(plan)
        self._do(self._open_host(host))
        return host

    def connections(self, vm: str = "") -> int:
        """Displays connected to the VM, or to all of them."""
        with self.world.lock:
            vms = [self.world.vms[vm]] if vm else list(self.world.vms.values())
            return sum(len(self.service.consoles.of(one)) for one in vms)

    def calls(self, method: str) -> int:
        """How often that WSDL method (or REST path) was called."""
        return self.service.calls[method]
