"""Fixtures that more than one part of the tests needs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convoy.processors import processor_count
from service.compiled import is_compiled
from service.fronts import envoy
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
FRONTS = ["grpcio", "envoy"]
PACKED = Path(os.environ.get("CONVOY_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Guards `make test-compiled` against testing the wrong modules."""
    parser.addoption("--compiled", action="store_true", help="the service must be compiled")


def pytest_configure(config: pytest.Config) -> None:
    """Stop where what is asked for is not what would be tested."""
    if config.getoption("--compiled") and not is_compiled():
        raise pytest.UsageError("--compiled: the service is interpreted; see `make test-compiled`")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A container may have fewer processors than its machine, which is all that xdist looks at.

    One process more than that: tests wait a third of their time, for servers to start or drain.
    """
    return processor_count() + 1


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded photos of the tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CONVOY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data sets, unpacked once into the ignored cache; its README says what is there."""
    if not (PACKED / "unpack.py").is_file():
        pytest.skip(f"no data in {PACKED}: set CONVOY_DATA to the folder that holds unpack.py")
    cache = ROOT / ".cache" / "data"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes
        subprocess.run([sys.executable, PACKED / "unpack.py", cache], check=True)
    return cache


@pytest.fixture(scope="session")
def odd_images() -> Path:
    """The folder of odd image files with their manifest.csv."""
    if not (PACKED / "odd-images").is_dir():
        pytest.skip(f"no odd-images in {PACKED}: set CONVOY_DATA")
    return PACKED / "odd-images"


@pytest.fixture(scope="session", params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    """Every server that the test starts runs with each front in turn."""
    if request.param == "envoy" and (reason := envoy.why_not(Settings())) is not None:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(autouse=True)
def front_of_a_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixtures of a wider scope than a test name the front themselves."""
    if "front" in request.fixturenames:
        monkeypatch.setenv("CONVOY_FRONT", request.getfixturevalue("front"))
