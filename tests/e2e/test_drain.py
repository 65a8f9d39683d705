"""SIGTERM under load: nothing that was accepted is lost."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import grpc
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, server_process

pytestmark = pytest.mark.usefixtures("front")

REQUEST = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red"))] * 4)
CALLERS = 8


def test_under_load_every_call_is_answered_or_was_never_accepted(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    codes: list[str] = []
    warm = threading.Semaphore(0)

    def call_until_cut_off(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            classify = channel.unary_unary(
                "/convoy.v1.ImageClassifier/Classify",
                pb.ClassifyRequest.SerializeToString,
                pb.ClassifyResponse.FromString,
            )
            while True:
                try:
                    assert len(classify(REQUEST, timeout=PATIENCE).predictions) == 4
                    codes.append("OK")
                    warm.release()
                except grpc.RpcError as error:
                    codes.append(error.code().name)
                    if error.details() != "the service is stopping":
                        return  # the connection itself is gone

    with server_process(tmp_path) as server:
        callers = [
            threading.Thread(target=call_until_cut_off, args=(server.grpc_address,))
            for _ in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        for _ in range(10 * CALLERS):
            assert warm.acquire(timeout=PATIENCE)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        for caller in callers:
            caller.join(PATIENCE)
    assert codes.count("OK") >= 10 * CALLERS
    assert set(codes) == {"OK", "UNAVAILABLE"}
