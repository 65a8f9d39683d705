"""The response cache of a running service, through every protocol, on both fronts."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import model_control_pb2, model_control_pb2_grpc
from service.oip import grpc_service_pb2 as oip
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, TOKEN, Running, running_server
from tests.service.inference import (
    files_request,
    inference_stub,
    pixels_request,
    probabilities,
    typed_request,
)

pytestmark = pytest.mark.usefixtures("front")

ON = {"response_cache_bytes": 2**20}
# Batches of two, and nothing runs before they are full.
PAIRS = {**ON, "max_delay_ms": 10_000, "max_batch_size": 2}


def request(*colours: str, **fields: object) -> pb.ClassifyRequest:
    images = [pb.Image(encoded=solid(colour)) for colour in colours]
    return pb.ClassifyRequest(images=images, model="tiny", **fields)


def predictions(reply: pb.ClassifyResponse) -> list[bytes]:
    return [one.SerializeToString() for one in reply.predictions]


def counted(server: Running, **labels: str) -> tuple[float, ...]:
    """Images that were hits, that others computed, and misses."""
    name = "convoy_response_cache_images_total"
    results = ("hit", "coalesced", "miss")
    return tuple(server.metric(name, result=result, **labels) for result in results)


def computed(server: Running) -> float:
    return server.metric("convoy_batch_size_sum")


def test_it_is_off_by_default(server: Running) -> None:
    before = computed(server)
    with server.stub() as stub:
        stub.Classify(request("red"))
        stub.Classify(request("red"))
    assert computed(server) == before + 2
    assert counted(server) == (0, 0, 0)


def test_only_new_images_of_a_request_are_computed(models: Path) -> None:
    colours = ("red", "lime", "blue", "white", "gray")
    more = ("red", "teal", "lime", "blue", "navy", "white", "gray", "pink")
    with running_server(models, **ON) as server, server.stub() as stub:
        first = stub.Classify(request(*colours))
        both = stub.Classify(request(*more))
        again = stub.Classify(request(*more, top_k=1))
        assert computed(server) == 8
        assert counted(server) == (5 + 8, 0, 8)
        known = dict(zip(more, predictions(both), strict=True))
        assert predictions(first) == [known[colour] for colour in colours]
        assert [one.classes[0].label for one in again.predictions] == [
            one.classes[0].label for one in both.predictions
        ]
        timings = again.timings
        assert (timings.decode_us, timings.queue_us, timings.compute_us) == (0, 0, 0)
        assert server.metric("convoy_stage_seconds_count", stage="answer") == 3
        assert server.metric("convoy_response_cache_entries") == 8
        assert 0 < server.metric("convoy_response_cache_bytes") <= 2**20
    with running_server(models) as server, server.stub() as stub:
        assert predictions(stub.Classify(request(*more))) == predictions(both)


def test_all_protocols_share_it_and_pixels_are_no_files(models: Path) -> None:
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, ..., 0] = 255
    with (
        running_server(models, **ON) as server,
        server.stub() as stub,
        inference_stub(server) as inference,
    ):
        stub.Classify(request("red"))
        file = probabilities(inference.ModelInfer(files_request(solid("red"))))
        assert counted(server) == (1, 0, 1)
        raw = probabilities(inference.ModelInfer(pixels_request(pixels)))
        assert counted(server) == (1, 0, 3)
        typed = probabilities(inference.ModelInfer(typed_request(pixels)))
        assert counted(server) == (3, 0, 3)
        np.testing.assert_array_equal(raw, typed)
        np.testing.assert_allclose(raw[:1], file, atol=1e-6)
        about = oip.ModelConfigRequest(name="tiny")
        assert inference.ModelConfig(about).config.response_cache.enable
        (one,) = inference.ModelStatistics(oip.ModelStatisticsRequest(name="tiny")).model_stats
        stats = one.inference_stats
        assert (stats.cache_hit.count, stats.cache_miss.count) == (3, 3)
        assert stats.cache_hit.ns > 0
        assert stats.cache_miss.ns > 0


def test_a_bad_image_is_named_by_its_place_and_not_remembered(models: Path) -> None:
    bad = request("red", "lime")
    bad.images.add(encoded=b"no image")
    with running_server(models, **ON) as server, server.stub() as stub:
        stub.Classify(request("red"))
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match=r"images\[2\]") as failure:
                stub.Classify(bad)
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert server.metric("convoy_response_cache_entries") == 1


def test_the_same_image_in_flight_is_computed_once(models: Path) -> None:
    with running_server(models, **PAIRS) as server, server.stub() as stub:
        first = stub.Classify.future(request("red"), timeout=PATIENCE)
        server.wait_for_metric(1, "convoy_queue_depth")
        others = [stub.Classify.future(request("red"), timeout=PATIENCE) for _ in range(3)]
        server.wait_for_metric(3, "convoy_response_cache_images_total", result="coalesced")
        last = stub.Classify.future(request("lime", "red"), timeout=PATIENCE)
        replies = [one.result() for one in (first, *others, last)]
        assert computed(server) == 2
        assert {predictions(one)[-1] for one in replies} == {predictions(replies[0])[0]}
        assert counted(server) == (0, 4, 2)


def test_another_takes_over_from_one_that_leaves(models: Path) -> None:
    with running_server(models, **PAIRS) as server, server.stub() as stub:
        first = stub.Classify.future(request("red"), timeout=PATIENCE)
        server.wait_for_metric(1, "convoy_queue_depth")
        second = stub.Classify.future(request("red"), timeout=PATIENCE)
        server.wait_for_metric(1, "convoy_response_cache_images_total", result="coalesced")
        first.cancel()
        server.wait_for_metric(1, "convoy_dropped_total", reason="cancelled")
        server.wait_for_metric(1, "convoy_queue_depth")
        other = stub.Classify(request("lime"), timeout=PATIENCE)
        assert predictions(second.result()) != predictions(other)
        assert computed(server) == 2


def test_versions_are_not_mixed_and_a_gone_model_is_forgotten(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    make_bundle(tmp_path, version=2, gain=1.0)
    (tmp_path / "models.toml").write_text('[tiny]\nversions = "all"')
    with (
        running_server(tmp_path, control_token=TOKEN, **ON) as server,
        server.stub() as stub,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        answers = {
            version: [stub.Classify(request("red", version=version)) for _ in range(2)]
            for version in (1, 2)
        }
        for version, (fresh, cached) in answers.items():
            assert cached.version == version
            assert predictions(fresh) == predictions(cached)
            assert counted(server, version=str(version)) == (1, 0, 1)
        assert predictions(answers[1][0]) != predictions(answers[2][0])
        assert server.metric("convoy_response_cache_entries") == 2
        model_control_pb2_grpc.ModelControlStub(channel).Unload(
            model_control_pb2.UnloadRequest(model="tiny"),
            metadata=(("authorization", f"Bearer {TOKEN}"),),
            timeout=PATIENCE,
        )
        server.wait_for_metric(0, "convoy_response_cache_entries")
        assert server.metric("convoy_response_cache_bytes") == 0
