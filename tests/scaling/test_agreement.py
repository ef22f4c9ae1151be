"""What preflight promises is what a platform then does: for random VMs, sizes and fleets, against the simulated driver,
whose rules are its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import (
    CeilingExceeded,
    EndpointSpec,
    Kind,
    MemoryDevice,
    MemoryModel,
    PowerAction,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    ScalingFacts,
    ScalingState,
    SlotsExhausted,
    VcpusNotRemovable,
    VmFacts,
)
from cloudops.hypervisors.simulated import SimulatedGuest, SimulatedHypervisor
from scaling import memory
from scaling.preflight import preflight
from scaling.subjects import with_state
from scaling.values import ORDER, Plan, Reach, Resource, Room, Size, Subject
from tests.scaling.cases import codes, dimm, facts, place, reason, subject, virtio, wish

URI = "simulated://agreement?hosts=1&vms=0"
REF = "vm-1"
EXAMPLES = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def driver() -> Iterator[SimulatedHypervisor]:
    simulated.reset(URI)
    made = SimulatedHypervisor(EndpointSpec("agreement", Kind.SIMULATED, URI))
    yield made
    made.close()
    simulated.reset(URI)


@st.composite
def memory_facts(draw: st.DrawFn) -> ScalingFacts:
    """Every way in which a VM's memory may be put together."""
    boot = draw(st.integers(64, 2_048))
    devices: list[MemoryDevice] = []
    for number in range(draw(st.integers(0, 2))):
        size = 2 * draw(st.integers(1, 1_024))
        requested = draw(st.sampled_from((0, 0, size, size // 4 * 2)))
        devices.append(virtio(size, requested, alias=f"ua-virtiomem{number}"))
    dimms = draw(st.integers(0, 2))
    devices += [dimm(128 * draw(st.integers(1, 4)), f"ua-dimm{number}") for number in range(dimms)]
    slots = draw(st.sampled_from((0, 1, 2, 8)))
    slots = max(slots, dimms)
    whole = boot + sum(one.size_mib for one in devices)
    limit = whole + draw(st.integers(0, 1_024)) if devices or slots else 0
    has_balloon = draw(st.booleans())
    most = draw(st.integers(1, 16))
    return ScalingFacts(
        max_vcpus=most,
        max_memory_mib=max(limit, whole),
        memory_slots=slots,
        memory_slots_used=dimms,
        boot_memory_mib=boot,
        balloon_mib=draw(st.integers(32, boot)) if has_balloon else boot,
        has_balloon=has_balloon,
        dimm_limit_mib=limit,
        memory_devices=tuple(devices),
        removable_vcpus=draw(st.integers(0, most - 1)),
        cpu_shares=draw(st.sampled_from((0, 50, 100))),
        cpu_hot_add=draw(st.sampled_from((True, True, True, False))),
    )


@st.composite
def vsphere_facts(draw: st.DrawFn) -> ScalingFacts:
    boot = 4 * draw(st.integers(64, 1_024))
    most = draw(st.integers(1, 16))
    return ScalingFacts(
        max_vcpus=most,
        max_memory_mib=boot * draw(st.sampled_from((1, 4, 16, 64))),
        boot_memory_mib=boot,
        memory_step_mib=draw(st.sampled_from((4, 128))),
        cpu_hot_add=draw(st.booleans()),
        memory_hot_add=draw(st.booleans()),
    )


@dataclass
class Case:
    """A VM on a platform, as preflight sees it."""

    driver: SimulatedHypervisor
    subject: Subject

    @property
    def state(self) -> ScalingState:
        return self.driver.scaling(REF)

    def ask(self, size: Size, room: Room | None = None) -> Plan:
        self.subject = with_state(self.subject, self.state)
        asked = wish(size.vcpus, size.memory_mib, size.cpu_mhz, cpu_cap=size.cpu_cap)
        return preflight(self.subject, asked, room or place())


def begin(driver: SimulatedHypervisor, told: ScalingFacts, draw: Any, kind: Kind, guest_os: str = "") -> Case:
    vcpus = draw(st.integers(told.removable_vcpus + 1, told.max_vcpus), label="vCPUs")
    host = driver.hosts()[0].ref
    whole = memory.current_mib(told, told.boot_memory_mib)
    vm = VmFacts(REF, "web-7", host, PowerState.RUNNING, vcpus, whole, scaling=told, guest_os=guest_os)
    simulated.put_vm(URI, vm)
    tells = draw(st.booleans(), label="guest tells")
    used = draw(st.integers(0, whole), label="used")
    simulated.set_guest(URI, REF, SimulatedGuest(tells=tells, used_mib=used))
    huge = {"host_threads": 64, "host_memory_mib": 1_000_000}
    return Case(driver, subject(told, kind=kind, guest_os=guest_os, size=Size(vcpus, whole), **huge))


def wanted_size(draw: Any, case: Case) -> Size:
    """Anything, and what is just within and just beyond every limit."""
    part = case.ask(case.subject.size).of(Resource.MEMORY)
    edges = [part.current, part.ceiling or part.current]
    near = st.sampled_from(edges).flatmap(lambda edge: st.integers(max(16, edge - 3), edge + 3))
    mib = draw(st.integers(16, 8_192) | near, label="wanted MiB")
    vcpus = draw(st.integers(1, 17), label="wanted vCPUs")
    return Size(vcpus, mib, draw(st.sampled_from((0, 500, 3_000))), draw(st.booleans()))


def seed_case(driver: SimulatedHypervisor, told: ScalingFacts) -> Case:
    """A VM of 1 core of 500 MHz and 256 MiB whose guest uses 90."""
    host = driver.hosts()[0].ref
    simulated.put_vm(URI, VmFacts(REF, "web-7", host, PowerState.RUNNING, 1, 256, scaling=told))
    simulated.set_guest(URI, REF, SimulatedGuest(used_mib=90))
    return Case(driver, subject(told, kind=Kind.SIMULATED, size=Size(1, 256, 500)))


def test_the_seed_case_is_done_live_where_there_is_headroom(driver: SimulatedHypervisor) -> None:
    case = seed_case(driver, facts(256, virtio(2_048), memory_slots=8, memory_slots_used=1))
    for size in (Size(2, 512, 1_000), Size(3, 1_024, 1_000), Size(3, 1_025, 1_500), Size(3, 1_500, 1_500)):
        plan = case.ask(size)
        assert plan.reach is Reach.LIVE
        carry_out(case, size, plan)
        assert case.state.guest.vcpus == size.vcpus
    assert case.ask(Size(1, 256, 500)).of(Resource.MEMORY).reach is Reach.LIVE  # and all the way back


def test_the_seed_case_is_refused_before_any_call_where_there_is_none(driver: SimulatedHypervisor) -> None:
    case = seed_case(driver, replace(facts(512), balloon_mib=256))
    size = Size(2, 512, 1_000)
    carry_out(case, size, case.ask(size))
    third = case.ask(Size(2, 1_025, 1_500))
    assert (third.reach, third.steps) == (Reach.RESTART, ())
    assert reason(third, "memory-ceiling") == {"current": 512, "ceiling": 512, "wanted": 1_025}
    with pytest.raises(CeilingExceeded):  # what it would have come to
        driver.resize(REF, ResizeStep(ResizeKind.DIMM, 640, "ua-dimm0"))
    driver.define(REF, third.shape)
    driver.power(REF, PowerAction.SHUTDOWN)
    driver.power(REF, PowerAction.START)
    assert (case.state.vcpus, case.state.memory_mib) == (2, 1_025)


@given(data=st.data())
@EXAMPLES
def test_what_is_live_the_platform_does_step_by_step_and_ends_at_what_was_said(
    driver: SimulatedHypervisor, data: st.DataObject
) -> None:
    case = begin(driver, data.draw(memory_facts()), data.draw, Kind.SIMULATED)
    size = wanted_size(data.draw, case)
    plan = case.ask(size)
    event(str(plan.reach))
    carry_out(case, size, plan)


@given(data=st.data())
@EXAMPLES
def test_the_same_on_a_platform_that_only_adds(driver: SimulatedHypervisor, data: st.DataObject) -> None:
    system = data.draw(st.sampled_from(("Debian GNU/Linux 12 (64-bit)", "Microsoft Windows Server 2022")))
    case = begin(driver, data.draw(vsphere_facts()), data.draw, Kind.VSPHERE, system)
    size = wanted_size(data.draw, case)
    plan = case.ask(size)
    event(str(plan.reach))
    carry_out(case, size, plan)


def carry_out(case: Case, size: Size, plan: Plan) -> None:
    if plan.reach not in (Reach.LIVE, Reach.SAME):
        assert plan.reach is Reach.RESTART
        refused(case, size, plan)
        return
    for step in plan.steps:
        case.driver.resize(REF, step)
        case.driver.resize(REF, step)  # a step that is made again does no harm
    state = case.state
    assert (state.vcpus, state.memory_mib) == (plan.given.vcpus, plan.given.memory_mib)
    assert memory.current_mib(state.facts, state.memory_mib) == plan.given.memory_mib
    assert plan.given.memory_mib >= size.memory_mib
    case.subject = replace(case.subject, size=plan.given)
    again = case.ask(size)
    # There is nothing left to do, but for blocks of virtio-mem that a DIMM, being coarser, made needless.
    assert again.reach is Reach.SAME or (again.reach is Reach.LIVE and ResizeKind.DIMM in [s.kind for s in plan.steps])
    assert size.memory_mib <= again.given.memory_mib <= plan.given.memory_mib


def refused(case: Case, size: Size, plan: Plan) -> None:
    """What is beyond a limit the platform refuses too, by the error that is meant for it, whatever is tried."""
    found = codes(plan)
    if "vcpu-ceiling" in found:
        with pytest.raises(CeilingExceeded):
            case.driver.resize(REF, ResizeStep(ResizeKind.VCPUS, size.vcpus))
    if "vcpus-stay" in found:
        with pytest.raises(VcpusNotRemovable):
            case.driver.resize(REF, ResizeStep(ResizeKind.VCPUS, size.vcpus))
    if "cpu-hot-add-off" in found:
        with pytest.raises(ResizeFailed):
            case.driver.resize(REF, ResizeStep(ResizeKind.VCPUS, size.vcpus))
    if {"memory-hot-add-off", "no-live-shrink", "linux-wall"} & set(found) and plan.of(Resource.MEMORY).reasons:
        with pytest.raises(ResizeFailed):
            case.driver.resize(REF, ResizeStep(ResizeKind.MEMORY, size.memory_mib))
    elif {"memory-ceiling", "memory-slots"} & set(found):
        beyond(
            case, size.memory_mib, (SlotsExhausted,) if "memory-slots" in found else (CeilingExceeded, SlotsExhausted)
        )


def beyond(case: Case, wanted_mib: int, errors: tuple[type[ResizeFailed], ...]) -> None:
    """Takes all that there is, and then still lacks something."""
    told = case.state.facts
    if told.memory_step_mib:
        step = told.memory_step_mib
        whole = memory.up(wanted_mib - case.state.memory_mib, step) + case.state.memory_mib
        with pytest.raises(CeilingExceeded):
            case.driver.resize(REF, ResizeStep(ResizeKind.MEMORY, whole))
        return
    if told.has_balloon and not any(one.requested_mib for one in told.memory_devices if one.model == "virtio-mem"):
        case.driver.resize(REF, ResizeStep(ResizeKind.BALLOON, told.boot_memory_mib))
    for one in told.memory_devices:
        if one.model is MemoryModel.VIRTIO_MEM:
            case.driver.resize(REF, ResizeStep(ResizeKind.VIRTIO_MEM, one.size_mib, one.alias))
            with pytest.raises(CeilingExceeded):
                case.driver.resize(REF, ResizeStep(ResizeKind.VIRTIO_MEM, one.size_mib + one.block_mib, one.alias))
    lacks = wanted_mib - case.state.memory_mib
    assert lacks > 0
    with pytest.raises(errors):
        case.driver.resize(REF, ResizeStep(ResizeKind.DIMM, memory.up(lacks, memory.DIMM_MIB), "ua-more"))


# Whole fleets


@dataclass
class ModelHost:
    vcpus: int
    memory_mib: int
    used_vcpus: int = 0
    used_memory_mib: int = 0

    def holds(self, vcpus: int, memory_mib: int) -> bool:
        return self.vcpus - self.used_vcpus >= vcpus and self.memory_mib - self.used_memory_mib >= memory_mib

    def add(self, vcpus: int, memory_mib: int) -> None:
        self.used_vcpus += vcpus
        self.used_memory_mib += memory_mib


@given(data=st.data())
@settings(max_examples=80, derandomize=True, deadline=None)
def test_claims_that_follow_plans_never_exceed_capacity(data: st.DataObject) -> None:
    """As resizes take them: what grows on the host, or the whole new size on another, before the old one is left."""
    count = data.draw(st.integers(1, 3))
    hosts = [ModelHost(data.draw(st.integers(4, 16)), data.draw(st.integers(2_048, 8_192))) for _ in range(count)]
    vms: list[tuple[int, Subject]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        told = data.draw(memory_facts())
        size = Size(1, told.balloon_mib + sum(one.requested_mib for one in told.memory_devices))
        at = next((n for n, host in enumerate(hosts) if host.holds(size.vcpus, size.memory_mib)), None)
        if at is not None:
            hosts[at].add(size.vcpus, size.memory_mib)
            vms.append((at, subject(told, size=size, host=str(at), used_mib=0)))
    for _ in range(data.draw(st.integers(1, 12)) if vms else 0):
        number = data.draw(st.integers(0, len(vms) - 1))
        vms[number] = one_resize(data, hosts, *vms[number])
        for host in hosts:
            assert host.used_vcpus <= host.vcpus
            assert host.used_memory_mib <= host.memory_mib


def one_resize(data: st.DataObject, hosts: list[ModelHost], at: int, vm: Subject) -> tuple[int, Subject]:
    asked = wish(data.draw(st.integers(1, 12)), data.draw(st.integers(64, 6_000)))
    here, size = hosts[at], asked.size
    vm = replace(vm, host_threads=here.vcpus, host_memory_mib=here.memory_mib)
    others = [n for n, host in enumerate(hosts) if n != at and host.holds(size.vcpus, size.memory_mib)]
    room = Room(here.vcpus - here.used_vcpus, here.memory_mib - here.used_memory_mib, True, len(others))
    plan = preflight(vm, asked, room)
    event(str(plan.reach))
    if ORDER[plan.reach] > ORDER[Reach.RESTART] or plan.reach is Reach.SAME:
        return at, vm
    given = plan.given
    if plan.moves:
        to = next((n for n in others if hosts[n].holds(given.vcpus, given.memory_mib)), None)
        if to is None:  # rounding took the last of it: the claim is refused, nothing has happened
            return at, vm
        hosts[to].add(given.vcpus, given.memory_mib)
        here.add(-vm.size.vcpus, -vm.size.memory_mib)
        at = to
    else:
        more = max(0, given.vcpus - vm.size.vcpus), max(0, given.memory_mib - vm.size.memory_mib)
        assert here.holds(*more)
        here.add(given.vcpus - vm.size.vcpus, given.memory_mib - vm.size.memory_mib)
    told = ScalingFacts(16, given.memory_mib, boot_memory_mib=given.memory_mib, balloon_mib=given.memory_mib)
    bigger = replace(told, memory_devices=(virtio(4_096),), dimm_limit_mib=given.memory_mib + 4_096, has_balloon=True)
    return at, replace(vm, host=str(at), size=replace(given, cpu_mhz=0, cpu_cap=False), facts=bigger)
