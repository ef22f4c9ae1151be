"""How management servers look in the API."""

from __future__ import annotations

from rest_framework import serializers

from cloudops.core.rest import Shown
from cloudops.managers.models import ServerProcess


class ServerSerializer(Shown):
    """One process of a management server."""

    alive = serializers.SerializerMethodField(help_text="Whether its lease is live.")

    class Meta:
        model = ServerProcess
        fields = [
            "id",
            "role",
            "server_name",
            "pid",
            "version",
            "alive",
            "draining",
            "started_at",
            "renewed_at",
            "lease_until",
            "stopped_at",
        ]

    def get_alive(self, process: ServerProcess) -> bool:
        return process.is_alive(self.context["view"].now)
