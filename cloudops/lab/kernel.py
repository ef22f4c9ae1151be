"""Finds a kernel for the lab's guest in whatever apt archive the machine has, and the modules in its packages.

Debian's cloud kernel is one package; Ubuntu divides image and modules. Modules may be compressed, built into the
kernel, or missing; where things lie in the packages is looked up. Nothing is installed and no root is needed.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudops.lab.process import ServiceError

Apt = Callable[[str], str]
"""``apt-cache depends NAME``'s answer; "" for a package that the archive does not have."""

# In order of size. Ubuntu's "virtual" brings the generic kernel without its extra modules; its "kvm" flavour comes
# last, as it leaves out most drivers, those of displays among them.
METAPACKAGES = {
    "debian": ("linux-image-cloud-amd64", "linux-image-amd64"),
    "ubuntu": ("linux-image-virtual", "linux-image-generic", "linux-image-kvm"),
}
_MOST_STEPS = 4
_DECOMPRESS_SECONDS = 30


@dataclass(frozen=True, slots=True)
class System:
    """What /etc/os-release says: ``family`` is "debian" or "ubuntu" by ID or ID_LIKE, "" for others."""

    family: str
    name: str


def system(os_release: str) -> System:
    """Understands the text of os-release(5). Derivatives (ID_LIKE) count as what they name first."""
    found = dict(re.findall(r"^([A-Z_]+)=[\"']?(.*?)[\"']?$", os_release, re.MULTILINE))
    kin = [found.get("ID", ""), *found.get("ID_LIKE", "").split()]
    family = next((word for word in kin if word in METAPACKAGES), "")
    return System(family, found.get("PRETTY_NAME") or found.get("NAME") or "an unknown system")


def choose(on: System, depends: Apt) -> list[str]:
    """The packages of the kernel to use: its image, and its modules where those are apart. What the archive offers
    decides; the system's own kernels come first. Raises :class:`ServiceError` naming what was looked for."""
    families = [on.family, *(name for name in METAPACKAGES if name != on.family)] if on.family else list(METAPACKAGES)
    looked_for = [name for family in families for name in METAPACKAGES[family]]
    for metapackage in looked_for:
        image = _image_behind(metapackage, depends)
        if image:
            version = image.removeprefix("linux-image-").removeprefix("unsigned-")
            modules = [name for name in _depends(depends(image)) if name == f"linux-modules-{version}"]
            return [image, *modules]
    raise ServiceError(
        f"apt offers no kernel for the guests on {on.name}; looked for {', '.join(looked_for)}. "
        "Remedy: apt-get update, or script/demo --no-guests"
    )


def _depends(answer: str) -> list[str]:
    return re.findall(r"^ [ |]Depends: (\S+)$", answer, re.MULTILINE)


def _image_behind(metapackage: str, depends: Apt) -> str:
    """The versioned image that a metapackage stands for, perhaps through others; "" when there is none."""
    name = metapackage
    for _ in range(_MOST_STEPS):
        images = [item for item in _depends(depends(name)) if item.startswith("linux-image-")]
        if not images:
            return ""
        name = images[0]
        if re.match(r"linux-image-(unsigned-)?\d", name):
            return name
    return ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: the file to boot, its version, modules by name, and the names that are built in."""

    image: Path
    version: str
    modules: dict[str, Path]
    builtin: frozenset[str]

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those that are neither a module nor built in."""
        return [name for name in names if name not in self.modules and name not in self.builtin]

    def in_load_order(self, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of these modules and of those that they need, which differ from one kernel to the next: each after
        all that it needs. What is built in, or missing, is left out."""
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            path = self.modules.get(name)
            if path is None or name in found:
                return
            module = read_module(path)
            for needed in needs(module):
                add(needed)
            found[name] = module

        for name in names:
            add(name)
        return found


def unpacked(root: Path) -> Kernel:
    """Looks around below ``root``, into which kernel packages were unpacked. Raises :class:`ServiceError`."""
    folders = [path for place in ("lib/modules", "usr/lib/modules") for path in sorted((root / place).glob("*/"))]
    found = next((path for path in folders if (path / "kernel").is_dir()), None)
    if found is None:
        raise ServiceError("The kernel's packages hold no modules. Remedy: remove the guest's cache and try again")
    version = found.name
    images = [root / f"boot/vmlinuz-{version}", found / "vmlinuz"]
    image = next((path for path in images if path.is_file()), None)
    if image is None:
        raise ServiceError(f"The kernel's packages hold no image of {version}. Remedy: remove the guest's cache")
    files = {_name(path.name): path for path in (found / "kernel").rglob("*.ko*")}
    listed = found / "modules.builtin"
    builtin = listed.read_text().split() if listed.exists() else []
    return Kernel(image, version, files, frozenset(_name(Path(line).name) for line in builtin))


def _name(file_name: str) -> str:
    """As the kernel calls a module: without suffixes, with underscores."""
    return file_name.partition(".ko")[0].replace("-", "_")


def needs(module: bytes) -> list[str]:
    """Names of the modules that one needs, as its section .modinfo says (modinfo -F depends)."""
    found = re.search(rb"\0depends=([^\0]+)\0", module)
    return [_name(name) for name in found[1].decode().split(",")] if found else []


def read_module(path: Path) -> bytes:
    """A module's own bytes, whatever it is compressed with. Raises :class:`ServiceError`."""
    match path.suffix:
        case ".ko":
            return path.read_bytes()
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            return _zstd(path)
    raise ServiceError(f"{path.name} is compressed in a way that is not known: {path.suffix}")


def _zstd(path: Path) -> bytes:
    program = shutil.which("zstd")
    if program is None:
        raise ServiceError("zstd is not installed, and the kernel's modules need it. Remedy: apt-get install zstd")
    try:
        done = subprocess.run(
            [program, "-dcq", str(path)], check=True, capture_output=True, timeout=_DECOMPRESS_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"zstd could not decompress {path.name}: {error}") from error
    return done.stdout
