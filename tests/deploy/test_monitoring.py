"""Debian's Prometheus, on the very configuration that is shipped, against the real service."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from convoy.bundle import Baseline
from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid
from tests.deploy.conftest import alert_expressions, panel_expressions
from tests.deploy.prometheus import Prometheus, running_prometheus
from tests.servers import Running, server_process

pytestmark = pytest.mark.slow

# A metric with its label matchers; labels to group by, which may look like one, are cut out first.
_GROUPING = re.compile(r"\bby \([^)]*\)")
_SELECTOR = re.compile(r"\b(?:(?:convoy|grpc|process|python)_\w+|up\b)(?:\{[^}]*\})?")


@pytest.fixture(scope="module")
def prometheus(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped the service before and after some calls: good, bad and failing."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is missing: install Debian's package prometheus")
    work = tmp_path_factory.mktemp("monitoring")
    make_bundle(work / "models", flaw="nan-on-black", baseline=baseline())
    with (
        server_process(work / "models") as server,
        running_prometheus(root / "deploy/prometheus", work, server.http_address) as running,
    ):
        running.wait_until("a first scrape", lambda: bool(running.query("convoy_ready == 1")))
        send_requests(server)
        refused = 'convoy_rejected_total{reason="not_found"} > 0'
        running.wait_until("a scrape since", lambda: bool(running.query(refused)))
        yield running


def baseline() -> Baseline:
    """Of a model whose every answer is a sure "red"."""
    confidence_shares = (0.0,) * 19 + (1.0,)
    return Baseline(split="test", class_shares=(1.0, 0.0, 0.0), confidence_shares=confidence_shares)


def send_requests(server: Running) -> None:
    """Single, streamed, refused, and one on which the model breaks its contract."""
    good = request(solid("red"))
    many = pb.ClassifyRequest(images=good.images[:1] * 256)  # drift shows after 1,000 predictions
    with server.stub() as stub:
        for _ in range(20):
            stub.Classify(good)
        for _ in range(4):
            stub.Classify(many)
        assert len(list(stub.ClassifyStream(iter([good] * 5)))) == 5
        for bad, code in (
            (request(b"no image"), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.ClassifyRequest(model="nobody", images=good.images), grpc.StatusCode.NOT_FOUND),
            (request(solid("black")), grpc.StatusCode.INTERNAL),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                stub.Classify(bad)
            assert failure.value.code() is code


def request(image: bytes) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(images=[pb.Image(encoded=image)])


def test_target_is_up(prometheus: Prometheus) -> None:
    (target,) = prometheus.get("targets")["activeTargets"]
    assert target["health"] == "up"
    assert target["labels"]["job"] == "convoy"


def test_every_series_that_is_used_is_there(
    prometheus: Prometheus, expressions: dict[str, str]
) -> None:
    used = {
        selector: where
        for where, expression in expressions.items()
        for selector in _SELECTOR.findall(_GROUPING.sub("", expression))
    }
    assert len(used) > 20
    absent = {selector: at for selector, at in used.items() if not prometheus.query(selector)}
    assert not absent


def test_every_panel_shows_something(prometheus: Prometheus) -> None:
    panels = panel_expressions()
    assert [at for at, expression in panels.items() if not prometheus.query(expression)] == []


def test_every_alert_is_loaded_and_evaluated(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in prometheus.rules())

    prometheus.wait_until("an evaluation of every rule", evaluated)
    rules = {rule["name"]: rule for rule in prometheus.rules()}
    assert set(rules) == {where.split()[-1] for where in alert_expressions()}
    assert {rule.get("lastError", "") for rule in rules.values()} == {""}


def test_only_the_internal_error_raises_an_alert(prometheus: Prometheus) -> None:
    def active() -> set[str]:
        return {rule["name"] for rule in prometheus.rules() if rule["state"] != "inactive"}

    prometheus.wait_until("an alert", lambda: bool(active()))
    assert active() == {"ConvoyInternalErrors"}
