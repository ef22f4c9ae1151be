"""The tree and its commands: what would otherwise go wrong only on somebody else's machine."""

from __future__ import annotations

import configparser
import os
import re
import socket
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from tests.longest_first import LONGEST, to_the_front

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL_PACKAGES = {"cloudops", "consoles", "placement", "scaling", "tests", "bench", "docs"}


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return [Path(name) for name in listed.stdout.split("\0") if name]


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return dict(found)


def test_development_pins_everything_that_runs() -> None:
    """script/lib.sh takes an installed requirements-dev.txt for an installed requirements.txt."""
    running = pins("requirements.txt")
    assert len(running) > 20
    assert running.items() <= pins("requirements-dev.txt").items()


def test_every_pin_has_a_hash() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        entries = re.split(r"^(?=[A-Za-z0-9_.-]+(?:\[[^\]]*\])?==)", (ROOT / name).read_text(), flags=re.MULTILINE)
        without = [entry.split()[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry]
        assert without == [], name


def test_python_lives_in_known_packages_and_the_import_rules_cover_them() -> None:
    folders = {path.parts[0] for path in tracked_files() if path.suffix == ".py" and len(path.parts) > 1}
    assert folders <= TOP_LEVEL_PACKAGES
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    covered = set(rules["importlinter"]["root_packages"].split())
    assert folders - {"tests", "bench", "docs"} <= covered


def test_commands_can_be_run() -> None:
    commands = [path for path in tracked_files() if path.parts[0] in {"script", ".ci"} and path.suffix == ""]
    assert {"demo", "test", "lock", "run"} <= {path.name for path in commands}
    for path in commands:
        assert os.access(ROOT / path, os.X_OK), path
        assert (ROOT / path).read_text().startswith("#!"), path


def test_shell_scripts_parse() -> None:
    for path in [ROOT / "script/lib.sh", ROOT / "script/demo", ROOT / "script/test", ROOT / ".ci/run"]:
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    done = subprocess.run(["script/test", "units"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "units is not a part. Parts: lint migrations frontend types unit postgres real moves e2e" in done.stderr


SKIPS_ONE_BY_ONE = """
import pytest

from tests.longest_first import LONGEST, to_the_front
@pytest.mark.real
def test_hypervisor(): pytest.skip("no hypervisor here")
@pytest.mark.e2e
def test_browser(): pytest.skip("no browser here")
def test_other(): pytest.skip("not real, may be skipped")
"""


@pytest.mark.parametrize(
    ("strict", "outcome"), [({"CI": "true"}, "2 failed, 1 skipped, 1 error"), ({}, "4 skipped")], ids=["strict", "lax"]
)
def test_a_skipped_real_part_fails_a_strict_run(tmp_path: Path, strict: dict[str, str], outcome: str) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_one_by_one.py").write_text(SKIPS_ONE_BY_ONE)
    (tmp_path / "test_as_a_whole.py").write_text("import pytest\npytest.skip('all', allow_module_level=True)\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command += [f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    clean = {name: value for name, value in os.environ.items() if name not in {"CI", "CLOUDOPS_STRICT"}}
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, **strict}, capture_output=True, text=True, check=False, timeout=110
    )
    assert outcome in done.stdout.splitlines()[-1]
    assert (done.returncode == 0) is (not strict)


def test_the_longest_files_are_there_and_given_out_first() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
    waiting: OrderedDict[str, None] = OrderedDict.fromkeys(["tests/short.py", LONGEST[2], LONGEST[0]])
    to_the_front(waiting)
    assert list(waiting) == [LONGEST[0], LONGEST[2], "tests/short.py"]


def test_the_demo_names_a_taken_port_and_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "cloudops.lab.demo", "--no-guests", f"--port={port}", f"--state={tmp_path}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in done.stderr
    assert f"Remedy: script/demo --port {port + 1}" in done.stderr
