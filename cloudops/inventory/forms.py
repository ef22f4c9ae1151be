"""Forms about hosts, clusters, offerings and VMs. The domain verbs validate; these carry what was typed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.db import models

from cloudops.accounts.models import Project
from cloudops.hypervisors.port import Kind
from cloudops.inventory.adding import ANY_ADDRESS, NOT_OF_VSPHERE
from cloudops.inventory.models import Cluster, Endpoint, Host, Offering, OfferingKind, Template, Vm
from cloudops.inventory.offering_rules import BOUNDS, LEAST_MEMORY_MIB, MOST_MEMORY_MIB, MOST_VCPUS


def _help(model: type[Host] | type[Offering] | type[Cluster], name: str) -> str:
    return str(getattr(model._meta.get_field(name), "help_text", "")).replace("`", "")


class TagsField(forms.CharField):
    """Words separated by commas or blanks; ``clean`` gives a list without repeats."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, widget=forms.TextInput(attrs={"placeholder": "ssd, gpu"}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        text = str(super().clean(value))
        return list(dict.fromkeys(text.replace(",", " ").split()))


class EndpointFields(forms.Form):
    """How CloudOps reaches the hypervisor's management service."""

    uri = forms.CharField(
        label="URI",
        max_length=500,
        widget=forms.TextInput(attrs={"class": "input-mono"}),
    )
    username = forms.CharField(max_length=200, required=False, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    secret = forms.CharField(
        label="Password",
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=True),
        help_text="Stored encrypted and never shown again.",
    )
    certificate_sha256 = forms.CharField(
        label="Certificate fingerprint",
        max_length=191,
        required=False,
        widget=forms.TextInput(attrs={"class": "input-mono"}),
        help_text="SHA-256. Only this certificate is accepted then.",
    )
    timeout_seconds = forms.IntegerField(label="Deadline of every call", min_value=1, max_value=120, initial=10)


class AddressFields(forms.Form):
    """The host's own two of the three console addresses, its tags and its console limit."""

    management_address = forms.CharField(
        max_length=255,
        required=False,
        widget=forms.TextInput(attrs={"class": "input-mono"}),
        help_text=_help(Host, "management_address"),
    )
    vnc_listen_address = forms.CharField(
        label="VNC listen address",
        max_length=255,
        initial=ANY_ADDRESS,
        widget=forms.TextInput(attrs={"class": "input-mono"}),
        help_text=_help(Host, "vnc_listen_address"),
    )
    migration_uri = forms.CharField(
        label="Migration URI",
        max_length=500,
        required=False,
        widget=forms.TextInput(attrs={"class": "input-mono"}),
        help_text=_help(Host, "migration_uri"),
    )
    console_limit_override = forms.IntegerField(
        label="Console limit",
        min_value=1,
        max_value=10_000,
        required=False,
        help_text=_help(Host, "console_limit_override"),
    )
    tags = TagsField(help_text="Words that offerings ask for, separated by commas.")


class ClusterSource(models.TextChoices):
    """Which clusters the hosts of a vCenter go into."""

    PLATFORM = "platform", "The clusters that vCenter has them in, by name"
    CHOSEN = "chosen", "One cluster, chosen below"


class HostAddForm(EndpointFields, AddressFields):
    """A new management endpoint with its host or hosts. What was typed into fields of another kind does not count."""

    kind = forms.ChoiceField(choices=Endpoint.KINDS, initial=Kind.LIBVIRT, widget=forms.RadioSelect)
    clusters_from = forms.ChoiceField(
        label="Its hosts go into",
        choices=ClusterSource.choices,
        initial=ClusterSource.PLATFORM,
        required=False,
        widget=forms.RadioSelect,
        help_text="Hosts that join later or change cluster in vCenter follow, if its clusters are taken over.",
    )
    cluster = forms.ModelChoiceField(
        queryset=Cluster.objects.all(), required=False, empty_label="A new cluster, named below"
    )
    new_cluster = forms.CharField(label="New cluster", max_length=100, required=False)
    field_order = ["kind", "uri"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.data.get(self.add_prefix("kind")) == Kind.VSPHERE:
            self.fields["vnc_listen_address"].required = False

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("kind") == Kind.VSPHERE:
            for name in NOT_OF_VSPHERE:
                values[name] = ""
                self.errors.pop(name, None)
            values["takes_clusters_over"] = values.get("clusters_from") != ClusterSource.CHOSEN
        else:
            values["takes_clusters_over"] = False
        if values["takes_clusters_over"]:
            values["cluster"], values["new_cluster"] = None, ""
        elif not values.get("cluster") and not values.get("new_cluster"):
            self.add_error("new_cluster", "Choose a cluster above, or name a new one.")
        values.pop("clusters_from", None)
        return values


class ProbeForm(EndpointFields):
    """The part of the host form that "Test connection" needs."""

    kind = forms.ChoiceField(choices=Endpoint.KINDS)
    management_address = forms.CharField(max_length=255, required=False)

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("kind") == Kind.VSPHERE:
            values["management_address"] = ""
        return values


class HostChangeForm(EndpointFields, AddressFields):
    """What may be changed on a host. An empty password keeps the stored one. Fields that hosts of its kind do not have
    are left out."""

    name = forms.CharField(max_length=200)
    cluster = forms.ModelChoiceField(queryset=Cluster.objects.all(), empty_label=None)
    cpu_threads_override = forms.IntegerField(
        label="CPU threads", min_value=1, required=False, help_text="Empty: what the host reports."
    )
    memory_mib_override = forms.IntegerField(
        label="Memory", min_value=1, required=False, help_text="Empty: what the host reports."
    )
    forget_secret = forms.BooleanField(label="Forget the stored password", required=False)
    takes_clusters_over = forms.BooleanField(
        label="Take over vCenter's clusters",
        required=False,
        help_text="Hosts are in the clusters that vCenter has them in, by name, and follow when they change there.",
    )
    field_order = ["name", "cluster"]

    def __init__(self, *args: Any, host: Host, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        is_vsphere = host.endpoint.kind == Kind.VSPHERE
        for name in (*NOT_OF_VSPHERE, "forget_secret") if is_vsphere else ("takes_clusters_over",):
            del self.fields[name]
        for name in ("username", "certificate_sha256") if is_vsphere and host.endpoint.certificate_sha256 else ():
            self.fields[name].required = True
        self.follows = host.platform_cluster if host.endpoint.takes_clusters_over else ""
        if self.follows:
            self.fields["cluster"].disabled = True
            self.fields["cluster"].help_text = f"It follows vCenter, where the host is in {self.follows}."

    def changes(self) -> dict[str, Any]:
        """What ``hosts.change_host`` takes."""
        values = dict(self.cleaned_data)
        forget = values.pop("forget_secret", False)
        values["secret"] = "" if forget else values["secret"] or None
        return values


class ClusterForm(forms.Form):
    """A cluster's own fields."""

    name = forms.CharField(max_length=100)
    position = forms.IntegerField(min_value=0, required=False, help_text="Order on the screens. Empty: the last.")
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))


