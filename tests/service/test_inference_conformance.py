"""The stock tritonclient cannot tell that this is not the server it was written for."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import PATIENCE, server_process

pytestmark = [
    pytest.mark.usefixtures("front"),
    pytest.mark.skipif(
        find_spec("tritonclient") is None, reason="tritonclient is not installed: make setup"
    ),
]

ROOT = Path(__file__).resolve().parents[2]


def test_every_method_through_tritonclient(models: Path) -> None:
    with server_process(models, "--shared-memory", "--log-settings") as server:
        command = [sys.executable, "-m", "tests.service.triton_client", server.grpc_address]
        result = subprocess.run(
            command,
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
    assert result.returncode == 0, result.stderr
