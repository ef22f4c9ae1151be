"""What the API takes for adding, trying and changing hosts, and what a connection test answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from cloudops.core.rest import Body
from cloudops.inventory.models import Cluster, Endpoint
from cloudops.inventory.serializers import MAX_POSITION, HostSerializer
from cloudops.inventory.serializers_offerings import TagsField


class _EndpointBody(Body):
    uri = serializers.CharField(
        max_length=500,
        help_text="For example `qemu+tls://kvm-01.example.org/system`, or `https://vcenter.example.org`.",
    )
    username = serializers.CharField(max_length=200, allow_blank=True, required=False)
    secret = serializers.CharField(
        max_length=10_000,
        allow_blank=True,
        required=False,
        trim_whitespace=False,
        write_only=True,
        help_text="Password; stored encrypted, never given back.",
    )
    certificate_sha256 = serializers.CharField(
        max_length=191,
        allow_blank=True,
        required=False,
        help_text="Fingerprint of the only certificate that is accepted, 64 hexadecimal digits with or without colons. "
        "vCenter and ESXi need one; the connection test tells what is presented.",
    )
    timeout_seconds = serializers.IntegerField(
        min_value=1, max_value=120, required=False, help_text="Deadline of every call to it."
    )
    management_address = serializers.CharField(
        max_length=255,
        allow_blank=True,
        required=False,
        help_text="Where the console proxy reaches the host. Empty: the address in the URI.",
    )


class ConnectionTest(_EndpointBody):
    """A management endpoint to try; nothing is saved."""

    kind = serializers.ChoiceField(choices=Endpoint.KINDS)


class _HostFields(_EndpointBody):
    vnc_listen_address = serializers.CharField(
        max_length=255, required=False, help_text="Where guests' VNC servers listen."
    )
    migration_uri = serializers.CharField(
        max_length=500,
        allow_blank=True,
        required=False,
        help_text="Where other hosts' hypervisors send this one VMs. Empty: its own URI, if that works from elsewhere.",
    )
    console_limit_override = serializers.IntegerField(
        min_value=1,
        max_value=10_000,
        allow_null=True,
        required=False,
        help_text="Consoles that may be open on this host. Null: the installation's limit.",
    )
    tags = TagsField(required=False)


class HostCreate(_HostFields):
    """A management endpoint whose hosts are to be added."""

    kind = serializers.ChoiceField(choices=Endpoint.KINDS)
    cluster = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.all(),
        pk_field=serializers.UUIDField(),
        required=False,
        allow_null=True,
        help_text="Where its hosts go. Needed unless clusters are taken over; then for hosts that are in none there.",
    )
    takes_clusters_over = serializers.BooleanField(
        required=False,
        allow_null=True,
        help_text="vSphere only, where it is the default: hosts go into clusters named as the platform's, and follow.",
    )
    force = serializers.BooleanField(default=False, help_text="Add it even though it cannot be reached now.")


class HostChange(_HostFields):
    """What of a host may be changed; a secret that is not sent stays as it is."""

    name = serializers.CharField(max_length=200, required=False)
    cluster = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    takes_clusters_over = serializers.BooleanField(
        required=False, help_text="vSphere only: its hosts are in clusters named as the platform's, and follow."
    )
    cpu_threads_override = serializers.IntegerField(
        min_value=1, max_value=MAX_POSITION, allow_null=True, required=False
    )
    memory_mib_override = serializers.IntegerField(min_value=1, max_value=MAX_POSITION, allow_null=True, required=False)


class HostRemoval(Body):
    """How far removing a host goes."""

    force = serializers.BooleanField(default=False, help_text="Also while consoles are open on it; they end.")
    whole_endpoint = serializers.BooleanField(default=False, help_text="With every host behind the same endpoint.")


class CertificateBody(Body):
    """The certificate that is to be accepted from now on."""

    sha256 = serializers.CharField(max_length=191, help_text="Its SHA-256 fingerprint, which is looked at once more.")


class HostsAdded(serializers.Serializer[Any]):
    """The hosts found behind the new endpoint."""

    hosts = HostSerializer(many=True)


class CordonBody(Body):
    """Why no new VMs are to be placed on the host."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")


class ProbeStepSerializer(serializers.Serializer[Any]):
    """One step of a connection test."""

    name = serializers.CharField()
    ok = serializers.BooleanField()
    detail = serializers.CharField(allow_blank=True)
    remedy = serializers.CharField(allow_blank=True)
    elapsed_ms = serializers.FloatField()
    certificate_sha256 = serializers.CharField(required=False, help_text="Of what was presented in this step.")
    certificate_sha1 = serializers.CharField(required=False)


class HostFactsSerializer(serializers.Serializer[Any]):
    """A host as its hypervisor reports it."""

    ref = serializers.CharField()
    name = serializers.CharField()
    cpu_threads = serializers.IntegerField()
    cpu_mhz = serializers.IntegerField()
    cpu_model = serializers.CharField(allow_blank=True)
    memory_mib = serializers.IntegerField()
    memory_free_mib = serializers.IntegerField()
    hypervisor_version = serializers.CharField(allow_blank=True)
    cluster = serializers.CharField(allow_blank=True, help_text="The platform's own, where it has clusters.")
    in_maintenance = serializers.BooleanField(help_text="In the platform's own maintenance mode.")
    problem = serializers.CharField(allow_blank=True, help_text="Why the management service does not reach it.")
    simulator = serializers.BooleanField(help_text="What answers only simulates its platform.")


class ServedCertificateSerializer(serializers.Serializer[Any]):
    """A certificate as a management service presents it."""

    sha256 = serializers.CharField()
    sha1 = serializers.CharField(help_text="As vSphere Client shows it.")
    subject = serializers.CharField()
    issuer = serializers.CharField()
    not_before = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class ProbeSerializer(serializers.Serializer[Any]):
    """A connection test: its steps, the last one fails when it is not ok, and what was found."""

    ok = serializers.BooleanField()
    steps = ProbeStepSerializer(many=True)
    hosts = HostFactsSerializer(many=True)
    vm_count = serializers.IntegerField()
    certificate = ServedCertificateSerializer(allow_null=True, help_text="What vCenter or ESXi presents now.")
    unconfirmed = serializers.BooleanField(
        help_text="Nothing was sent, as no certificate is confirmed: send `certificate.sha256` as `certificate_sha256` "
        "if it is the right one."
    )
    mismatch = serializers.BooleanField(help_text="It presents another certificate than the confirmed one.")
