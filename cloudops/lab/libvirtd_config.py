"""The configuration files of a private libvirtd (libvirtd.conf, qemu.conf)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEEPALIVE = {"keepalive_interval": 2, "keepalive_count": 4}
"""A silent other host is given up after 10 s, in migrations too; libvirt's own settings would take 30 s."""


@dataclass(frozen=True, slots=True)
class Listen:
    """TCP or TLS listening of libvirtd, without authentication: for loopback and private networks only.

    ``pki`` holds cacert.pem, servercert.pem and serverkey.pem (see ``cloudops.lab.pki``) when ``tls_port`` is set.
    """

    address: str = "127.0.0.1"
    tcp_port: int = 0
    tls_port: int = 0
    pki: Path | None = None


def daemon_settings(listen: Listen, host_uuid: str) -> list[str]:
    """Lines of libvirtd.conf."""
    settings: dict[str, str | int] = {
        "listen_tls": int(listen.tls_port > 0),
        "listen_tcp": int(listen.tcp_port > 0),
        "listen_addr": listen.address,
        "tcp_port": str(listen.tcp_port or 16509),
        "tls_port": str(listen.tls_port or 16514),
        "auth_tcp": "none",
        "auth_unix_ro": "none",
        "auth_unix_rw": "none",
        "unix_sock_group": "labusers",
        "unix_sock_ro_perms": "0770",
        "unix_sock_rw_perms": "0770",
        "unix_sock_dir": "/run/libvirt",
        "host_uuid": host_uuid,
        "log_outputs": "2:stderr",
        **KEEPALIVE,
    }
    if listen.pki is not None:
        settings |= {
            "ca_file": str(listen.pki / "cacert.pem"),
            "cert_file": str(listen.pki / "servercert.pem"),
            "key_file": str(listen.pki / "serverkey.pem"),
        }
    return [_setting(name, value) for name, value in settings.items()]


def qemu_settings(address: str, vnc_ports: tuple[int, int], *, cpu_control: bool = False) -> list[str]:
    """Lines of qemu.conf; ``address`` is where guests' VNC servers listen and migrations arrive. ``cpu_control``:
    guests get cgroups of the CPU controller, so that they can be weighed and limited."""
    settings: dict[str, str | int] = {
        "user": "root",
        "group": "root",
        "dynamic_ownership": 0,
        "remember_owner": 0,
        "security_driver": "none",
        "stdio_handler": "file",
        "vnc_listen": address,
        "remote_display_port_min": vnc_ports[0],
        "remote_display_port_max": vnc_ports[1],
        **KEEPALIVE,
    }
    if not address.startswith("127."):  # libvirtd refuses a loopback address here
        settings |= {"migration_host": address, "migration_address": address}
    controllers = '["cpu"]' if cpu_control else "[]"
    lists = ["namespaces = []", f"cgroup_controllers = {controllers}"]
    return [*lists, *(_setting(name, value) for name, value in settings.items())]


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _setting(name: str, value: str | int) -> str:
    return f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value}"'
