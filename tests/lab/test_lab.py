"""Several hosts on one machine: guests move between them alive, faults are real, and nothing is left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab, deal, wait_moved
from cloudops.lab.network import LabNetwork
from cloudops.lab.process import ServiceError
from tests.lab.fixtures import guest_image, lab_cache, start_lab

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
SMALL = GuestSpec("small", memory_mib=32)


def migrate(lab: Lab, guest: str, to: str, *options: str) -> subprocess.Popen[str]:
    """Asks the guest's host to send it to another one, as the product does: the hosts talk to each other."""
    command = ["virsh", "--quiet", "--connect", lab.host(lab.where(guest)).uri, "migrate", guest, lab.uri(to)]
    command += ["--live", "--p2p", "--persistent", "--undefinesource", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def moved(lab: Lab, guest: str, to: str) -> None:
    with migrate(lab, guest, to) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    wait_moved(lab, guest, to=to, timeout_seconds=5)


def greets(address: str, port: int, *, within_seconds: float = 5.0) -> bytes:
    """The first bytes that something listening there says."""
    with socket.create_connection((address, port), timeout=within_seconds) as line:
        return line.recv(12)


def display(lab: Lab, guest: str) -> tuple[str, int]:
    """Where a guest's VNC server is now."""
    shown = lab.host(lab.where(guest)).virsh("domdisplay", guest).removeprefix("vnc://")
    address, _, number = shown.partition(":")
    return address, 5900 + int(number or 0)


def reaches(lab: Lab, host: str, *, seconds: float = 10.0) -> bool:
    """Whether it can be had within that time. After a line is back, addresses are looked up anew first."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((lab.address(host), 16509), timeout=min(2.0, left)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def test_a_linux_guest_moves_alive_and_its_console_is_where_it_is(two_hosts: Lab) -> None:
    two_hosts.boot(GuestSpec("web", guest_image()), on="kvm-01", wait=True)
    two_hosts.boot(SMALL, on="kvm-02")
    before = two_hosts.life("web")
    assert display(two_hosts, "web")[0] == two_hosts.address("kvm-01")
    moved(two_hosts, "web", "kvm-02")
    after = two_hosts.life("web")
    assert after.boot_id == before.boot_id
    assert after.uptime_seconds > before.uptime_seconds
    assert two_hosts.running() == {"kvm-01": set(), "kvm-02": {"web", "small"}}
    assert two_hosts.hosts[0].defined() == []
    assert display(two_hosts, "web")[0] == two_hosts.address("kvm-02")
    assert display(two_hosts, "web") != display(two_hosts, "small")
    assert greets(*display(two_hosts, "web")) == b"RFB 003.008\n"
    moved(two_hosts, "web", "kvm-01")
    assert two_hosts.life("web").boot_id == before.boot_id


@pytest.mark.fault
def test_each_fault_is_real_and_undone(three_hosts: Lab) -> None:
    three_hosts.boot(SMALL, on="kvm-02")
    qemu = three_hosts.host("kvm-02").guest_pid("small")
    three_hosts.freeze("kvm-02")
    assert Path(f"/proc/{qemu}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    assert reaches(three_hosts, "kvm-02")
    with pytest.raises(ServiceError, match="kvm-02 is frozen"):
        three_hosts.running()
    three_hosts.thaw("kvm-02")

    three_hosts.unplug("kvm-02")
    assert not reaches(three_hosts, "kvm-02", seconds=1)
    assert reaches(three_hosts, "kvm-03")
    assert three_hosts.where("small") == "kvm-02"
    three_hosts.plug("kvm-02")
    assert reaches(three_hosts, "kvm-02")

    (daemon,) = three_hosts.host("kvm-02").daemon_pids()
    three_hosts.kill_libvirtd("kvm-02")
    three_hosts.host("kvm-02").wait_answering(timeout_seconds=20)
    assert list(three_hosts.host("kvm-02").daemon_pids()) != [daemon]
    assert three_hosts.host("kvm-02").guest_pid("small") == qemu

    three_hosts.crash("kvm-02")
    assert not Path(f"/proc/{qemu}").exists()
    assert not reaches(three_hosts, "kvm-02", seconds=1)
    assert three_hosts.states() == {"kvm-01": "up", "kvm-02": "off", "kvm-03": "up", "uplink": "up"}
    three_hosts.start_host("kvm-02")
    assert reaches(three_hosts, "kvm-02")
    assert three_hosts.host("kvm-02").defined() == ["small"]
    with pytest.raises(ServiceError, match="small runs on no host"):
        three_hosts.where("small")


@pytest.mark.fault
def test_without_the_uplink_hosts_still_reach_each_other(two_hosts: Lab) -> None:
    two_hosts.boot(SMALL, on="kvm-01")
    two_hosts.unplug("uplink")
    assert not reaches(two_hosts, "kvm-01", seconds=1)
    moved(two_hosts, "small", "kvm-02")
    two_hosts.reset()
    assert reaches(two_hosts, "kvm-01")
    assert two_hosts.running() == {"kvm-01": set(), "kvm-02": set()}


@pytest.mark.fault
def test_a_destination_that_loses_power_leaves_the_guest_at_its_source(two_hosts: Lab) -> None:
    two_hosts.boot(GuestSpec("slow", guest_image()), on="kvm-01", wait=True)
    before = two_hosts.life("slow")
    with migrate(two_hosts, "slow", "kvm-02", "--bandwidth", "2") as process:
        time.sleep(3)
        assert process.poll() is None
        two_hosts.crash("kvm-02")
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert two_hosts.where("slow") == "kvm-01"
    assert two_hosts.life("slow").boot_id == before.boot_id


def test_labs_side_by_side_have_networks_of_their_own(two_hosts: Lab) -> None:
    with start_lab(1) as other:
        assert other.state_dir != two_hosts.state_dir
        assert other.address("kvm-01") != two_hosts.address("kvm-01")
        assert reaches(other, "kvm-01")
        assert reaches(two_hosts, "kvm-01")


def test_a_lab_that_stops_saves_its_guests_where_they_are(service_dir: Path) -> None:
    spec = GuestSpec("stays", guest_image())
    with Lab(service_dir / "lab", hosts=2) as lab:
        address = lab.address("kvm-01")
        lab.boot(spec, on="kvm-01", wait=True)
        before = lab.life("stays")
        moved(lab, "stays", "kvm-02")
        lab.stop(save_guests=True)
    with Lab(service_dir / "lab", hosts=2) as lab:
        assert lab.address("kvm-01") == address
        lab.boot(spec, on="kvm-01")
        assert lab.where("stays") == "kvm-02"
        assert lab.life("stays").boot_id == before.boot_id


KILLED = """
import sys, time
from pathlib import Path
from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
lab = Lab(Path(sys.argv[1]), hosts=2).start()
lab.boot(GuestSpec("small", memory_mib=32), on="kvm-01")
print(Path(f"/sys/class/net/cloudlab{lab._network.range}").exists() and lab._network.range, flush=True)
time.sleep(60)
"""


@pytest.mark.fault
def test_a_killed_lab_leaves_no_process_and_no_network(service_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(service_dir / "lab")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        number = int(owner.stdout.readline())
        assert processes_of(service_dir)
        owner.kill()
    eventually(lambda: not Path(f"/sys/class/net/cloudlab{number}").exists())
    eventually(lambda: not processes_of(service_dir))


def test_a_range_that_the_machine_uses_is_left_alone(service_dir: Path) -> None:
    with (
        LabNetwork(service_dir / "log") as first,
        LabNetwork(service_dir / "log", preferred_range=first.range) as second,
    ):
        assert second.range != first.range
        with LabNetwork(service_dir / "log", preferred_range=50) as third:
            assert third.range == 50
    assert not Path("/sys/class/net/cloudlab50").exists()


def test_what_cannot_be_is_said(two_hosts: Lab) -> None:
    with pytest.raises(ServiceError, match="there is no host kvm-09; there are kvm-01, kvm-02"):
        two_hosts.freeze("kvm-09")
    with pytest.raises(ValueError, match="1 to 4 hosts"):
        Lab(lab_cache() / "never", hosts=5)


def test_guests_are_dealt_out_in_turn() -> None:
    assert deal(["a", "b", "c"], ["x", "y"]) == {"a": "x", "b": "y", "c": "x"}


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that name a folder."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text:
            found.append(text.decode().replace("\0", " "))
    return found


def eventually(question: Callable[[], bool], *, within_seconds: float = 15.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not question():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
