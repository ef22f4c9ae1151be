"""A fake vCenter or ESXi host."""

from __future__ import annotations

from tests.vsphere.fake.plans import ClusterPlan, DatastorePlan, HostPlan, VmPlan
from tests.vsphere.fake.vcenter import FakeVcenter

__all__ = ["ClusterPlan", "DatastorePlan", "FakeVcenter", "HostPlan", "VmPlan"]
