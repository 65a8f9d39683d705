"""The stock tritonclient over HTTP cannot tell that this is not the server it was written for."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import PATIENCE, server_process
from tests.service.rest import rest_addresses

pytestmark = pytest.mark.skipif(
    find_spec("tritonclient") is None or find_spec("geventhttpclient") is None,
    reason="tritonclient or geventhttpclient is not installed: make setup",
)

ROOT = Path(__file__).resolve().parents[2]


def run_client(address: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.service.triton_http_client", address],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert result.returncode == 0, result.stderr


def test_every_call_through_tritonclient(models: Path, front: str) -> None:
    with server_process(models, "--shared-memory", "--log-settings") as server:
        for address in rest_addresses(server, front):
            run_client(address)
