"""The real perf_analyzer, Triton's load generator, runs against the service and reports.

docs/protocol.md says how to get it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import PATIENCE, Running, server_process
from tests.service.rest import rest_addresses

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "perf_analyzer"
PROGRAM = shutil.which("perf_analyzer", path=f"{FOLDER}{os.pathsep}{os.environ['PATH']}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason=f"no perf_analyzer on the path or in {FOLDER}"),
]

# What the report of a run says, with the server's own figures.
REPORT = (
    r"Throughput: [1-9][\d.]* infer/sec",
    r"p99 latency: \d+ usec",
    r"Inference count: [1-9]\d*",
    r"Execution count: [1-9]\d*",
    r"Avg request latency: \d+ usec \(overhead \d+ usec \+ queue \d+ usec "
    r"\+ compute input \d+ usec \+ compute infer \d+ usec \+ compute output \d+ usec\)",
    r"Inferences/Second vs. Client Average Batch Latency\nConcurrency: 2, throughput: [1-9]",
)


def report(address: str, *options: str) -> str:
    libraries = f"{FOLDER}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"
    command = [str(PROGRAM), "-m", "tiny", "-u", address, "--concurrency-range", "2", *options]
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", "50"]
    result = subprocess.run(
        # The figures of so short a run are of no interest: any may be the last.
        [*command, "--max-trials", "3", "--stability-percentage", "1000"],
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        check=False,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("memory", ["none", "system"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_prints_a_full_report(models: Path, front: str, protocol: str, memory: str) -> None:
    with server_process(models, "--shared-memory") as server:
        for address in addresses(server, front, protocol):
            text = report(address, "-i", protocol, "--shared-memory", memory, "-b", "2")
            for pattern in REPORT:
                assert re.search(pattern, text), f"no {pattern} in {text}"


def addresses(server: Running, front: str, protocol: str) -> list[str]:
    return rest_addresses(server, front) if protocol == "http" else [server.grpc_address]
