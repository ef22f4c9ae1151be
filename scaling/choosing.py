"""What a VM may be resized to."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from cloudops.inventory.models import Offering, Vm


def offerings_for(vm: Vm) -> QuerySet[Offering]:
    """Every offering that can be chosen, and the one that the VM has; with their tags, as plans need them."""
    rows = Offering.objects.filter(Q(enabled=True) | Q(pk=vm.offering_id))
    return rows.prefetch_related("host_tags", "soft_host_tags")
