"""What both clients do with one call, and with many."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import convoy
from tests.convoy_client.fake import FakeServer

NUMBERS = [str(number).encode() for number in range(100)]
LABELS = [f"class{number % 10}" for number in range(100)]


def test_result_holds_the_whole_answer(client):
    result = client.classify(b"7", top_k=2)
    assert result == convoy.Result(
        label="class7",
        probability=0.5,
        classes=(convoy.ClassScore(7, "class7", 0.5), convoy.ClassScore(8, "class8", 0.25)),
        model="fake",
        version=3,
        timings=convoy.Timings(decode=0.001, queue=0.002, compute=0.003, answer=0.004),
    )


def test_result_cannot_be_changed(client):
    with pytest.raises(dataclasses.FrozenInstanceError):
        client.classify(b"7").label = "other"


def test_sequence_keeps_its_order(client, server):
    assert [one.label for one in client.classify(NUMBERS)] == LABELS
    assert sorted(server.sizes) == [4, 32, 32, 32]


@pytest.mark.parametrize("value", [3, None, 2.5])
def test_what_is_no_image_is_named(client, value):
    expected = f"{type(value).__name__} is no image: give a path"
    with pytest.raises(convoy.InvalidRequest, match=expected):
        client.classify(value)
    with pytest.raises(convoy.InvalidRequest, match=expected):
        list(client.classify_stream(value))


def test_generator_and_empty_sequence(client, server):
    assert [one.label for one in client.classify(image for image in NUMBERS[:3])] == LABELS[:3]
    assert client.classify([]) == []


def test_calls_are_bounded_by_count_and_bytes(server: FakeServer):
    batching = convoy.Batching(images_per_call=5, bytes_per_call=100, calls_in_flight=2)
    with convoy.ImageClient(server.target, batching=batching) as client:
        client.classify(NUMBERS[:10])
        client.classify([b"7" * 60] * 4)
    assert sorted(server.sizes) == [2, 2, 5, 5]


def test_model_version_and_top_k_are_sent(server: FakeServer):
    with convoy.ImageClient(server.target, model="fake", version=3) as client:
        client.classify(b"1", top_k=4)
    request = server.requests[0]
    assert (request.model, request.version, request.top_k) == ("fake", 3, 4)


def test_models_are_described(client):
    (model,) = client.list_models()
    assert model == client.get_model() == client.get_model("fake")
    assert model.input_shape == (4, 6, 3)
    assert (model.task, model.test_accuracy) == ("single-label", 0.925)
    assert (model.test_accuracy_interval, model.thresholds) == ((0.9, 0.95), ())


def test_health_by_name(client, server):
    assert client.health() == client.health("fake") == "SERVING"
    server.healthy = False
    assert client.health() == "NOT_SERVING"
    with pytest.raises(convoy.NotFound):
        client.health("x" * 300)


def test_refused_image_is_named_by_its_place(client):
    with pytest.raises(convoy.InvalidRequest) as caught:
        client.classify([*NUMBERS[:40], b"bad", b"1"])
    assert str(caught.value) == "images[40]: not an image"
    assert caught.value.index == 40


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.classify(b"1", top_k=0),
        lambda client: client.classify(b"1", top_k=2**40),
        lambda client: client.get_model("fake", version=-1),
        lambda client: client.classify_stream("one.jpg"),
    ],
    ids=["top_k-0", "top_k-huge", "version", "stream-of-one"],
)
def test_wrong_arguments_are_refused_here(client, call):
    with pytest.raises(convoy.InvalidRequest):
        call(client)


@pytest.mark.parametrize("priority", [0, -1, 2**32])
def test_priority_must_be_one(priority):
    with pytest.raises(convoy.InvalidRequest, match=f"priority is {priority}"):
        convoy.ImageClient(priority=priority)


def test_priority_goes_with_every_call(server):
    with convoy.ImageClient(server.target, priority=2) as client:
        client.classify(NUMBERS)
    assert {request.priority for request in server.requests} == {2}


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_timeout_must_be_a_number_of_seconds(timeout):
    with pytest.raises(convoy.InvalidRequest, match="timeout"):
        convoy.ImageClient(timeout=timeout)


@pytest.mark.parametrize("timeout", [1e10, 1e300])
def test_timeout_of_centuries_is_no_timeout_at_all(server, timeout):
    with convoy.ImageClient(server.target, timeout=timeout) as client:
        assert client.classify(b"7").label == "class7"


@pytest.mark.parametrize("target", ["http://localhost:8500", "HTTPS://localhost", "grpc://a:1"])
def test_target_is_no_url(target):
    with pytest.raises(convoy.InvalidRequest, match=r"give host:port, without \w+://"):
        convoy.ImageClient(target)


def test_names_that_are_no_text_are_refused(client):
    for call in (
        lambda: convoy.ImageClient("\udcff:8500"),
        lambda: convoy.ImageClient(model="\udcff"),
        lambda: client.get_model("\udcff"),
        lambda: client.health("\udcff"),
    ):
        with pytest.raises(convoy.InvalidRequest, match="not UTF-8"):
            call()


def test_empty_target_is_refused():
    with pytest.raises(convoy.InvalidRequest, match="give host:port"):
        convoy.ImageClient("")


def test_message_above_the_servers_own_limit_is_no_overload(client, server):
    server.refuse("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)")
    with pytest.raises(convoy.InvalidRequest, match="larger than max"):
        client.classify(b"1")


def test_closing_ends_calls_in_flight(server: FakeServer):
    server.open.clear()
    client = convoy.ImageClient(server.target)

    def close() -> None:
        server.arrived.acquire()
        client.close()

    threading.Thread(target=close).start()
    with pytest.raises(convoy.Unavailable):
        client.classify(b"1")


def test_closing_ends_a_stream_between_calls(server: FakeServer):
    batching = convoy.Batching(images_per_call=1, calls_in_flight=1)
    client = convoy.ImageClient(server.target, batching=batching)
    outcomes = client.classify_stream([b"1", b"2"])
    assert next(outcomes).label == "class1"
    client.close()
    with pytest.raises(convoy.Unavailable, match="the client was closed"):
        next(outcomes)


def test_refused_image_ends_the_other_calls_at_once(server: FakeServer, tmp_path):
    server.open.clear()

    def images() -> Iterator[Any]:
        yield from (tmp_path / "none.jpg", b"1", b"2")
        assert all(server.arrived.acquire(timeout=20) for _ in range(2))

    batching = convoy.Batching(images_per_call=1)
    with convoy.ImageClient(server.target, batching=batching) as client:
        # The error that pytest holds must not hold the calls.
        with pytest.raises(convoy.InvalidRequest):
            client.classify(images())
        assert all(server.left.acquire(timeout=20) for _ in range(2))


def test_closed_client_says_so(server: FakeServer):
    with convoy.ImageClient(server.target) as client:
        client.health()
    with pytest.raises(convoy.ClientError, match="closed"):
        client.classify(b"1")


def test_server_that_answers_too_little_is_an_error(client, server):
    server.answer = lambda request: type(request).FromString(b"")  # an empty message
    with pytest.raises(convoy.ServerError, match="0 predictions for 1 images"):
        client.classify(b"1")
