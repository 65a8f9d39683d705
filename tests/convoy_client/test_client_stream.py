from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest

import convoy
from convoy.v1 import image_classifier_pb2 as pb
from tests.convoy_client.fake import FakeServer, Refusal

BATCHING = convoy.Batching(images_per_call=8, calls_in_flight=3)


def labels(outcomes: Iterator[convoy.Result | convoy.ClientError]) -> list[str]:
    return [one.label if isinstance(one, convoy.Result) else str(one) for one in outcomes]


def test_order_and_errors_in_their_place(client, server):
    images = [b"1", b"bad", b"2", "/no/such.jpg", b"nan", b"3"]
    assert labels(client.classify_stream(images)) == [
        "class1",
        "images[1]: not an image",
        "class2",
        "/no/such.jpg: No such file or directory",
        "images[4]: internal error",
        "class3",
    ]


def test_bad_images_cost_only_their_own_call(server: FakeServer):
    with convoy.ImageClient(server.target, batching=BATCHING) as client:
        images = [b"bad" if number == 10 else b"%d" % number for number in range(24)]
        outcomes = labels(client.classify_stream(images))
    assert outcomes[10] == "images[10]: not an image"
    assert outcomes[:10] + outcomes[11:] == [f"class{n % 10}" for n in range(24) if n != 10]
    assert sorted(server.sizes) == [7, 8, 8, 8]


def test_several_bad_images_in_a_call_fail_alone(server: FakeServer):
    images = [b"bad" if number in (2, 5) else b"%d" % number for number in range(8)]
    with convoy.ImageClient(server.target, batching=BATCHING) as client:
        outcomes = labels(client.classify_stream(images))
    assert [number for number, one in enumerate(outcomes) if one[:5] != "class"] == [2, 5]
    assert outcomes[5] == "images[5]: not an image"


def test_server_that_takes_fewer_images_a_call_is_learnt(server: FakeServer):
    answer = server.answer

    def strict(request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        if len(request.images) > 4:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "images: 8, must be 1 to 4")
        return answer(request)

    server.answer = strict
    batching = convoy.Batching(images_per_call=8, calls_in_flight=1)
    with convoy.ImageClient(server.target, batching=batching) as client:
        outcomes = labels(client.classify_stream([b"1"] * 40))
    assert outcomes == ["class1"] * 40
    assert server.sizes == [8] + [1] * 8 + [4] * 8


def test_failing_server_is_not_asked_for_each_image(server: FakeServer):
    server.refuse("INTERNAL", "the network gave NaN", times=100)
    with convoy.ImageClient(server.target, batching=BATCHING) as client:
        outcomes = list(client.classify_stream([b"1"] * 8))
    assert [one.index for one in outcomes] == list(range(8))
    assert {one.detail for one in outcomes} == {"the network gave NaN"}
    assert server.sizes == [8, 1, 1]


@pytest.mark.parametrize("images", [1, 8], ids=["one", "many"])
def test_what_is_wrong_whatever_the_images_are_is_raised(server: FakeServer, images):
    refused = pytest.raises(convoy.InvalidRequest, match=r"^top_k: 99, must be 0 to 10$")
    with convoy.ImageClient(server.target, batching=BATCHING) as client, refused as caught:
        list(client.classify_stream([b"1"] * images, top_k=99))
    assert caught.value.index is None
    assert len(server.sizes) <= 3


@pytest.mark.parametrize("images", [1, 4], ids=["alone", "together"])
def test_image_too_large_for_the_queue_is_no_end_of_the_job(server: FakeServer, images):
    answer = server.answer

    def strict(request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        if any(len(image.encoded) > 100 for image in request.images):
            text = f"images: {len(request.images)} of many bytes in all; send fewer at once"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)
        return answer(request)

    server.answer = strict
    batching = convoy.Batching(images_per_call=images)
    with convoy.ImageClient(server.target, batching=batching) as client:
        outcomes = labels(client.classify_stream([b"1", b"1", b"x" * 200, b"1", b"1"]))
    assert outcomes[:2] + outcomes[3:] == ["class1"] * 4
    assert outcomes[2].startswith("images[2]: images: 1 of many bytes")


def test_input_is_read_only_as_far_as_calls_are_in_flight(server: FakeServer):
    read = 0

    def images() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"1"

    furthest = 0
    with convoy.ImageClient(server.target, batching=BATCHING) as client:
        outcomes = client.classify_stream(images())
        for done in range(500):
            next(outcomes)
            furthest = max(furthest, read - done)
        outcomes.close()
    assert furthest <= 3 * 8


def test_several_calls_are_in_flight(server: FakeServer):
    server.open.clear()
    with convoy.ImageClient(server.target, batching=BATCHING) as client:
        outcomes = client.classify_stream(b"%d" % number for number in range(1000))
        server_frees_when_full(server)
        assert labels(outcomes) == [f"class{number % 10}" for number in range(1000)]


def server_frees_when_full(server: FakeServer) -> None:
    """Let the server answer once as many calls wait as may be in flight."""

    def wait() -> None:
        for _ in range(BATCHING.calls_in_flight):
            assert server.arrived.acquire(timeout=20)
        server.open.set()

    threading.Thread(target=wait, daemon=True).start()


def test_unknown_model_ends_the_job(server: FakeServer):
    not_found = pytest.raises(convoy.NotFound, match="there is: fake")
    with convoy.ImageClient(server.target, model="other") as client, not_found:
        list(client.classify_stream([b"1"]))


def test_retries_keep_the_order(client, server):
    server.refuse("UNAVAILABLE", times=2)
    server.refuse("RESOURCE_EXHAUSTED", pushback="1", times=2)
    images = [b"%d" % number for number in range(300)]
    assert labels(client.classify_stream(images)) == [f"class{n % 10}" for n in range(300)]


def test_error_of_the_callers_own_generator_passes_through(client):
    def images() -> Iterator[bytes]:
        yield b"1"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(client.classify_stream(images()))


def test_leaving_early_cancels_what_is_in_flight(server: FakeServer):
    batching = convoy.Batching(images_per_call=1, calls_in_flight=4)
    server.open.clear()
    with convoy.ImageClient(server.target, batching=batching) as client:
        outcomes = client.classify_stream([b"now", b"1", b"2", b"3", b"4"])
        assert next(outcomes).label == "class0"
        assert all(server.arrived.acquire(timeout=20) for _ in range(4))
        outcomes.close()
        assert all(server.left.acquire(timeout=20) for _ in range(3))
