"""Which kernel the lab's guest gets, and how it is found in its packages."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from cloudops.lab import guest, kernel
from cloudops.lab.process import ServiceError
from tests.lab.fixtures import lab_cache
from tests.lab.systems import DEBIAN_12, FEDORA, MINT, UBUNTU_22, UBUNTU_24

DEBIAN = {  # recorded on Debian 12, shortened
    "linux-image-cloud-amd64": " Depends: linux-image-6.1.0-56-cloud-amd64",
    "linux-image-6.1.0-56-cloud-amd64": (
        " Depends: kmod\n  Depends: linux-base\n |Depends: initramfs-tools\n  Depends: <linux-initramfs-tool>\n"
        "  Conflicts: linux-image-6.1.0-56-cloud-amd64-unsigned"
    ),
    "linux-image-amd64": " Depends: linux-image-6.1.0-56-amd64",
}
NOBLE = {  # after Ubuntu's package descriptions
    "linux-image-virtual": " Depends: linux-image-6.8.0-51-generic",
    "linux-image-generic": (
        " Depends: linux-image-6.8.0-51-generic\n  Depends: linux-modules-extra-6.8.0-51-generic\n"
        "  Depends: linux-firmware\n  Recommends: thermald"
    ),
    "linux-image-6.8.0-51-generic": (
        " Depends: kmod\n  Depends: linux-base\n  Depends: linux-modules-6.8.0-51-generic\n |Recommends: grub-pc"
    ),
}


def archive(packages: dict[str, str]) -> kernel.Apt:
    return lambda name: f"{name}\n {packages[name]}\n" if name in packages else ""


@pytest.mark.parametrize(
    ("os_release", "family", "name"),
    [
        (DEBIAN_12, "debian", "Debian GNU/Linux 12 (bookworm)"),
        (UBUNTU_22, "ubuntu", "Ubuntu 22.04.5 LTS"),
        (MINT, "ubuntu", "Linux Mint 22"),
        (FEDORA, "", "Fedora Linux 41"),
        ("", "", "an unknown system"),
    ],
)
def test_a_system_is_known_by_its_family(os_release: str, family: str, name: str) -> None:
    assert kernel.system(os_release) == kernel.System(family, name)


UBUNTU_PACKAGES = ["linux-image-6.8.0-51-generic", "linux-modules-6.8.0-51-generic"]


@pytest.mark.parametrize(
    ("os_release", "packages", "chosen"),
    [
        (DEBIAN_12, DEBIAN, ["linux-image-6.1.0-56-cloud-amd64"]),
        (DEBIAN_12, {k: v for k, v in DEBIAN.items() if "cloud" not in k}, ["linux-image-6.1.0-56-amd64"]),
        (UBUNTU_24, NOBLE, UBUNTU_PACKAGES),
        (MINT, NOBLE, UBUNTU_PACKAGES),
        (UBUNTU_24, {k: v for k, v in NOBLE.items() if "virtual" not in k}, UBUNTU_PACKAGES),
        ("", NOBLE, UBUNTU_PACKAGES),
        (UBUNTU_24, NOBLE | DEBIAN, UBUNTU_PACKAGES),
        (DEBIAN_12, NOBLE | DEBIAN, ["linux-image-6.1.0-56-cloud-amd64"]),
        (UBUNTU_24, NOBLE | {"linux-image-virtual": " Depends: linux-image-generic"}, UBUNTU_PACKAGES),
        (
            UBUNTU_22,
            {
                "linux-image-kvm": " Depends: linux-image-5.15.0-1070-kvm",
                "linux-image-5.15.0-1070-kvm": " Depends: linux-modules-5.15.0-1070-kvm",
            },
            ["linux-image-5.15.0-1070-kvm", "linux-modules-5.15.0-1070-kvm"],
        ),
    ],
)
def test_the_archive_decides_and_the_systems_own_kernels_come_first(
    os_release: str, packages: dict[str, str], chosen: list[str]
) -> None:
    assert kernel.choose(kernel.system(os_release), archive(packages)) == chosen


@pytest.mark.parametrize("packages", [{}, {"linux-image-virtual": " Depends: linux-image-virtual"}])
def test_an_archive_without_kernels_is_named_with_the_remedy(packages: dict[str, str]) -> None:
    with pytest.raises(ServiceError, match=r"on Ubuntu 24.04.1 LTS; .*linux-image-virtual.*Remedy: apt-get update"):
        kernel.choose(kernel.system(UBUNTU_24), archive(packages))


@pytest.mark.parametrize("modules", ["lib/modules", "usr/lib/modules"])
@pytest.mark.parametrize("image", ["boot/vmlinuz-6.8.0-51-generic", "{modules}/6.8.0-51-generic/vmlinuz"])
def test_image_and_modules_are_found_where_they_are(tmp_path: Path, modules: str, image: str) -> None:
    folder = tmp_path / modules / "6.8.0-51-generic"
    for name in ("kernel/drivers/virtio/virtio_mem.ko.zst", "kernel/net/core/failover.ko", "kernel/x/virtio-rng.ko.xz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\nkernel/drivers/acpi/button.ko\n")
    boot = tmp_path / image.format(modules=modules)
    boot.parent.mkdir(exist_ok=True)
    boot.touch()
    found = kernel.unpacked(tmp_path)
    assert (found.image, found.version) == (boot, "6.8.0-51-generic")
    assert set(found.modules) == {"virtio_mem", "failover", "virtio_rng"}
    assert found.missing(["virtio_mem", "virtio", "button", "evdev"]) == ["evdev"]


def test_packages_without_modules_or_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no modules"):
        kernel.unpacked(tmp_path)
    (tmp_path / "lib/modules/6.8.0/kernel").mkdir(parents=True)
    with pytest.raises(ServiceError, match=r"no image of 6\.8\.0"):
        kernel.unpacked(tmp_path)


@pytest.mark.parametrize("suffix", [".ko", ".ko.gz", ".ko.xz", ".ko.zst"])
def test_modules_are_read_whatever_compresses_them(tmp_path: Path, suffix: str) -> None:
    body = b"\x7fELF" + bytes(range(256)) * 40
    path = tmp_path / f"virtio{suffix}"
    match suffix:
        case ".ko.gz":
            path.write_bytes(gzip.compress(body))
        case ".ko.xz":
            path.write_bytes(lzma.compress(body))
        case ".ko.zst":
            (tmp_path / "virtio.ko").write_bytes(body)
            subprocess.run(["zstd", "-q", str(tmp_path / "virtio.ko")], check=True, timeout=30)
        case _:
            path.write_bytes(body)
    assert kernel.read_module(path) == body


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "virtio.ko.zst"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(ServiceError, match=r"could not decompress virtio\.ko\.zst"):
        kernel.read_module(broken)
    with pytest.raises(ServiceError, match=r"not known: \.lz4"):
        kernel.read_module(tmp_path / "virtio.ko.lz4")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match="apt-get install zstd"):
        kernel.read_module(broken)


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    """Debian's kernel 6.1.0-56, where virtio needs virtio_ring; in earlier ones it is the other way round."""
    needs = {"virtio_pci": "virtio-ring,virtio", "virtio": "virtio_ring", "virtio_ring": "", "button": "missing"}
    for name, others in needs.items():
        text = f"\x7fELF\0license=GPL\0depends={others}\0name={name}\0"
        (tmp_path / f"{name}.ko").write_bytes(text.encode())
    modules = {name: tmp_path / f"{name}.ko" for name in needs}
    found = kernel.Kernel(tmp_path, "6.1", modules, frozenset()).in_load_order(["button", "virtio_pci", "virtio"])
    assert list(found) == ["button", "virtio_ring", "virtio", "virtio_pci"]
    assert found["virtio"] == modules["virtio"].read_bytes()


