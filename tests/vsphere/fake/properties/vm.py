"""What the API shows of a VM."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.entities import Reader, Vm
from tests.vsphere.fake.types import array, filled, vim

GIB = 1 << 30
MIB = 1 << 20


def files(vm: Vm) -> str:
    return f"[{vm.datastore.name}] {vm.name}/{vm.name}.vmx"


def _devices(vm: Vm) -> list[Any]:
    controller = vim.vm.device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")
    devices = [controller]
    for number, gib in enumerate(vm.plan.disks_gib):
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[{vm.datastore.name}] {vm.name}/{vm.name}-{number}.vmdk",
            datastore=vm.datastore.ref,
            diskMode="persistent",
            thinProvisioned=True,
        )
        label = vim.Description(label=f"Hard disk {number + 1}", summary=f"{gib * GIB // 1024:,} KB")
        devices.append(
            vim.vm.device.VirtualDisk(
                key=2000 + number,
                deviceInfo=label,
                backing=backing,
                controllerKey=1000,
                unitNumber=number,
                capacityInKB=gib * GIB // 1024,
                capacityInBytes=gib * GIB,
            )
        )
    mac = "00:50:56:" + ":".join(vm.bios_uuid.replace("-", "")[place : place + 2] for place in (0, 2, 4))
    devices.append(
        vim.vm.device.VirtualVmxnet3(
            key=4000,
            deviceInfo=vim.Description(label="Network adapter 1", summary=vm.network.name),
            backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
                deviceName=vm.network.name, network=vm.network.ref
            ),
            macAddress=mac,
            addressType="assigned",
        )
    )
    return devices


def _allocation(shares: int, level: str, limit: int, reservation: int, *, normal: int) -> Any:
    known = {"low": normal // 2, "normal": normal, "high": normal * 2}
    return vim.ResourceAllocationInfo(
        reservation=reservation,
        expandableReservation=False,
        limit=limit,
        shares=vim.SharesInfo(level=level, shares=known.get(level, shares)),
    )


def cpu_allocation(vm: Vm) -> Any:
    return _allocation(
        vm.cpu_shares, vm.cpu_shares_level, vm.cpu_limit_mhz, vm.cpu_reservation_mhz, normal=1000 * vm.cpus
    )


def memory_allocation(vm: Vm) -> Any:
    return _allocation(
        vm.memory_shares,
        vm.memory_shares_level,
        vm.memory_limit_mib,
        vm.memory_reservation_mib,
        normal=10 * vm.memory_mib,
    )


def config(vm: Vm) -> Any:
    return filled(
        vim.vm.ConfigInfo(
            changeVersion=str(vm.config_version),
            name=vm.name,
            guestId=vm.plan.guest_id,
            guestFullName=vm.plan.guest_name,
            version="vmx-20",
            uuid=vm.bios_uuid,
            instanceUuid=vm.instance_uuid,
            annotation=vm.annotation,
            template=vm.template,
            files=vim.vm.FileInfo(vmPathName=files(vm)),
            hardware=vim.vm.VirtualHardware(
                numCPU=vm.cpus,
                numCoresPerSocket=1,
                memoryMB=vm.memory_mib,
                device=array("vim.vm.device.VirtualDevice", _devices(vm)),
            ),
            cpuAllocation=cpu_allocation(vm),
            memoryAllocation=memory_allocation(vm),
            cpuHotAddEnabled=vm.cpu_hot_add,
            cpuHotRemoveEnabled=vm.cpu_hot_remove,
            memoryHotAddEnabled=vm.memory_hot_add,
            hotPlugMemoryLimit=vm.limit_mib() if vm.power != "poweredOff" else None,
            hotPlugMemoryIncrementSize=vm.increment_mib if vm.power != "poweredOff" else None,
            maxMksConnections=vm.max_connections,
        )
    )


def runtime(vm: Vm) -> Any:
    is_on = vm.power == "poweredOn"
    return filled(
        vim.vm.RuntimeInfo(
            host=vm.host.ref,
            connectionState="connected" if vm.host.connection == "connected" else "disconnected",
            powerState=vm.power,
            faultToleranceState="notConfigured",
            toolsInstallerMounted=False,
            bootTime=vm.booted_at if is_on else None,
            suspendInterval=0,
            numMksConnections=vm.connections,
            maxCpuUsage=vm.cpus * vm.host.plan.cpu_mhz if is_on else None,
            maxMemoryUsage=vm.memory_mib if is_on else None,
            minRequiredEVCModeKey=vm.required_evc or None,
        )
    )


def guest(vm: Vm) -> Any:
    is_running = vm.power == "poweredOn" and vm.tools_running
    return filled(
        vim.vm.GuestInfo(
            toolsStatus="toolsOk" if is_running else "toolsNotRunning",
            toolsRunningStatus="guestToolsRunning" if is_running else "guestToolsNotRunning",
            toolsVersionStatus2="guestToolsUnmanaged",
            guestId=vm.plan.guest_id if is_running else None,
            guestFamily=("linuxGuest" if vm.plan.linux else "windowsGuest") if is_running else None,
            guestFullName=vm.plan.guest_name if is_running else None,
            hostName=vm.name if is_running else None,
            guestState="running" if is_running else "notRunning",
        )
    )


def summary(vm: Vm) -> Any:
    is_on = vm.power == "poweredOn"
    size = sum(vm.plan.disks_gib) * GIB
    return filled(
        vim.vm.Summary(
            vm=vm.ref,
            runtime=runtime(vm),
            guest=vim.vm.Summary.GuestSummary(
                guestId=vm.plan.guest_id,
                guestFullName=vm.plan.guest_name,
                toolsRunningStatus=guest(vm).toolsRunningStatus,
            ),
            config=vim.vm.Summary.ConfigSummary(
                name=vm.name,
                template=vm.template,
                vmPathName=files(vm),
                memorySizeMB=vm.memory_mib,
                numCpu=vm.cpus,
                numEthernetCards=1,
                numVirtualDisks=len(vm.plan.disks_gib),
                uuid=vm.bios_uuid,
                instanceUuid=vm.instance_uuid,
                guestId=vm.plan.guest_id,
                guestFullName=vm.plan.guest_name,
                annotation=vm.annotation,
            ),
            storage=vim.vm.Summary.StorageSummary(
                committed=size // 2, uncommitted=size - size // 2, unshared=size // 2
            ),
            quickStats=vim.vm.Summary.QuickStats(
                overallCpuUsage=vm.cpu_used_mhz if is_on else 0,
                guestMemoryUsage=min(vm.guest_memory_used_mib, vm.memory_mib) if is_on else 0,
                hostMemoryUsage=vm.memory_mib if is_on else 0,
                guestHeartbeatStatus="green" if is_on and vm.tools_running else "gray",
                balloonedMemory=0,
                swappedMemory=0,
                uptimeSeconds=3600 if is_on else 0,
            ),
            overallStatus="green",
        )
    )


def resource_config(vm: Vm) -> Any:
    return filled(
        vim.ResourceConfigSpec(entity=vm.ref, cpuAllocation=cpu_allocation(vm), memoryAllocation=memory_allocation(vm))
    )


READERS: dict[str, Reader] = {
    "name": lambda vm: vm.name,
    "parent": lambda vm: vm.world.datacenter.vm_folder.ref,
    "config": config,
    "runtime": runtime,
    "guest": guest,
    "summary": summary,
    "datastore": lambda vm: array("vim.Datastore", [vm.datastore.ref]),
    "network": lambda vm: array("vim.Network", [vm.network.ref]),
    "resourcePool": lambda vm: vm.host.cluster.pool.ref,
    "resourceConfig": resource_config,
    "overallStatus": lambda vm: vim.ManagedEntity.Status.green,
    "guestHeartbeatStatus": lambda vm: vim.ManagedEntity.Status.green,
    "recentTask": lambda vm: array("vim.Task", [task.ref for task in vm.world.running_tasks(vm)]),
    "disabledMethod": lambda vm: array("string", []),
    "effectiveRole": lambda vm: array("int", [-1]),
}
