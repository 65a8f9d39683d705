"""A virtual environment for each peer, made when it is first needed, under .cache/peers."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from benchmarks.processes import ROOT

FOLDER = ROOT / ".cache" / "peers"
# The same work for everybody.
COMMON = (f"onnxruntime=={onnxruntime.__version__}", f"pillow=={version('pillow')}")
INSTALL_SECONDS = 900
# Written last: what an environment has.
NOTE = "installed.txt"


class Unavailable(Exception):
    """A peer that cannot be had on this machine; says why."""


def installed(name: str, packages: tuple[str, ...]) -> Path | None:
    """The interpreter of the environment that has these packages; None where it is not made yet."""
    folder = FOLDER.resolve() / name
    note = folder / NOTE
    made = note.exists() and note.read_text() == _wanted(packages)
    return folder / "bin" / "python" if made else None


def python_of(name: str, packages: tuple[str, ...]) -> Path:
    """The interpreter of the environment that has these packages, made where it is missing.

    Raises: Unavailable.
    """
    if found := installed(name, packages):
        return found
    folder, wanted = FOLDER.resolve() / name, _wanted(packages)
    python = folder / "bin" / "python"
    print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    try:
        subprocess.run(
            (*pip, *wanted.split("\n")),
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"pip: {error.stderr.strip().splitlines()[-1]}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip took more than {INSTALL_SECONDS} s") from None
    (folder / NOTE).write_text(wanted)
    return python


def _wanted(packages: tuple[str, ...]) -> str:
    return "\n".join((*COMMON, *packages))


def version_of(python: Path, package: str) -> str:
    """The version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        (python, "-c", code), check=True, capture_output=True, text=True
    ).stdout.strip()
