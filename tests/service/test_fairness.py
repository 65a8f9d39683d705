"""Two models on one device: a flood of one leaves the other its turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, running_server, server_process

pytestmark = pytest.mark.usefixtures("front")

RED, BLACK = solid("red"), solid("black")
SLOW_TO_DECODE = solid("red", 1500)


def request(model: str, *images: bytes) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model=model, images=[pb.Image(encoded=one) for one in images])


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    make_bundle(folder, "flooded", flaw="hangs-on-black")
    make_bundle(folder, "other")
    return folder


def test_images_of_a_flooded_model_leave_others_their_turn(two_models: Path) -> None:
    with running_server(two_models, decode_processes=1) as server, server.stub() as stub:
        flood = [
            stub.Classify.future(request("flooded", *[SLOW_TO_DECODE] * 40), timeout=PATIENCE)
            for _ in range(3)
        ]
        server.wait_for_metric(len(flood), "convoy_requests_in_flight")
        assert stub.Classify(request("other", RED), timeout=PATIENCE).model == "other"
        assert not flood[1].done()
        assert all(call.result(PATIENCE).model == "flooded" for call in flood)


def test_a_model_that_computes_for_ever_holds_up_no_other(two_models: Path) -> None:
    with server_process(two_models) as server, server.stub() as stub:
        flood = [stub.Classify.future(request("flooded", BLACK)) for _ in range(40)]
        server.wait_for_metric(len(flood), "convoy_requests_in_flight")
        assert stub.Classify(request("other", RED), timeout=PATIENCE).model == "other"
        assert not any(call.done() for call in flood)
