"""The only way to a VM: everything that shows or touches one asks here, so that no stranger learns that it exists."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q, QuerySet

from cloudops.accounts import rights
from cloudops.accounts.models import Membership
from cloudops.accounts.rights import AnyUser, VmRight
from cloudops.core.errors import Forbidden, NotFound
from cloudops.inventory.models import Vm


class VmRightMissing(Forbidden):
    code = "vm-right-missing"
    title = "You may see this VM, but not do this with it."
    remedy = "Ask an administrator to give you that right in the VM's project."


def visible_vms(user: AnyUser, right: VmRight = VmRight.VIEW) -> QuerySet[Vm]:
    """The VMs on which ``user`` has ``right``, with host, endpoint, cluster and project joined."""
    vms = Vm.objects.select_related("host__endpoint", "host__cluster", "project", "offering", "template")
    return vms if rights.everywhere(user, right) else vms.filter(_through_membership(user, right))


def _through_membership(user: AnyUser, right: VmRight) -> Q:
    if not user.is_authenticated or not user.is_active:
        return Q(pk__in=[])
    return Q(project_id__in=Membership.objects.filter(rights.projects_with(user, right)).values("project_id"))


def vm_for(user: AnyUser, vm_id: UUID | str, right: VmRight = VmRight.VIEW) -> Vm:
    """One VM. Raises :class:`NotFound` to strangers, :class:`VmRightMissing` to those who may only see it."""
    vm = visible_vms(user).filter(pk=vm_id).first()
    if vm is None:
        raise NotFound("There is no such VM, or you may not see it.")
    if right is not VmRight.VIEW and not rights.on_project(user, right, vm.project_id):
        raise VmRightMissing(f"This needs the right “{right}” on {vm.name}.", right=str(right))
    return vm
