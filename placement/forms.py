"""Forms of the placement pages. The domain verbs validate; these carry what was typed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Q

from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Cluster, Offering, Template, Vm
from placement.models import AffinityGroup, ClusterPolicy

ALLOCATORS: Any = RuntimeSettings._meta.get_field("placement_allocator").choices


class WeightsField(forms.CharField):
    """``free-memory=2, free-cpu=1``: weigher names and their multipliers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            required=False, widget=forms.TextInput(attrs={"placeholder": "free-memory=2, free-cpu=1"}), **kwargs
        )

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(f"{name}={number:g}" for name, number in value.items()) if isinstance(value, dict) else value

    def clean(self, value: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for item in str(super().clean(value)).replace(",", " ").split():
            name, _, number = item.partition("=")
            try:
                found[name] = float(number)
            except ValueError as error:
                raise forms.ValidationError(f"“{item}” is not name=number, for example free-memory=2.") from error
        return found


class VmsField(forms.CharField):
    """VMs by name or id, separated by commas or line breaks. ``clean`` gives them in the order typed, each once."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", forms.Textarea(attrs={"rows": 3, "placeholder": "web-1, web-2"}))
        super().__init__(required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(vm.name for vm in value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[Vm]:
        words = [word.strip() for word in str(super().clean(value)).replace("\n", ",").split(",") if word.strip()]
        ids = [word for word in words if _is_id(word)]
        found: dict[str, list[Vm]] = {}
        for vm in Vm.objects.filter(Q(name__in=words) | Q(pk__in=ids)).select_related("host")[: 2 * len(words) + 50]:
            found.setdefault(str(vm.pk), []).append(vm)
            found.setdefault(vm.name, []).append(vm)
        for word in words:
            if word not in found:
                raise forms.ValidationError(f"There is no VM “{word}”.")
            if len(found[word]) > 1:
                ids_of = ", ".join(str(vm.pk) for vm in found[word][:5])
                raise forms.ValidationError(f"Several VMs are named “{word}”. Give the id instead: {ids_of}.")
        return list(dict.fromkeys(found[word][0] for word in words))


class VmField(VmsField):
    """One VM by name or id; ``clean`` gives it, or None."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=forms.TextInput(attrs={"placeholder": "web-1"}), **kwargs)

    def clean(self, value: Any) -> Vm | None:  # type: ignore[override]
        found = super().clean(value)
        if len(found) > 1:
            raise forms.ValidationError("One VM at a time.")
        return found[0] if found else None


def _is_id(word: str) -> bool:
    try:
        UUID(word)
    except ValueError:
        return False
    return True


class PolicyForm(forms.Form):
    """How one cluster differs from the installation; what is left empty follows it."""

    allocator = forms.ChoiceField(choices=[("", "The installation's"), *ALLOCATORS], required=False)
    weights = WeightsField(help_text="For the allocator “the cluster's own weights”. A larger number counts more.")
    cpu_ratio = forms.FloatField(label="CPU overcommit", required=False, help_text="vCPUs promised per CPU thread.")
    memory_ratio = forms.FloatField(label="Memory overcommit", required=False)
    cpu_reserve_threads = forms.IntegerField(
        label="CPU kept for each host", min_value=0, required=False, help_text="Threads that are never promised."
    )
    memory_reserve_mib = forms.IntegerField(label="Memory kept for each host", min_value=0, required=False)
    cpu_threshold_percent = forms.IntegerField(
        label="Stop placing at CPU", min_value=1, max_value=100, required=False, help_text="New VMs go elsewhere then."
    )
    memory_threshold_percent = forms.IntegerField(
        label="Stop placing at memory", min_value=1, max_value=100, required=False
    )

    @classmethod
    def kept(cls, policy: ClusterPolicy | None) -> dict[str, Any]:
        """What the form shows before anything is changed."""
        return {name: getattr(policy, name) for name in cls.base_fields} if policy is not None else {}


class GroupForm(forms.Form):
    """VMs that belong together, or apart."""

    name = forms.CharField(max_length=100)
    kind = forms.ChoiceField(choices=AffinityGroup.Kind.choices, widget=forms.RadioSelect, initial="apart")
    strict = forms.BooleanField(
        required=False, initial=True, help_text="Off: a preference, never a reason to refuse or to block a drain."
    )
    vms = VmsField(label="VMs", help_text="By name or id, separated by commas.")


class TryForm(forms.Form):
    """Where would a VM go? One that is there, or one that would be made from an offering and a template."""

    vm = VmField(label="VM", help_text="By name or id. Empty: one that is not there yet, of this offering.")
    offering = forms.ModelChoiceField(
        queryset=Offering.objects.filter(enabled=True), required=False, empty_label="The VM's own"
    )
    template = forms.ModelChoiceField(queryset=Template.objects.all(), required=False, empty_label="None")
    cluster = forms.ModelChoiceField(
        label="Home cluster", queryset=Cluster.objects.all(), required=False, empty_label="Any cluster"
    )
    across_clusters = forms.ChoiceField(
        choices=[("", "As the settings say"), ("on", "Yes"), ("off", "No")], required=False
    )
    allocator = forms.ChoiceField(choices=[("", "As the cluster or the settings say"), *ALLOCATORS], required=False)

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if not values.get("vm") and not values.get("offering"):
            self.add_error("offering", "Choose a VM above, or an offering for a new one.")
        return values

    @property
    def across(self) -> bool | None:
        """None: as the settings say."""
        return {"on": True, "off": False}.get(self.cleaned_data["across_clusters"])
