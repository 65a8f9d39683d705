"""Runs every example of docs/client.md against the real service."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.conftest import ROOT
from tests.servers import server_process

TEXT = (ROOT / "docs" / "client.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^\$ convoy (.*)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    with server_process(models) as running:
        yield running.grpc_address


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder to run in, with the photos under photos/."""
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "photos")
    return tmp_path


def run(command: list[str], folder: Path, target: str) -> str:
    environment = {"CONVOY_SERVER": target, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_there_are_examples():
    assert len(PROGRAMS) >= 5
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program, photos, target):
    program = program.replace("127.0.0.1:8500", target)
    assert run([sys.executable, "-W", "error", "-c", program], photos, target)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, photos, target):
    convoy = str(Path(sys.executable).parent / "convoy")
    assert run([convoy, *shlex.split(command)], photos, target)
