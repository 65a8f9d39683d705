"""Runs Debian's Prometheus on this repository's configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

PATIENCE = 60.0
_PORT = re.compile(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API of a running Prometheus."""

    port: int

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer. Raises: urllib.error.HTTPError where the query is refused."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
            return json.load(reply)["data"]

    def ready(self) -> bool:
        """Whether its storage is open; until then it refuses queries."""
        try:
            urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/-/ready", timeout=PATIENCE
            ).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        return True

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        return list(self.get("query", query=expression)["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health and state."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def wait_until(self, what: str, holds: Callable[[], bool]) -> None:
        """Ask again and again until it holds."""
        deadline = monotonic() + PATIENCE
        while not holds():
            assert monotonic() < deadline, f"never happened: {what}"
            sleep(0.1)


@contextmanager
def running_prometheus(configuration: Path, work: Path, target: str) -> Iterator[Prometheus]:
    """Run it on a copy of `configuration`, of which only the list of targets is replaced."""
    copy = work / "prometheus"
    shutil.copytree(configuration, copy)
    for file in (copy / "targets").iterdir():
        file.unlink()
    (copy / "targets" / "test.json").write_text(json.dumps([{"targets": [target]}]))
    command = [
        "prometheus",
        f"--config.file={copy / 'prometheus.yml'}",
        f"--storage.tsdb.path={work / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = work / "log"
    with log.open("w") as out, subprocess.Popen(command, stderr=out, stdin=-3) as process:
        try:
            running = Prometheus(_wait_for_port(log, process))
            running.wait_until("ready to answer", running.ready)
            yield running
        finally:
            process.kill()


def _wait_for_port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = monotonic() + PATIENCE
    while (found := _PORT.search(log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert monotonic() < deadline, log.read_text()
        sleep(0.1)
    return int(found[1])
