"""vcsim, govmomi's vCenter simulator, which nobody here wrote: built from the distribution's sources, and started.

The distribution's binary packages leave the program out. Its source package comes through a list of apt sources of our
own, made from the machine's, whose configuration and lists stay as they are; Go builds it without any module from the
network. No root rights are needed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import signal
import ssl
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cloudops.lab.guest import Progress
from cloudops.lab.process import Child, ServiceError, find_program, locked, run_tool

SOURCE_PACKAGE = "golang-github-vmware-govmomi"
IMPORT_PATH = "github.com/vmware/govmomi"
GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian keeps the packages that govmomi imports; installing golang-github-vmware-govmomi-dev brings them."""
APT = Path("/etc/apt")
BUILD_SECONDS = 900.0
READY_SECONDS = 30.0
HOST = "127.0.0.2"
"""Not 127.0.0.1, for which pyvmomi by itself verifies no certificate."""
API_VERSION = "8.0.2.0"
USERNAME = "administrator@vsphere.local"
LISTENS = re.compile(r"GOVC_URL=https://\S*?@?([\d.]+):(\d+)/sdk")


def build_vcsim(cache_dir: Path, progress: Progress = lambda _message: None) -> Path:
    """Builds the program into ``cache_dir``, or returns the one already there if it was built by the same recipe.

    It takes about two minutes of a machine's time. Several processes may call it at once. Raises
    :class:`ServiceError` when Go, a source package or the network is missing.
    """
    cache_dir = cache_dir.absolute()
    cache_dir.mkdir(parents=True, exist_ok=True)
    program, stamp = cache_dir / "vcsim", cache_dir / "recipe"
    with locked(cache_dir / ".lock"):
        recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
        if program.exists() and stamp.exists() and stamp.read_text() == recipe:
            return program
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix="build-") as folder:
            _build(Path(folder), progress).replace(program)
        stamp.write_text(recipe)
        return program


def _build(folder: Path, progress: Progress) -> Path:
    go = find_program("go", package="golang-go")
    progress(f"Downloading the source of {SOURCE_PACKAGE}")
    source = _source_package(folder)
    home = folder / "go/src" / IMPORT_PATH
    home.parent.mkdir(parents=True)
    with tarfile.open(source) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(folder / "unpacked")  # noqa: S202 - apt has checked what it is
    (top,) = (folder / "unpacked").iterdir()
    top.replace(home)
    progress("Building vcsim, which takes about two minutes")
    environment = {
        "GO111MODULE": "off",
        "GOPATH": f"{folder / 'go'}:{GO_PACKAGES}",
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    built = folder / "vcsim"
    command = [go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(built), f"{IMPORT_PATH}/vcsim"]
    remedy = "apt-get install golang-go golang-github-vmware-govmomi-dev may help"
    run_tool(command, f"build vcsim ({remedy})", cwd=folder, seconds=BUILD_SECONDS, env=environment)
    return built


def _source_package(folder: Path) -> Path:
    """The upstream archive of the source package, as apt has checked it."""
    for name in ("parts", "lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    listed = [*APT.glob("sources.list"), *APT.glob("sources.list.d/*.list"), *APT.glob("sources.list.d/*.sources")]
    for path in listed:
        text = path.read_text()
        (folder / "parts" / path.name).write_text(source_entries(text, path.suffix))
    apt = ["apt-get", "-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder / 'parts'}"]
    apt += ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    try:
        run_tool([*apt, "update"], "read the lists of source packages", cwd=folder)
        trouble = ""
    except ServiceError as error:  # one archive of several may be away; what counts is whether the package comes
        trouble = f" {error}"
    try:
        run_tool([*apt, "source", "--download-only", "--only-source", SOURCE_PACKAGE], "download it", cwd=folder)
    except ServiceError as error:
        raise ServiceError(f"{error}{trouble}") from error
    (archive,) = folder.glob(f"{SOURCE_PACKAGE}_*.orig.tar.*[!c]")
    return archive


def source_entries(text: str, suffix: str) -> str:
    """A file of apt sources (one-line or, with ``.sources``, deb822) that offers source packages instead of others."""
    if suffix == ".sources":
        return re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE | re.IGNORECASE)
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("deb-src"))
    return "".join(re.sub(r"^\s*deb(?=\s)", "deb-src", line) + "\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Model:
    """What it simulates: one cluster of hosts, named DC0_C0_H0 and on, and VMs named DC0_C0_RP0_VM0 and on, all of
    them running; or, ``standalone``, one ESXi host by itself."""

    hosts: int = 2
    vms: int = 4
    standalone: bool = False

    def arguments(self) -> list[str]:
        if self.standalone:
            return ["-esx", "-vm", str(self.vms)]
        return ["-cluster", "1", "-standalone-host", "0", "-host", str(self.hosts), "-vm", str(self.vms)]


class Vcsim:
    """A running vcsim on a free port of ``HOST``, TLS with its own certificate; gone when we are."""

    username = USERNAME

    def __init__(self, program: Path, state_dir: Path, model: Model = Model(), *, port: int = 0) -> None:
        """``state_dir`` holds its log. Port 0: any free one."""
        self.model = model
        self.password = secrets.token_urlsafe(12)
        self.log = state_dir / "vcsim.log"
        self._program = program
        self._port = port
        self._child: Child | None = None
        self._address: tuple[str, int] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where it listens. Raises ServiceError before it does."""
        if self._address is None:
            raise ServiceError("vcsim is not started")
        return self._address

    @property
    def uri(self) -> str:
        """As CloudOps takes it: https://127.0.0.2:port"""
        host, port = self.address
        return f"https://{host}:{port}"

    @property
    def fingerprint_sha256(self) -> str:
        """Of the certificate it serves, in lower-case hexadecimal."""
        pem = ssl.get_server_certificate(self.address, timeout=READY_SECONDS)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running()

    def start(self) -> Self:
        """Returns once it listens. Raises ServiceError with what it said otherwise."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        command = [str(self._program), "-l", f"{HOST}:{self._port}", "-api-version", API_VERSION]
        command += ["-username", self.username, "-password", self.password, *self.model.arguments()]
        child = self._child = Child("vcsim", command, log=self.log)
        try:
            child.wait_ready(self._listens, deadline_seconds=READY_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Returns within seconds in any case."""
        if self._child is not None:
            self._child.stop((signal.SIGTERM, 5.0))
        self._child = self._address = None

    def _listens(self) -> bool:
        if found := LISTENS.search(self.log.read_text()):
            self._address = found[1], int(found[2])
        return self._address is not None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run(cache_dir: Path, model: Model, *, port: int, build_only: bool, progress: Progress) -> None:
    """Builds and starts it, prints where and who, and stays until Ctrl-C or SIGTERM. Raises ServiceError."""
    program = build_vcsim(cache_dir, progress)
    if build_only:
        print(f"built: {program}")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    state = Path(tempfile.mkdtemp(prefix="cloudops-vcsim-"))
    try:
        with Vcsim(program, state, model, port=port) as vcsim:
            print(f"vcsim runs: {vcsim.uri}\n  user      {vcsim.username}\n  password  {vcsim.password}")
            print(f"  SHA-256   {vcsim.fingerprint_sha256}\nCtrl-C stops it, and nothing of it stays", flush=True)
            while vcsim.is_running():
                time.sleep(0.2)
            raise ServiceError(f"vcsim ended by itself: {vcsim.log.read_text()[-2000:]}")
    except KeyboardInterrupt:
        print("stopped")
    finally:
        shutil.rmtree(state, ignore_errors=True)
