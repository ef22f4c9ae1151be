"""Examples of the API's main operations, for its description. A test holds each one against its schema."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_VM: Final = "6f1c2a9e-6d0b-4e61-9a52-0f6f5a3c8b11"
_HOST: Final = "0d7f4a52-6c0e-4a0b-8d0b-3a1f1f0c2b77"
_SESSION: Final = "9b1d6a7e-2f53-4d1c-8a83-1d5a9e0f7c22"
_PROJECT: Final = "3f0a5b8c-7e41-4f5e-b0a6-52c1d9e4a633"
_CLUSTER: Final = "b1f0c7d4-0f51-4f7e-9a57-0b8f1c4e5d66"
_OFFERING: Final = "5a1e7c3d-8b42-4d0f-9c6e-2f7a1b3d4e55"
_TEMPLATE: Final = "7d2b9e4f-1c63-4a8e-b5d0-6e3f2a1c8b44"
_SECRET: Final = "pZ0v3b7mX4nR8sT1wY5cK9dF2gH6jL0qA3eU7iO1kE4"  # noqa: S105 - an example
_AT: Final = "2027-03-01T09:00:00Z"


class Example(NamedTuple):
    """One request and, where it teaches something, its answer."""

    request: dict[str, Any] | None = None
    status: str = "200"
    response: dict[str, Any] | None = None


EXAMPLES: Final[dict[str, Example]] = {
    "post /api/v1/vms/{vm_id}/console-sessions/": Example(
        {"view_only": False},
        "201",
        {
            "id": _SESSION,
            "url": f"https://cloud.example.org/console/{_SESSION}/#s={_SECRET}",
            "websocket_url": "wss://cloud.example.org/ws/console/",
            "secret": _SECRET,
            "expires_at": "2027-03-01T09:01:00Z",
            "view_only": False,
            "vm": {"id": _VM, "name": "web-7"},
            "host": {"id": _HOST, "name": "kvm-01"},
            "slot": {"in_use": 27, "limit": 40},
        },
    ),
    "post /api/v1/console-sessions/disconnect/": Example(
        {"idle_seconds_over": 300, "host": _HOST}, "200", {"disconnected": 9}
    ),
    "post /api/v1/console-sessions/{id}/release-request/": Example({"message": "I need to restart web-7."}),
    "post /api/v1/release-requests/{id}/answer/": Example({"release": True}),
    "post /api/v1/hosts/": Example(
        {
            "kind": "libvirt",
            "uri": "qemu+tls://kvm-01.example.org/system",
            "cluster": _CLUSTER,
            "management_address": "10.0.0.11",
            "tags": ["ssd"],
        }
    ),
    "post /api/v1/hosts/test-connection/": Example(
        {"kind": "libvirt", "uri": "qemu+ssh://root@kvm-02.example.org/system"},
        "200",
        {
            "ok": False,
            "steps": [
                {
                    "name": "Connect",
                    "ok": False,
                    "detail": "TCP connect to kvm-02.example.org:22 timed out",
                    "remedy": "Check that the host is up and that no firewall is between.",
                    "elapsed_ms": 5000.2,
                }
            ],
            "hosts": [],
            "vm_count": 0,
            "certificate": None,
            "unconfirmed": False,
            "mismatch": False,
        },
    ),
    "post /api/v1/hosts/{id}/accept-certificate/": Example({"sha256": ":".join(["AB", "54"] * 16)}),
    "post /api/v1/hosts/{id}/cordon/": Example({"reason": "New memory on Tuesday."}),
    "post /api/v1/vms/assign/": Example({"vms": [_VM], "project": _PROJECT}, "200", {"changed": 1}),
    "post /api/v1/vms/{id}/power/": Example({"action": "shutdown"}),
    "post /api/v1/offerings/": Example(
        {
            "name": "elastic",
            "kind": "custom",
            "vcpus": 1,
            "max_vcpus": 2,
            "memory_mib": 256,
            "max_memory_mib": 512,
            "cpu_mhz": 500,
            "cpu_cap": True,
            "dynamic_scaling": True,
            "host_tags": ["ssd"],
        }
    ),
    "post /api/v1/templates/": Example({"name": "debian-12", "host_tags": ["linux"], "soft_host_tags": ["ssd"]}),
    "post /api/v1/placements/": Example(
        {"offering": _OFFERING, "template": _TEMPLATE, "cluster": _CLUSTER, "across_clusters": False},
        "200",
        {
            "fits": False,
            "words": [
                "None of 2 hosts fits (1 vCPU and 512 MiB needed): 2 lack a tag. Nearest is kvm-01: missing tag linux."
            ],
            "host": None,
            "allocator": "spread",
            "hosts_considered": 2,
            "hosts_fit": 0,
            "lost": {"tags": 2},
            "nearest": {
                "host_id": _HOST,
                "host_name": "kvm-01",
                "cluster": "W",
                "reasons": ["missing tag linux"],
                "remedies": ["Add the tag linux to kvm-01, if that is true of it; or stop asking for it."],
            },
            "clusters": [],
        },
    ),
    "patch /api/v1/cluster-policies/{id}/": Example(
        {"allocator": "weights", "weights": {"free-memory": 2, "home-cluster": 1}, "cpu_ratio": 2.0}
    ),
    "post /api/v1/affinity-groups/": Example({"name": "db pair", "kind": "apart", "strict": True, "vms": [_VM]}),
    "post /api/v1/vms/{vm_id}/migrations/": Example({"host": _HOST, "timeout_seconds": 600, "post_copy": False}),
    "post /api/v1/migrations/bulk/": Example(
        {"vms": [_VM], "across_clusters": True},
        "202",
        {
            "started": 0,
            "refused": 1,
            "outcomes": [
                {
                    "vm": {"id": _VM, "name": "web-7"},
                    "migration": None,
                    "error": {
                        "code": "vm-pinned",
                        "detail": "web-7 is pinned to kvm-01.",
                        "remedy": "Unpin it, or move it all the same if you know why it was pinned.",
                    },
                }
            ],
        },
    ),
    "post /api/v1/vms/{vm_id}/resize/preflight/": Example(
        {"offering": _OFFERING, "vcpus": 3, "memory_mib": 1025},
        "200",
        {
            "reach": "live",
            "headline": "It can be given 3 vCPUs and 1,026 MiB while it runs.",
            "given": {"vcpus": 3, "memory_mib": 1026, "cpu_mhz": 1500, "cpu_cap": False},
            "moves": False,
            "ways": ["live", "restart", "next-start"],
            "resources": [
                {
                    "resource": "memory",
                    "reach": "live",
                    "current": 512,
                    "wanted": 1025,
                    "given": 1026,
                    "ceiling": 1792,
                    "step": 2,
                    "free_slots": None,
                    "free_here": 20480,
                    "guest": "yes",
                    "reasons": [
                        {
                            "code": "memory-rounded",
                            "detail": "Its guest gets memory in steps of 2 MiB, so it gets 1,026 MiB.",
                            "remedies": [],
                        }
                    ],
                }
            ],
            "reasons": [],
            "plan": "gAAAAABn…",
        },
    ),
    "post /api/v1/vms/{vm_id}/resize/": Example(
        {"offering": _OFFERING, "vcpus": 3, "memory_mib": 1025, "how": "live", "plan": "gAAAAABn…"}
    ),
    "post /api/v1/vms/{vm_id}/resize/next-start/": Example({"offering": _OFFERING, "vcpus": 2, "memory_mib": 2048}),
    "post /api/v1/scaling/preflight/": Example(
        {"offering": _OFFERING, "vcpus": 2, "memory_mib": 4096, "cluster": _CLUSTER, "reach": "restart"}
    ),
    "patch /api/v1/vms/{vm_id}/headroom/": Example({"max_memory_mib": 16384, "vcpu_factor": None}),
    "patch /api/v1/clusters/{cluster_id}/headroom/": Example({"memory_factor": 2}),
    "post /api/v1/maintenances/preview/": Example({"hosts": [_HOST], "choices": [{"vm": _VM, "choice": "skip"}]}),
    "post /api/v1/maintenances/": Example({"hosts": [_HOST], "reason": "New memory", "host_parallel": 2}),
    "post /api/v1/maintenances/{id}/moves/{move_id}/choose/": Example({"choice": "copy-storage"}),
    "post /api/v1/hosts/{host_id}/fence/": Example({"reason": "Switched off at the rack's power strip."}),
    "post /api/v1/clusters/": Example({"name": "linux-a", "description": "Ground floor"}),
    "patch /api/v1/me/": Example({"current_project": _PROJECT}),
    "patch /api/v1/settings/": Example({"console_cleanup_interval_seconds": 600, "console_retention_seconds": 3600}),
    "post /api/v1/users/": Example({"username": "alice", "email": "alice@example.org", "role": "tenant"}),
    "post /api/v1/projects/": Example(
        {"name": "apollo", "quota_vcpus": 16, "quota_memory_mib": 32768},
        "201",
        {
            "id": _PROJECT,
            "name": "apollo",
            "description": "",
            "quota_vcpus": 16,
            "quota_memory_mib": 32768,
            "quota_consoles": None,
            "use": {"vcpus": 0, "memory_mib": 0, "consoles": 0},
            "created_at": _AT,
        },
    ),
    "post /api/v1/memberships/": Example({"project": _PROJECT, "user": 7, "can_console": True, "can_power": False}),
    "post /api/v1/tokens/": Example(
        {"label": "nightly job", "scopes": ["console"], "days": 30},
        "201",
        {
            "id": "c2a4e6f8-1b3d-4c5e-8f90-a1b2c3d4e5f6",
            "label": "nightly job",
            "prefix": "cops_pZ0v3",
            "scopes": ["console", "read"],
            "created_at": _AT,
            "expires_at": "2027-03-31T09:00:00Z",
            "last_used_at": None,
            "revoked_at": None,
            "secret": f"cops_{_SECRET}",
        },
    ),
}
