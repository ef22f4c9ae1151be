"""Forms of sizes and headroom. The domain verbs validate; these carry what was typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from django import forms

from cloudops.inventory.models import Offering, OfferingKind
from cloudops.inventory.offering_rules import bounds

MOST_VCPUS: Final = 1_024
MOST_MIB: Final = 16_777_216
HEADROOM: Final = ("memory_factor", "vcpu_factor", "max_memory_mib", "max_vcpus")


class SizeForm(forms.Form):
    """The size to choose within an offering that is not fixed; each number has its bounds, and marks for its slider."""

    vcpus = forms.IntegerField(label="vCPUs", min_value=1, max_value=MOST_VCPUS)
    memory_mib = forms.IntegerField(label="Memory", min_value=16, max_value=MOST_MIB)
    cpu_mhz = forms.IntegerField(label="CPU speed", required=False, min_value=100, max_value=10_000)

    def __init__(self, offering: Offering, *args: Any, marks: Mapping[str, list[dict[str, Any]]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        if offering.kind != OfferingKind.UNCONSTRAINED:
            del self.fields["cpu_mhz"]
        if offering.kind == OfferingKind.CUSTOM:
            within = bounds(offering)
            self._bound("vcpus", within.min_vcpus, within.max_vcpus, "")
            self._bound("memory_mib", within.min_memory_mib, within.max_memory_mib, " MiB")
        for name, found in marks.items():
            if name in self.fields and found:
                self._mark(name, found)

    def _bound(self, name: str, low: int, high: int, unit: str) -> None:
        field = self.fields[name]
        field.widget.attrs |= {"min": low, "max": high}
        field.help_text = f"{low} to {high}{unit}."

    def _mark(self, name: str, marks: list[dict[str, Any]]) -> None:
        """Marks for the slider, and the same in words."""
        field = self.fields[name]
        said = "; ".join(f"{one['label']}: {one['at']}" for one in marks)
        field.help_text = f"{field.help_text} {said[:1].upper()}{said[1:]}.".strip()
        field.widget.attrs |= {"data-slider": "", "data-marks": json.dumps(marks)}
        furthest = max(one["at"] for one in marks)
        high = int(field.widget.attrs["max"])
        if high > 4 * furthest:  # a slider from 16 MiB to 16 TiB would be of no use
            field.widget.attrs["data-slider-max"] = 4 * furthest


class HeadroomForm(forms.Form):
    """How far VMs can grow live; empty follows what is above: the cluster, then the installation."""

    memory_factor = forms.FloatField(
        label="Memory", required=False, min_value=1, max_value=16, help_text="How many times the offering's memory."
    )
    max_memory_mib = forms.IntegerField(
        label="Memory, absolute",
        required=False,
        min_value=16,
        max_value=MOST_MIB,
        help_text="Instead of the multiple.",
    )
    vcpu_factor = forms.FloatField(
        label="vCPUs", required=False, min_value=1, max_value=16, help_text="How many times the offering's vCPUs."
    )
    max_vcpus = forms.IntegerField(
        label="vCPUs, absolute",
        required=False,
        min_value=1,
        max_value=MOST_VCPUS,
        help_text="Instead of the multiple.",
    )

    @property
    def values(self) -> dict[str, Any]:
        """As the headroom verbs take them."""
        return {name: self.cleaned_data[name] for name in HEADROOM}


class VmHeadroomForm(HeadroomForm):
    """One VM's headroom, and whether it may be resized while it runs at all."""

    dynamic_scaling = forms.BooleanField(
        label="Live scaling", required=False, help_text="Off: its size is never changed while it runs."
    )


class BulkForm(forms.Form):
    """Which VMs, and the size that they might grow to."""

    offering = forms.ModelChoiceField(
        queryset=Offering.objects.filter(enabled=True), empty_label="Choose an offering", label="Offering"
    )
    vcpus = forms.IntegerField(label="vCPUs", required=False, min_value=1, max_value=MOST_VCPUS)
    memory_mib = forms.IntegerField(label="Memory", required=False, min_value=16, max_value=MOST_MIB)
    cpu_mhz = forms.IntegerField(label="CPU speed", required=False, min_value=100, max_value=10_000)
