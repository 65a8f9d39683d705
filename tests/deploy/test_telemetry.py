"""Nothing that runs here reports to anybody: ONNX Runtime would, by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["service", "training", "benchmarks"])
def test_onnx_runtime_keeps_no_record_to_send(package: str, root: Path, tmp_path: Path) -> None:
    silent = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}  # each would hide a mistake
    environment = {name: value for name, value in os.environ.items() if name not in silent}
    subprocess.run(
        [sys.executable, "-c", f"import {package}, onnxruntime"],
        env=environment | {"HOME": str(tmp_path)},
        cwd=root,
        check=True,
    )
    assert list(tmp_path.rglob("*")) == []
