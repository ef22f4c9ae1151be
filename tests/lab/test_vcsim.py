"""vcsim for tests and for hands: where its source comes from, and that it starts, says so and leaves nothing."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloudops.lab import vcsim
from cloudops.lab.command import main
from cloudops.lab.process import ServiceError
from tests.lab.fixtures import lab_cache
from tests.lab.test_demo import ROOT

DEB822 = """\
Types: deb
# a snapshot
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://deb.debian.org/debian-security
"""
ONE_LINE = """\
# deb http://old.example.org/debian buster main
deb [arch=amd64 signed-by=/k.gpg] http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian bookworm main
"""


def test_a_machines_apt_sources_become_those_of_source_packages() -> None:
    made = vcsim.source_entries(DEB822, ".sources")
    assert re.findall("^Types:.*", made, re.MULTILINE) == ["Types: deb-src", "Types: deb-src"]
    assert made.replace("deb-src", "deb").count("\n") == DEB822.count("\n")
    assert "Suites: bookworm bookworm-updates\n" in made
    assert vcsim.source_entries(ONE_LINE, ".list").splitlines() == [
        "# deb http://old.example.org/debian buster main",
        "deb-src [arch=amd64 signed-by=/k.gpg] http://deb.debian.org/debian bookworm main",
    ]


def test_without_go_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match=r"go is not installed\. Remedy: apt-get install golang-go"):
        vcsim.build_vcsim(tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock"]


def test_a_program_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "vcsim"
    program.write_text("#!/bin/sh\necho no such flag: $1 >&2\nexit 2\n")
    program.chmod(0o755)
    with pytest.raises(ServiceError, match=r"vcsim ended at once \(exit code 2\)[^$]*no such flag: -l"):
        vcsim.Vcsim(program, tmp_path).start()


@pytest.mark.parametrize("options", [["--hosts=0"], ["--vms=-1"], ["--port=70000"], ["--hosts=x"]])
def test_what_cannot_be_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["vcsim", *options])
    assert "usage: script/lab" in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.timeout(600)  # script/test has built it; alone it may be the first
class TestReal:
    def test_what_is_built_is_taken_by_everybody(self) -> None:
        program = vcsim.build_vcsim(lab_cache() / "vcsim")
        built = program.stat().st_mtime_ns
        taken: list[Path] = []
        threads = [
            threading.Thread(target=lambda: taken.append(vcsim.build_vcsim(lab_cache() / "vcsim"))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert taken == [program] * 3
        assert program.stat().st_mtime_ns == built
        assert sorted(path.name for path in program.parent.iterdir()) == [".lock", "recipe", "vcsim"]

    def test_by_hand_it_says_where_it_is_and_stops_cleanly(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "cloudops.lab.command", "vcsim", "--hosts=1", "--vms=1"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path)},
        ) as running:
            try:
                assert running.stdout is not None
                said = ""
                while "Ctrl-C stops it" not in said:
                    line = running.stdout.readline()
                    assert line, said
                    said += line
                found = re.search(r"https://([\d.]+):(\d+)\n  user +(\S+)\n  password +\S{16}\n", said)
                assert found, said
                assert found[3] == vcsim.USERNAME
                address = (found[1], int(found[2]))
                assert ssl.get_server_certificate(address, timeout=10).startswith("-----BEGIN")
                running.send_signal(signal.SIGTERM)
                assert running.wait(20) == 0
            finally:
                running.kill()
        with pytest.raises(OSError, match="refused"):
            ssl.get_server_certificate(address, timeout=10)
        assert list(tmp_path.iterdir()) == []
