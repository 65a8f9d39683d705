"""Envoy's own figures, for the registry of the process it runs in."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable
from urllib.parse import quote

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

# Of some hundred: connections, requests, resets, bytes, and what Envoy refused by its limits.
WANTED = r"^(http\.ingress_http\.downstream_(cx|rq|flow)|listener_manager|overload|http2\.)"
HISTOGRAM = "histogram"
SECONDS = 1.0


class EnvoyStatistics(Collector):
    """Asks Envoy's admin interface, which listens at a path of the file system, at each scrape."""

    def __init__(self, path: str) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        """Envoy's counters and gauges; none where it does not answer."""
        try:
            text = self._text()
        except (OSError, http.client.HTTPException):
            return
        for family in text_string_to_metric_families(text):
            if family.type != HISTOGRAM:
                family.documentation = "See the statistics of HTTP in Envoy's documentation."
                yield family

    def _text(self) -> str:
        connection = _Connection("envoy", timeout=SECONDS)
        connection.path = self._path
        try:
            connection.request("GET", f"/stats/prometheus?filter={quote(WANTED)}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    path: str

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
