"""What the API shows of an ESXi host."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.entities import BOOTED_AT, Host, Reader
from tests.vsphere.fake.types import array, filled, vim


def _product(host: Host) -> Any:
    return vim.AboutInfo(
        name="VMware ESXi (CloudOps simulator)",
        fullName=f"VMware ESXi {host.plan.version} build-{host.plan.build} (CloudOps simulator)",
        vendor="CloudOps simulator",
        version=host.plan.version,
        build=host.plan.build,
        osType="vmnix-x86",
        productLineId="embeddedEsx",
        apiType="HostAgent",
        apiVersion=host.world.api_version,
    )


def runtime(host: Host) -> Any:
    is_reached = host.connection == "connected"
    return filled(
        vim.host.RuntimeInfo(
            connectionState=host.connection,
            powerState="poweredOn" if is_reached else "unknown",
            standbyMode="none",
            inMaintenanceMode=host.in_maintenance,
            inQuarantineMode=False,
            bootTime=BOOTED_AT if is_reached else None,
        )
    )


def hardware(host: Host) -> Any:
    plan = host.plan
    return filled(
        vim.host.HardwareInfo(
            systemInfo=vim.host.SystemInfo(vendor="CloudOps", model="Simulated server", uuid=host.uuid),
            cpuInfo=vim.host.CpuInfo(
                numCpuPackages=2,
                numCpuCores=max(1, plan.cpu_threads // 2),
                numCpuThreads=plan.cpu_threads,
                hz=plan.cpu_mhz * 1_000_000,
            ),
            memorySize=plan.memory_mib << 20,
            cpuPkg=[
                vim.host.CpuPackage(
                    index=0,
                    vendor="intel",
                    hz=plan.cpu_mhz * 1_000_000,
                    busHz=100_000_000,
                    description=plan.cpu_model,
                )
            ],
        )
    )


def _vnic(host: Host) -> Any:
    address = vim.host.IpConfig(dhcp=False, ipAddress=host.address, subnetMask="255.0.0.0")
    spec = vim.host.VirtualNic.Specification(ip=address, mtu=1500)
    return vim.host.VirtualNic(device="vmk0", key="key-vim.host.VirtualNic-vmk0", portgroup="Management", spec=spec)


def _roles(host: Host) -> Any:
    card = _vnic(host)
    chosen = vim.host.VirtualNicManager.NetConfig(
        nicType="management",
        multiSelectAllowed=True,
        candidateVnic=array("vim.host.VirtualNic", [card]),
        selectedVnic=[card.key],
    )
    return array("vim.host.VirtualNicManager.NetConfig", [chosen])


def config(host: Host) -> Any:
    if host.connection != "connected":
        return None
    return filled(
        vim.host.ConfigInfo(
            host=host.ref,
            product=_product(host),
            network=vim.host.NetworkInfo(
                vnic=array("vim.host.VirtualNic", [_vnic(host)]),
                dnsConfig=vim.host.DnsConfig(
                    dhcp=False, hostName=host.name.split(".")[0], domainName=host.name.partition(".")[2]
                ),
            ),
            virtualNicManagerInfo=vim.host.VirtualNicManagerInfo(netConfig=_roles(host)),
            certificate=list(host.certificate_pem.encode()),
        )
    )


def summary(host: Host) -> Any:
    plan = host.plan
    is_reached = host.connection == "connected"
    return filled(
        vim.host.Summary(
            host=host.ref,
            hardware=vim.host.Summary.HardwareSummary(
                vendor="CloudOps",
                model="Simulated server",
                uuid=host.uuid,
                memorySize=plan.memory_mib << 20,
                cpuModel=plan.cpu_model,
                cpuMhz=plan.cpu_mhz,
                numCpuPkgs=2,
                numCpuCores=max(1, plan.cpu_threads // 2),
                numCpuThreads=plan.cpu_threads,
                numNics=1,
                numHBAs=1,
            ),
            runtime=runtime(host),
            config=vim.host.Summary.ConfigSummary(
                name=host.name,
                port=host.port,
                sslThumbprint=host.thumbprint_sha1,
                product=_product(host),
                vmotionEnabled=plan.vmotion,
                faultToleranceEnabled=False,
            ),
            quickStats=vim.host.Summary.QuickStats(
                overallCpuUsage=host.cpu_used_mhz if is_reached else None,
                overallMemoryUsage=host.demand_mib() if is_reached else None,
                uptime=3600 if is_reached else None,
            ),
            overallStatus="green" if is_reached else "red",
            rebootRequired=False,
            managementServerIp=None if host.world.is_standalone else host.world.address,
            maxEVCModeKey=plan.evc_mode,
            currentEVCModeKey=host.cluster.plan.evc_mode or None,
        )
    )


READERS: dict[str, Reader] = {
    "name": lambda host: host.name,
    "parent": lambda host: host.cluster.ref,
    "runtime": runtime,
    "hardware": lambda host: hardware(host) if host.connection == "connected" else None,
    "config": config,
    "summary": summary,
    "capability": lambda host: filled(
        vim.host.Capability(vmotionSupported=host.plan.vmotion, maintenanceModeSupported=True)
    ),
    "vm": lambda host: array("vim.VirtualMachine", [vm.ref for vm in host.vms.values()]),
    "datastore": lambda host: array("vim.Datastore", [one.ref for one in host.datastores]),
    "network": lambda host: array("vim.Network", [one.ref for one in host.networks]),
    "overallStatus": lambda host: vim.ManagedEntity.Status.green,
    "recentTask": lambda host: array("vim.Task", [task.ref for task in host.world.running_tasks(host)]),
    "disabledMethod": lambda host: array("string", []),
    "effectiveRole": lambda host: array("int", [-1]),
}