@pytest.mark.real
def test_a_kernel_divided_as_ubuntu_does_makes_the_same_guest(tmp_path: Path) -> None:
    """Debian's real kernel, its modules compressed with zstd and in a package of their own."""
    guest.build_guest(lab_cache() / "guest")
    [package] = sorted((lab_cache() / "guest").glob("linux-image-*.deb"))[-1:]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(["dpkg-deb", "-x", str(package), str(whole)], check=True, timeout=120)
    expected = guest._initramfs(kernel.unpacked(whole))
    assert b"virtio_net.ko" in expected

    for part in ("image", "modules"):
        control = parts / part / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        control.write_text(
            f"Package: linux-{part}-x\nVersion: 1\nArchitecture: amd64\nMaintainer: tests\nDescription: x\n"
        )
    names = kernel.unpacked(whole).in_load_order(guest.MODULES)
    shutil.move(whole / "boot", parts / "image/boot")
    shutil.move(whole / "lib", parts / "modules/lib")
    wanted = [path for path in (parts / "modules").rglob("*.ko") if kernel._name(path.name) in names]
    subprocess.run(["zstd", "-q", "--rm", *map(str, wanted)], check=True, timeout=60)
    again = tmp_path / "again"
    for part in ("image", "modules"):
        deb = tmp_path / f"{part}.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "-b", str(parts / part), str(deb)], check=True, timeout=120, capture_output=True
        )
        subprocess.run(["dpkg-deb", "-x", str(deb), str(again)], check=True, timeout=120)
    assert not list(again.rglob("virtio_net.ko"))
    assert guest._initramfs(kernel.unpacked(again)) == expected
