"""A switch with hosts on it, in network namespaces: a private network that only this machine's main namespace reaches.

Every namespace lives in a process tied to us and is never named, and every interface ends in one of them. So when we
end, however that happens, the kernel removes all of it: there are no leftovers to clean up.

The interface ``cloudlabN`` in the main namespace is both the way in and the claim on the range 10.77.N.0/24.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cloudops.lab.process import Child, ServiceError, find_program

RANGES = 64
UPLINK = "uplink"
"""The name of the line between the main namespace and the switch, beside the hosts' own."""
FIRST_HOST = 11
IP_SECONDS = 10.0
WIDEST_PREFIX = 8
"""A route for all of 10/8 (a VPN's, say) does not count as use of one range in it: ours is more exact."""


class _Namespace:
    """A network namespace, held by a process that does nothing else."""

    def __init__(self, name: str, log: Path) -> None:
        command = [find_program("unshare", package="util-linux"), "--net", "sleep", "infinity"]
        self._child = Child(f"network of {name}", command, log=log, parent_death=signal.SIGKILL)
        self.pid = self._child.pid
        self.path = Path(f"/proc/{self.pid}/ns/net")
        self._child.wait_ready(self._is_apart, deadline_seconds=IP_SECONDS)

    def _is_apart(self) -> bool:
        try:
            return os.stat(self.path).st_ino != os.stat("/proc/self/ns/net").st_ino
        except OSError:
            return False

    def ip(self, *commands: str) -> None:
        """Runs `ip` commands inside. Raises ServiceError."""
        _ip(*commands, inside=self.path)

    def close(self) -> None:
        self._child.kill()


class LabNetwork:
    """One lab's network. Needs root. Not safe for use by several threads at once."""

    def __init__(self, log: Path, *, preferred_range: int = 0) -> None:
        """``preferred_range``: taken if it is free, so that a lab keeps its addresses from one start to the next."""
        self._log = log
        self._range = preferred_range
        self._claimed = False
        self._switch: _Namespace | None = None
        self._hosts: dict[str, _Namespace] = {}
        self._addresses: dict[str, str] = {}

    @property
    def range(self) -> int:
        """N in 10.77.N.0/24."""
        return self._range

    def start(self) -> Self:
        """Makes the switch and the way in. Raises ServiceError when no range is free or the kernel refuses."""
        self._switch = _Namespace("the switch", self._log)
        try:
            self._range = self._claim(self._switch)
            self._claimed = True
            _ip(f"address add 10.77.{self._range}.1/24 dev {self.interface}", f"link set {self.interface} up")
            self._switch.ip("link add switch type bridge", "link set switch up", "link set lo up")
            self._switch.ip(f"link set {UPLINK} master switch", f"link set {UPLINK} up")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Removes everything; returns when the way in is gone."""
        for host in tuple(self._hosts):
            self.disconnect(host)
        if self._switch is not None:
            if self._claimed:
                _ip(f"link delete {self.interface}")
                self._claimed = False
            self._switch.close()
            self._switch = None

    @property
    def interface(self) -> str:
        """Our end of the way in."""
        return f"cloudlab{self._range}"

    def address(self, host: str) -> str:
        """The address a host has or will have, given out in the order of asking."""
        if host not in self._addresses:
            self._addresses[host] = f"10.77.{self._range}.{FIRST_HOST + len(self._addresses)}"
        return self._addresses[host]

    def connect(self, host: str) -> Path:
        """Gives a host a namespace with its address, on the switch; returns the namespace's path."""
        self.disconnect(host)
        address = self.address(host)
        last = int(address.rpartition(".")[2])
        namespace = self._hosts[host] = _Namespace(host, self._log)
        self._demand_switch().ip(f"link add {host} type veth peer name eth0 netns {namespace.pid}")
        # Always the same MAC, or neighbours would talk to the one from before a power cut for some seconds.
        namespace.ip(f"link set eth0 address 02:c1:0d:00:{self._range:02x}:{last:02x}")
        namespace.ip("link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up")
        namespace.ip(f"route add default via 10.77.{self._range}.1")
        self.plug(host)
        return namespace.path

    def disconnect(self, host: str) -> None:
        """Takes a host's namespace and its cable away."""
        if namespace := self._hosts.pop(host, None):
            # The kernel would remove it, too, but keeps a namespace while its last packets wait for an answer.
            with contextlib.suppress(ServiceError):  # it never got one
                self._demand_switch().ip(f"link delete {host}")
            namespace.close()

    def unplug(self, line: str) -> None:
        """Pulls a host's cable, or with ``uplink`` the one to us, at the switch: silence, and no carrier."""
        self._demand_switch().ip(f"link set {line} down")

    def plug(self, line: str) -> None:
        """Undoes :meth:`unplug`."""
        self._demand_switch().ip(f"link set {line} master switch", f"link set {line} up")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _claim(self, switch: _Namespace) -> int:
        refusal = "every range is in use"
        for number in self._candidates():
            try:
                _ip(f"link add cloudlab{number} type veth peer name {UPLINK} netns {switch.pid}")
            except ServiceError as error:  # another lab was quicker, or the kernel has no veth
                refusal = str(error)
            else:
                return number
        raise ServiceError(f"no network 10.77.N.0/24 for the lab (N = 1 to {RANGES}): {refusal}")

    def _candidates(self) -> Iterator[int]:
        used = list(_routed())
        for number in dict.fromkeys([*([self._range] if self._range else []), *range(1, RANGES + 1)]):
            network = ipaddress.ip_network(f"10.77.{number}.0/24")
            if not any(network.overlaps(other) for other in used):
                yield number

    def _demand_switch(self) -> _Namespace:
        if self._switch is None:
            raise ServiceError("the lab's network is not started")
        return self._switch


def _routed() -> Iterator[ipaddress.IPv4Network]:
    """Networks that the machine has routes to, its own addresses' among them."""
    for route in json.loads(_run(["-json", "-4", "route", "show", "table", "all"]) or "[]"):
        if route["dst"] != "default":
            network = ipaddress.IPv4Network(route["dst"], strict=False)
            if network.prefixlen > WIDEST_PREFIX:
                yield network


def _ip(*commands: str, inside: Path | None = None) -> None:
    _run(["-batch", "-"], "".join(f"{command}\n" for command in commands), inside=inside)


def _run(arguments: list[str], text: str = "", *, inside: Path | None = None) -> str:
    command = [find_program("ip", package="iproute2"), *arguments]
    if inside is not None:
        command = [find_program("nsenter", package="util-linux"), f"--net={inside}", "--", *command]
    try:
        done = subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=IP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"ip did not answer within {IP_SECONDS:.0f} s: {text or arguments}") from error
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"ip refused {text.strip() or arguments}: {error.stderr.strip()}") from error
    return done.stdout