class OfferingForm(forms.Form):
    """What a VM may be. Bounds that were typed for another kind than custom do not count."""

    name = forms.CharField(max_length=100)
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))
    kind = forms.ChoiceField(
        choices=OfferingKind.choices,
        initial=OfferingKind.FIXED,
        widget=forms.RadioSelect,
        help_text=_help(Offering, "kind"),
    )
    vcpus = forms.IntegerField(
        label="vCPUs", min_value=1, max_value=MOST_VCPUS, initial=1, help_text=_help(Offering, "vcpus")
    )
    max_vcpus = forms.IntegerField(
        label="Most vCPUs", min_value=1, max_value=MOST_VCPUS, required=False, help_text=_help(Offering, "max_vcpus")
    )
    memory_mib = forms.IntegerField(
        label="Memory",
        min_value=LEAST_MEMORY_MIB,
        max_value=MOST_MEMORY_MIB,
        initial=1_024,
        help_text=_help(Offering, "memory_mib"),
    )
    max_memory_mib = forms.IntegerField(
        label="Most memory",
        min_value=LEAST_MEMORY_MIB,
        max_value=MOST_MEMORY_MIB,
        required=False,
        help_text=_help(Offering, "max_memory_mib"),
    )
    cpu_mhz = forms.IntegerField(
        label="CPU speed", min_value=100, max_value=10_000, required=False, help_text=_help(Offering, "cpu_mhz")
    )
    cpu_cap = forms.BooleanField(label="Never more CPU than that", required=False, help_text=_help(Offering, "cpu_cap"))
    dynamic_scaling = forms.BooleanField(required=False, help_text=_help(Offering, "dynamic_scaling"))
    host_tags = TagsField(help_text="Only hosts that carry all of these tags will do.")
    soft_host_tags = TagsField(label="Preferred host tags", help_text="Hosts that carry these are preferred.")
    enabled = forms.BooleanField(required=False, initial=True, help_text=_help(Offering, "enabled"))

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("kind") not in (None, OfferingKind.CUSTOM):
            for name in BOUNDS:
                values[name] = None
                self.errors.pop(name, None)
        return values


class TemplateForm(forms.Form):
    """What a template asks of a host."""

    name = forms.CharField(max_length=100)
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))
    host_tags = TagsField(help_text="Only hosts that carry all of these tags will do.")
    soft_host_tags = TagsField(label="Preferred host tags", help_text="Hosts that carry these are preferred.")


class AssignForm(forms.Form):
    """Which VMs go to which project; no project means the fleet's own."""

    vm = forms.ModelMultipleChoiceField(queryset=Vm.objects.all())
    project = forms.ModelChoiceField(queryset=Project.objects.all(), required=False)


class PlacementChoiceForm(forms.Form):
    """What placement is to know of a VM."""

    template = forms.ModelChoiceField(queryset=Template.objects.all(), required=False, empty_label="None")
    pinned = forms.BooleanField(required=False)


class OfferingChoiceForm(forms.Form):
    """Which offering a VM has."""

    offering = forms.ModelChoiceField(queryset=Offering.objects.all(), required=False, empty_label="None")


def kept_values(row: Any, form: type[forms.Form], tag_fields: Iterable[str]) -> dict[str, Any]:
    """What a form shows before anything is changed: the row's values, tags by name."""
    kept = {name: getattr(row, name) for name in form.base_fields if name not in set(tag_fields)}
    return kept | {name: [tag.name for tag in getattr(row, name).all()] for name in tag_fields}
