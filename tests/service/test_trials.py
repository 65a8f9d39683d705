"""Challengers: canaries that answer a share of the requests, shadows that are shown them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from service.models_file import Challenger
from service.oip import grpc_service_pb2 as oip
from service.repository import place
from service.trials import LEAST_REQUESTS, WINDOW, Tally, Trial
from tests.bundles import make_bundle
from tests.servers import PATIENCE, Running, running_server
from tests.service.inference import inference_stub

REQUESTS = 20_000
BLACK = pb.Image(pixels=pb.Pixels(height=8, width=8, channels=3, data=bytes(192)))
RED = pb.Image(pixels=pb.Pixels(height=8, width=8, channels=3, data=bytes([255, 0, 0] * 64)))


def start_trial(models: Path, terms: str, *, gain: float = 5.0, flaw: bool = False) -> None:
    """Write version 1, and version 2 as its challenger."""
    make_bundle(models, version=1, size=8)
    make_bundle(models, version=2, size=8, gain=gain, flaw="nan-on-black" if flaw else None)
    (models / "models.toml").write_text(f"[tiny.challenger]\nversion = 2\n{terms}\n")


def answered(server: Running, requests: Iterator[pb.ClassifyRequest]) -> Counter[int]:
    """How many of the requests of a stream each version answered; 0 stands for errors."""
    with server.stub() as stub:
        responses = stub.ClassifyStream(requests, timeout=2 * PATIENCE)
        return Counter(one.response.version for one in responses)


def requests(count: int, image: pb.Image = RED, key: str = "") -> Iterator[pb.ClassifyRequest]:
    """As many requests with one image each."""
    return (pb.ClassifyRequest(images=[image], top_k=1, routing_key=key) for _ in range(count))


def test_a_canary_gets_its_share(tmp_path: Path, front: str) -> None:
    start_trial(tmp_path, "share = 0.1\nmax_slowdown = 1000.0")
    with running_server(tmp_path, front=front) as server:
        counts = answered(server, requests(REQUESTS))
    assert counts.keys() == {1, 2}
    assert 0.09 < counts[2] / REQUESTS < 0.11


def test_the_same_key_goes_the_same_way(tmp_path: Path) -> None:
    start_trial(tmp_path, "share = 0.5\nmax_slowdown = 1000.0")
    with running_server(tmp_path) as server:
        ways = [answered(server, requests(20, key=f"user-{one}")) for one in range(40)]
        assert all(len(way) == 1 for way in ways)
        assert len({next(iter(way)) for way in ways}) == 2


def test_the_id_is_the_key_of_the_open_inference_protocol(tmp_path: Path) -> None:
    start_trial(tmp_path, "share = 0.5\nmax_slowdown = 1000.0")
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=[1, 8, 8, 3]
    )
    with running_server(tmp_path) as server, inference_stub(server) as stub:
        ways = set()
        for user in map(str, range(40)):
            request = oip.ModelInferRequest(
                model_name="tiny", id=user, inputs=[tensor], raw_input_contents=[bytes(192)]
            )
            versions = {stub.ModelInfer(request, timeout=PATIENCE).model_version for _ in range(5)}
            assert len(versions) == 1
            ways |= versions
    assert ways == {"1", "2"}


def test_who_names_a_version_gets_it(tmp_path: Path) -> None:
    start_trial(tmp_path, "share = 1.0\nmax_slowdown = 1000.0")
    with running_server(tmp_path) as server, server.stub() as stub:
        for version in (1, 2):
            request = pb.ClassifyRequest(images=[RED], version=version)
            assert stub.Classify(request, timeout=PATIENCE).version == version
        models = stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models
        assert [one.role for one in models] == [pb.ROLE_LIVE, pb.ROLE_CANARY]


def test_labels_name_versions(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1, size=8)
    make_bundle(tmp_path, version=2, size=8)
    (tmp_path / "models.toml").write_text("[tiny]\nlabels = {stable = 1, next = 2}\n")
    with running_server(tmp_path) as server, server.stub() as stub:
        for label, version in (("stable", 1), ("next", 2), ("", 1)):
            request = pb.ClassifyRequest(images=[RED], version_label=label)
            assert stub.Classify(request, timeout=PATIENCE).version == version
        with pytest.raises(grpc.RpcError, match="label 'other': not found"):
            stub.Classify(pb.ClassifyRequest(images=[RED], version_label="other"), timeout=PATIENCE)
        both = pb.ClassifyRequest(images=[RED], version=1, version_label="stable")
        with pytest.raises(grpc.RpcError, match="beside version 1"):
            stub.Classify(both, timeout=PATIENCE)


def test_a_canary_that_fails_is_taken_out(tmp_path: Path, front: str) -> None:
    start_trial(tmp_path, "share = 0.5", flaw=True)
    with running_server(tmp_path, front=front) as server:
        counts = answered(server, requests(6 * LEAST_REQUESTS, BLACK))
        assert counts[0] > LEAST_REQUESTS
        server.wait_for_metric(1, "convoy_challengers_ended_total", model="tiny")
        assert answered(server, requests(50, BLACK)) == {1: 50}
        assert server.metric("convoy_challenger", model="tiny") == 0


def test_a_shadow_answers_nobody(tmp_path: Path, front: str) -> None:
    start_trial(tmp_path, 'mode = "shadow"\nshare = 1.0')
    with running_server(tmp_path, front=front) as server:
        assert answered(server, requests(1)) == {1: 1}
        server.wait_for_metric(1, "convoy_shadow_compared_total", version="2")
        assert server.metric("convoy_shadow_agreed_total", version="2") == 1
        # Softmax of (10, 0, 0) and of (5, 0, 0).
        distance = server.metric("convoy_shadow_distance_sum", version="2")
        assert distance == pytest.approx(0.01321, abs=1e-4)
        assert server.metric("convoy_images_total", version="2") == 0


def test_a_shadow_that_fails_hurts_nobody(tmp_path: Path) -> None:
    start_trial(tmp_path, 'mode = "shadow"\nshare = 1.0', flaw=True)
    with running_server(tmp_path) as server:
        assert answered(server, requests(3, BLACK)) == {1: 3}
        server.wait_for_metric(1, "convoy_challenger", mode="shadow")
        assert server.metric("convoy_failed_total", reason="model") == 0


def test_shares_are_met_and_keys_are_spread() -> None:
    places = np.array([place("tiny", f"user-{one}") for one in range(REQUESTS)])
    assert np.histogram(places, bins=10, range=(0, 1))[0] == pytest.approx(REQUESTS / 10, rel=0.06)
    assert place("tiny", "user-1") == places[1] != place("other", "user-1")


TERMS = Challenger(version=2, max_error_rate=0.1, max_slowdown=2.0)
NONE = Tally(0, 0, 0.0)


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        (Tally(LEAST_REQUESTS - 1, LEAST_REQUESTS - 1, 0.0), ""),
        (Tally(100, 10, 90.0), ""),
        (Tally(100, 11, 89.0), "11.0% of 100 requests failed, max_error_rate is 10.0%"),
        (Tally(100, 0, 200.0), ""),
        (Tally(100, 0, 210.0), "took 2.1 times as long"),
    ],
)
def test_what_ends_a_trial(canary: Tally, reason: str) -> None:
    trial = Trial(TERMS)
    assert not trial.look(NONE, NONE)
    said = trial.look(Tally(1000, 0, 1000.0), canary)
    assert reason in said
    assert bool(said) == bool(reason)


def late(requests: int, late: int) -> Tally:
    """Of requests that took a tenth of a second each, so many passed their deadline."""
    return Tally(requests, 0, (requests - late) / 10, late=late)


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        (late(1000, 0), "100.0% of 200 requests failed (100.0% late, more than of the champion)"),
        (late(1000, 870), "13.0% of 200 requests failed (13.0% late"),
        (late(1000, 1000), ""),
    ],
)
def test_a_canary_that_is_late_where_the_champion_is_not(champion: Tally, reason: str) -> None:
    trial = Trial(TERMS)
    trial.look(NONE, NONE)
    assert trial.look(champion, late(200, 200)).startswith(reason)


def test_a_champion_without_requests_is_as_fast_as_it_was() -> None:
    trial = Trial(TERMS)
    before = Tally(1000, 0, 100.0)
    trial.look(before, NONE)
    assert "took 10.0 times as long" in trial.look(before, Tally(100, 0, 100.0))
    one_slow = Tally(1001, 0, 110.0)
    assert "took 9.1 times as long" in trial.look(one_slow, Tally(100, 0, 100.0))


def test_a_champion_is_not_faster_for_what_it_remembers() -> None:
    trial = Trial(TERMS)
    trial.look(NONE, NONE)
    assert not trial.look(Tally(1000, 0, 100.0, remembered=900), Tally(100, 0, 100.0))


def test_only_the_last_minute_counts() -> None:
    trial = Trial(TERMS)
    trial.look(NONE, NONE)
    bad = Tally(LEAST_REQUESTS, LEAST_REQUESTS, 0.0)
    assert trial.look(NONE, bad)
    for _ in range(WINDOW - 1):
        trial.look(NONE, bad)
    assert not trial.look(NONE, bad)
