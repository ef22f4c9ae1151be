"""Which privileges the user has. The ids are those of vSphere 8; an unknown one is refused."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import array, filled, refuse, vim, vmodl

NAMES = {
    "System": "Anonymous Read View",
    "Sessions": "CollectPrivilegeChecks GlobalMessage ImpersonateUser TerminateSession ValidateSession",
    "Global": "CancelTask Diagnostics DisableMethods EnableMethods GlobalTag Health"
    " Licenses LogEvent ManageCustomFields"
    " Proxy ScriptAction ServiceManagers SetCustomField Settings SystemTag VCServer",
    "Task": "Create Update",
    "Alarm": "Acknowledge Create Delete Edit SetStatus",
    "Datacenter": "Create Delete IpPoolConfig IpPoolQueryAllocations IpPoolReleaseIp Move Rename",
    "Datastore": "AllocateSpace Browse Config Delete DeleteFile FileManagement Move Rename UpdateVirtualMachineFiles"
    " UpdateVirtualMachineMetadata",
    "Folder": "Create Delete Move Rename",
    "Network": "Assign Config Delete Move",
    "DVPortgroup": "Create Delete Ipfix Modify PolicyOp ScopeOp",
    "Host.Cim": "CimInteraction",
    "Host.Config": "AdvancedConfig AuthenticationStore AutoStart Connection DateTime Firmware GuestStore Hyperthreading"
    " Image Maintenance Memory NetService Network Patch PciPassthru Power ProductLocker Quarantine Resources Settings"
    " Snmp Storage SystemManagement",
    "Host.Inventory": "AddHostToCluster AddStandaloneHost CreateCluster DeleteCluster EditCluster"
    " ManageClusterLifecyle MoveCluster MoveHost RemoveHostFromCluster RenameCluster",
    "Host.Local": "CreateVM DeleteVM ManageUserGroups ReconfigVM",
    "Resource": "ApplyRecommendation AssignVAppToPool AssignVMToPool ColdMigrate CreatePool DeletePool EditPool"
    " HotMigrate MovePool QueryVMotion RenamePool",
    "InventoryService.Tagging": "AttachTag CreateCategory CreateTag DeleteCategory DeleteTag EditCategory EditTag"
    " ModifyUsedByForCategory ModifyUsedByForTag ObjectAttachable",
    "VirtualMachine.Config": "AddExistingDisk AddNewDisk AddRemoveDevice AdvancedConfig Annotation CPUCount"
    " ChangeTracking DiskExtend DiskLease EditDevice HostUSBDevice ManagedBy Memory MksControl QueryFTCompatibility"
    " QueryUnownedFiles RawDevice ReloadFromPath RemoveDisk Rename ResetGuestInfo Resource Settings SwapPlacement"
    " ToggleForkParent UpgradeVirtualHardware",
    "VirtualMachine.Interact": "AnswerQuestion Backup ConsoleInteract CreateScreenshot CreateSecondary"
    " DefragmentAllDisks"
    " DeviceConnection DisableSecondary DnD EnableSecondary GuestControl MakePrimary Pause PowerOff PowerOn"
    " PutUsbScanCodes Record Replay Reset SESparseMaintenance SetCDMedia SetFloppyMedia Suspend"
    " TerminateFaultTolerantVM"
    " ToolsInstall TurnOffFaultTolerance",
    "VirtualMachine.Inventory": "Create CreateFromExisting Delete Move Register Unregister",
    "VirtualMachine.Provisioning": "Clone CloneTemplate CreateTemplateFromVM Customize DeployTemplate DiskRandomAccess"
    " DiskRandomRead FileRandomAccess GetVmFiles MarkAsTemplate MarkAsVM ModifyCustSpecs PromoteDisks PutVmFiles"
    " ReadCustSpecs",
    "VirtualMachine.State": "CreateSnapshot RemoveSnapshot RenameSnapshot RevertToSnapshot",
}
KNOWN = frozenset(f"{group}.{name}" for group, names in NAMES.items() for name in names.split())


def _granted(call: Call, entity: Any, privilege: str) -> bool:
    if privilege not in KNOWN:
        raise refuse(
            vmodl.fault.InvalidArgument, f"A specified parameter was not correct: {privilege}", invalidProperty="privId"
        )
    return not call.service.is_denied(privilege, entity)


def _shown(call: Call, refs: Any, privileges: Any) -> Any:
    kind = vim.AuthorizationManager
    found = []
    for ref in refs:
        entity = call.entity(ref)
        rows = [kind.PrivilegeAvailability(privId=one, isGranted=_granted(call, entity, one)) for one in privileges]
        found.append(filled(kind.EntityPrivilege(entity=ref, privAvailability=rows)))
    return found


@method("HasPrivilegeOnEntities")
def has_on_entities(call: Call, entity: Any, sessionId: str, privId: Any = ()) -> Any:
    return _shown(call, entity, privId)


@method("HasPrivilegeOnEntity")
def has_on_entity(call: Call, entity: Any, sessionId: str, privId: Any = ()) -> Any:
    found = call.entity(entity)
    return array("boolean", [_granted(call, found, one) for one in privId])


@method("HasUserPrivilegeOnEntities")
def user_has_on_entities(call: Call, entities: Any, userName: str, privId: Any = ()) -> Any:
    return _shown(call, entities, privId)


@method("FetchUserPrivilegeOnEntities")
def fetch_on_entities(call: Call, entities: Any, userName: str) -> Any:
    kind = vim.AuthorizationManager.UserPrivilegeResult
    return [
        filled(kind(entity=ref, privileges=[one for one in sorted(KNOWN) if _granted(call, call.entity(ref), one)]))
        for ref in entities
    ]


def privilege_list() -> Any:
    kind = vim.AuthorizationManager.Privilege
    return array(
        "vim.AuthorizationManager.Privilege",
        [
            filled(kind(privId=one, name=one.rpartition(".")[2], privGroupName=one.rpartition(".")[0], onParent=False))
            for one in sorted(KNOWN)
        ],
    )
