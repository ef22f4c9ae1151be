"""vSphere's faults come out as the port's errors: the right kind, vSphere's words, and a way out."""

from __future__ import annotations

import http.client
from xml.parsers.expat import ExpatError

import pytest
from pyVmomi import VmomiSupport, vim, vmodl

from cloudops.hypervisors import port
from cloudops.hypervisors.vsphere.errors import _KINDS, typed, words

F = vim.fault
R = vmodl.fault


@pytest.mark.parametrize("name", sorted(_KINDS))
def test_every_fault_of_the_table_exists_and_has_a_way_out(name: str) -> None:
    kind = VmomiSupport.GetVmodlType(name)
    error = typed(kind(msg="The words of vSphere."))
    assert isinstance(error, port.HypervisorError)
    assert error.remedy
    assert error.platform_code == name.rpartition(".")[2]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (F.InvalidLogin(msg="Cannot complete login."), port.AuthenticationFailed),
        (F.NotAuthenticated(), port.AuthenticationFailed),
        (F.NoPermission(), port.NoPermission),
        (F.InvalidPowerState(existingState="poweredOff", requestedState="poweredOn"), port.VmNotRunning),
        (F.InvalidPowerState(existingState="poweredOn", requestedState="poweredOff"), port.InvalidState),
        (F.InvalidHostState(), port.InvalidState),
        (F.ToolsUnavailable(), port.InvalidState),
        (F.TaskInProgress(), port.Busy),
        (F.ConcurrentAccess(), port.Busy),
        (F.InsufficientMemoryResourcesFault(unreserved=1, requested=2), port.OutOfSpace),
        (F.InsufficientHostCpuCapacityFault(), port.OutOfSpace),
        (F.InsufficientFailoverResourcesFault(), port.OutOfSpace),
        (F.VMotionNotConfigured(), port.DestinationUnreachable),
        (F.VMotionLinkDown(), port.DestinationUnreachable),
        (F.CpuIncompatible1ECX(), port.CpuIncompatible),
        (F.NotSupportedHost(), port.DestinationIncompatible),
        (F.MigrationNotReady(reason="x"), port.MigrationFailed),
        (F.HotSnapshotMoveNotSupported(), port.MigrationFailed),
        (F.CannotAccessFile(file="[ds] x.vmdk"), port.StorageMissing),
        (F.NoDiskSpace(file="x", datastore="ds"), port.OutOfSpace),
        (F.DatastoreNotWritableOnHost(), port.StorageMissing),
        (F.CannotAccessNetwork(device="d", backing="b", connected=True), port.NetworkMissing),
        (F.DuplicateName(name="x"), port.NameTaken),
        (R.HostNotConnected(), port.HostNotConnected),
        (R.HostNotReachable(), port.HostNotConnected),
        (F.Timedout(), port.TimedOut),
        (R.RequestCanceled(), port.MigrationAborted),
        (F.MemoryHotPlugNotSupported(), port.ResizeFailed),
        (F.CpuHotPlugNotSupported(), port.ResizeFailed),
        (F.NotEnoughLogicalCpus(numCpuDest=4, numCpuVm=8), port.CeilingExceeded),
        (R.InvalidArgument(invalidProperty="configSpec.memoryMB"), port.MemoryMisaligned),
        (R.MethodNotFound(method="QueryConnections"), port.NotSupported),
        (F.LicenseRestricted(), port.NotSupported),
        (R.ManagedObjectNotFound(obj=vim.VirtualMachine("vm-1")), port.VmNotFound),
        (R.ManagedObjectNotFound(obj=vim.HostSystem("host-1")), port.HypervisorError),
        (R.SystemError(reason="x"), port.HypervisorError),
    ],
    ids=lambda value: type(value).__name__.rpartition(".")[2] if isinstance(value, vmodl.MethodFault) else "",
)
def test_kinds(fault: BaseException, kind: type[port.HypervisorError]) -> None:
    error = typed(fault)
    assert type(error) is kind
    assert str(error)
    assert error.remedy


def test_numbers_come_along() -> None:
    limit = typed(F.MksConnectionLimitReached(connectionLimit=40, msg="no more"))
    assert isinstance(limit, port.ConsoleLimitReached)
    assert limit.numbers["limit"] == 40
    room = typed(F.InsufficientMemoryResourcesFault(unreserved=1024, requested=4096))
    assert room.numbers == {"unreserved": 1024, "requested": 4096}
    cpus = typed(F.NotEnoughLogicalCpus(numCpuDest=4, numCpuVm=8))
    assert (cpus.numbers["numCpuDest"], cpus.numbers["numCpuVm"]) == (4, 8)


def test_missing_privileges_are_all_named() -> None:
    several = F.NoPermission(
        missingPrivileges=[
            F.NoPermission.EntityPrivileges(entity=vim.VirtualMachine("vm-3"), privilegeIds=["A.One", "A.Two"]),
            F.NoPermission.EntityPrivileges(entity=vim.Datastore("datastore-9"), privilegeIds=["A.Three"]),
        ]
    )
    assert str(typed(several)) == (
        "A.One is missing on VirtualMachine vm-3. A.Two is missing on VirtualMachine vm-3. "
        "A.Three is missing on Datastore datastore-9."
    )
    single = typed(F.NoPermission(object=vim.HostSystem("host-7"), privilegeId="Host.Config.Maintenance"))
    assert "Host.Config.Maintenance is missing on HostSystem host-7 (needed for the hosts' own" in str(single)
    assert single.numbers == {"privileges": ["Host.Config.Maintenance"]}
    unknown = typed(F.NoPermission(msg="Permission to perform this operation was denied."))
    assert str(unknown) == "Permission to perform this operation was denied."


def test_no_host_will_do_for_one_reason_or_for_several() -> None:
    hosts = [vim.HostSystem("host-1"), vim.HostSystem("host-2")]
    same = typed(F.NoCompatibleHost(host=hosts, error=[F.CpuIncompatible(), F.CpuIncompatible()]))
    assert type(same) is port.CpuIncompatible
    mixed = typed(F.NoCompatibleHost(host=hosts, error=[F.CpuIncompatible(msg="CPU"), F.NoDiskSpace(msg="disk")]))
    assert type(mixed) is port.DestinationIncompatible
    assert "CPU" in str(mixed)
    assert "disk" in str(mixed)


def test_the_words_are_vspheres_own_each_once() -> None:
    told = vmodl.LocalizableMessage(key="k", message="Because of that.")
    assert words(F.InvalidState(msg="No.", faultMessage=[told, told])) == "No. Because of that."
    assert words(F.InvalidState()) == "InvalidState"
    assert words(F.InvalidState(msg="No.", faultCause=F.Timedout(msg="Too late."))) == "No. Too late."


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (TimeoutError("timed out"), port.TimedOut, "vc did not answer"),
        (ConnectionResetError(104, "Connection reset by peer"), port.Unreachable, "Connection reset by peer"),
        (http.client.HTTPException("503 Service Unavailable"), port.Unreachable, "503"),
        (http.client.RemoteDisconnected("closed"), port.Unreachable, "closed"),
        (ExpatError("no element found"), port.Unreachable, "not SOAP"),
    ],
)
def test_a_broken_line(error: BaseException, kind: type[port.HypervisorError], said: str) -> None:
    failure = typed(error, "vc")
    assert type(failure) is kind
    assert said in str(failure)
    assert failure.remedy


def test_what_is_typed_stays_and_what_is_a_defect_surfaces() -> None:
    error = port.Busy("x")
    assert typed(error) is error
    with pytest.raises(KeyError):
        typed(KeyError("a defect of ours"))
