"""Classify and ClassifyStream over a real connection: right answers, and what bad input gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import numpy as np
import pytest

from convoy.bundle import Quality, write_bundle
from convoy.client.sync import ImageClient
from convoy.imaging import Limits
from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from service.decoding import Decoder
from service.methods import ImageClassifier
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.shares import Shares
from tests.bundles import expected, make_bundle, solid
from tests.servers import PATIENCE, Running, running_server

pytestmark = pytest.mark.usefixtures("front")

RED = pb.Image(encoded=solid("red"))


def raw(value: int = 0, *, height: int = 32, width: int = 32, channels: int = 3) -> pb.Image:
    """Pixels of one brightness."""
    data = bytes([value]) * (height * width * channels)
    return pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=data))


def refusal(stub: rpc.ImageClassifierStub, request: pb.ClassifyRequest) -> tuple[str, str]:
    """Status code and text that a request gets."""
    with pytest.raises(grpc.RpcError) as failure:
        stub.Classify(request, timeout=PATIENCE)
    return failure.value.code().name, failure.value.details()


def test_one_photo(stub: rpc.ImageClassifierStub) -> None:
    reply = stub.Classify(pb.ClassifyRequest(images=[RED], request_id="r-1"), timeout=PATIENCE)
    best = reply.predictions[0].classes[0]
    assert (best.index, best.label) == (0, "red")
    assert (reply.model, reply.version, reply.request_id) == ("tiny", 2, "r-1")
    assert reply.timings.decode_us > 0
    assert reply.timings.compute_us > 0


def test_raw_pixels_match_the_formula(stub: rpc.ImageClassifierStub) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    image = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=pixels.tobytes()))
    reply = stub.Classify(pb.ClassifyRequest(images=[image], top_k=3), timeout=PATIENCE)
    scores = {one.index: one.probability for one in reply.predictions[0].classes}
    assert [scores[k] for k in range(3)] == pytest.approx(expected(pixels[None])[0], abs=1e-5)
    assert reply.timings.decode_us == 0


def test_many_images_keep_their_order_across_batches(stub: rpc.ImageClassifierStub) -> None:
    colours = ["red", "lime", "blue", "red", "blue"] * 20
    images = [pb.Image(encoded=solid(colour)) for colour in colours]
    reply = stub.Classify(pb.ClassifyRequest(images=images, top_k=1), timeout=PATIENCE)
    labels = [prediction.classes[0].label for prediction in reply.predictions]
    assert labels == [{"lime": "green"}.get(colour, colour) for colour in colours]


def test_raw_and_encoded_mix_in_one_request(stub: rpc.ImageClassifierStub) -> None:
    green = np.zeros((32, 32, 3), np.uint8)
    green[..., 1] = 255
    image = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=green.tobytes()))
    reply = stub.Classify(pb.ClassifyRequest(images=[RED, image, RED]), timeout=PATIENCE)
    assert [one.classes[0].label for one in reply.predictions] == ["red", "green", "red"]


def test_ties_go_to_the_lower_index(stub: rpc.ImageClassifierStub) -> None:
    reply = stub.Classify(pb.ClassifyRequest(images=[raw(100)], top_k=3), timeout=PATIENCE)
    assert [one.index for one in reply.predictions[0].classes] == [0, 1, 2]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (pb.ClassifyRequest(), "images: 0, must be 1 to 256"),
        (pb.ClassifyRequest(images=[raw()] * 257), "images: 257, must be 1 to 256"),
        (pb.ClassifyRequest(images=[RED, pb.Image()]), "images[1]: needs either encoded or pixels"),
        (pb.ClassifyRequest(images=[raw(height=8)]), "8 x 32 x 3, the model takes 32 x 32 x 3"),
        (pb.ClassifyRequest(images=[raw(channels=1)]), "32 x 32 x 1"),
        (
            pb.ClassifyRequest(
                images=[pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=b"1"))]
            ),
            "images[0].pixels.data: 1 bytes, must be 3072",
        ),
        (pb.ClassifyRequest(images=[RED], top_k=4), "top_k: 4, must be 0 (the default) to 3"),
        (pb.ClassifyRequest(images=[RED], top_k=-1), "top_k: -1"),
        (pb.ClassifyRequest(images=[RED], request_id="x" * 129), "request_id: more than 128"),
        (pb.ClassifyRequest(images=[RED, pb.Image(encoded=b"")]), "images[1]: empty: 0 bytes"),
        (
            pb.ClassifyRequest(images=[RED, pb.Image(encoded=b"<html>")]),
            "images[1]: HTML is not supported",
        ),
        (pb.ClassifyRequest(images=[pb.Image(encoded=solid("red")[:-30])]), "images[0]: "),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_bad_requests_name_the_field(
    stub: rpc.ImageClassifierStub, request_: pb.ClassifyRequest, text: str
) -> None:
    code, details = refusal(stub, request_)
    assert code == "INVALID_ARGUMENT"
    assert text in details


def test_bytes_that_are_no_message(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/convoy.v1.ImageClassifier/Classify")
        with pytest.raises(grpc.RpcError) as failure:
            call(b"\xff\xff\xff", timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a convoy.v1.ClassifyRequest" in failure.value.details()


def test_a_message_of_countless_empty_images_is_refused_unparsed(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/convoy.v1.ImageClassifier/Classify")
        with pytest.raises(grpc.RpcError, match="more than 272 fields") as failure:
            call(b"\x1a\x00" * 1_000_000, timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("asked", [{"model": "huge"}, {"version": 1}, {"model": "a" * 500}])
def test_unknown_models_get_the_list(stub: rpc.ImageClassifierStub, asked: dict[str, str]) -> None:
    code, details = refusal(stub, pb.ClassifyRequest(images=[RED], **asked))
    assert code == "NOT_FOUND"
    assert "tiny (version 2)" in details
    assert len(details) < 300


def test_limits_of_bytes_and_pixels(models: Path) -> None:
    with (
        running_server(models, max_image_bytes=1000, max_image_pixels=2000) as server,
        server.stub() as stub,
    ):
        big = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(1001))])
        wide = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red", size=50))])
        assert "1,001 bytes, more than the limit of 1,000" in refusal(stub, big)[1]
        assert "50 x 50 pixels, more than the limit of 2,000" in refusal(stub, wide)[1]


def test_an_image_alone_fails_while_others_in_the_batch_are_answered(models: Path) -> None:
    with running_server(models, max_delay_ms=50) as server, server.stub() as stub:
        good = [stub.Classify.future(pb.ClassifyRequest(images=[RED])) for _ in range(5)]
        bad = stub.Classify.future(pb.ClassifyRequest(images=[pb.Image(encoded=b"junk")]))
        assert [one.result(PATIENCE).predictions[0].classes[0].label for one in good] == ["red"] * 5
        assert bad.exception(PATIENCE).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("flaw", ["nan-on-black", "drops-black"])
def test_a_network_that_breaks_its_contract(
    tmp_path: Path, flaw: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path, flaw=flaw)  # type: ignore[arg-type]
    with running_server(tmp_path) as server, server.stub() as stub:
        code, details = refusal(stub, pb.ClassifyRequest(images=[raw(0)]))
        assert (code, details) == (
            "INTERNAL",
            "the model failed on this request; the server's log has the detail",
        )
        assert server.metric("convoy_failed_total", reason="model") == 1
        assert stub.Classify(pb.ClassifyRequest(images=[RED]), timeout=PATIENCE).predictions
    assert ("NaN" if "nan" in flaw else "gave an output of shape") in "".join(capfd.readouterr())


def test_several_models(tmp_path: Path) -> None:
    make_bundle(tmp_path, name="a")
    make_bundle(tmp_path, name="b", size=8)
    with running_server(tmp_path) as server, server.stub() as stub:
        assert (
            stub.Classify(pb.ClassifyRequest(model="b", images=[raw(height=8, width=8)])).model
            == "b"
        )
        code, details = refusal(stub, pb.ClassifyRequest(images=[RED]))
        assert (code, details[:26]) == ("INVALID_ARGUMENT", "model: name one of a, b; t")
    with running_server(tmp_path, default_model="a") as server, server.stub() as stub:
        assert stub.Classify(pb.ClassifyRequest(images=[RED])).model == "a"


def test_models_are_described(stub: rpc.ImageClassifierStub) -> None:
    (model,) = stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models
    assert (model.name, model.version, model.is_default) == ("tiny", 2, True)
    assert (model.height, model.width, model.channels) == (32, 32, 3)
    assert list(model.labels) == ["red", "green", "blue"]
    assert model.provider == "CPUExecutionProvider"
    assert model == stub.GetModel(pb.GetModelRequest(model="tiny"), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as failure:
        stub.GetModel(pb.GetModelRequest(model="none"), timeout=PATIENCE)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_stream_answers_in_order_and_survives_bad_requests(
    stub: rpc.ImageClassifierStub,
) -> None:
    requests = [
        pb.ClassifyRequest(images=[RED] if k % 3 else [pb.Image()], request_id=str(k))
        for k in range(200)
    ]
    replies = list(stub.ClassifyStream(iter(requests), timeout=PATIENCE))
    assert len(replies) == 200
    for k, reply in enumerate(replies):
        part = reply.response if k % 3 else reply.error
        assert part.request_id == str(k)
    assert replies[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "images[0]" in replies[0].error.message


def test_requests_without_images_do_not_run_ahead_of_their_answers() -> None:
    read = 0

    async def requests() -> AsyncIterator[tuple[pb.ClassifyRequest, int]]:
        nonlocal read
        while read < 1000:
            read += 1
            yield pb.ClassifyRequest(), 0

    async def take_one() -> None:
        decoder = Decoder(Limits(1, 1), Metrics(), Shares(1), processes=1)
        pipeline = Pipeline(decoder, Metrics(), max_images=1, max_streams=1)
        classifier = ImageClassifier(pipeline)
        async with aclosing(classifier.classify_stream(requests())) as replies:
            await anext(replies)
            for _ in range(100):
                await asyncio.sleep(0)

    asyncio.run(take_one())
    assert read < 300


@pytest.mark.parametrize("limit", ["max_queue_size", "max_queue_bytes", "own"])
def test_one_stream_alone_is_never_refused_for_a_full_queue(tmp_path: Path, limit: str) -> None:
    make_bundle(tmp_path)
    image = pb.Image(encoded=RED.encoded + bytes(50_000))  # what follows an image is not looked at
    settings = {"max_queue_size": 4} if limit == "max_queue_size" else {}
    settings |= {"max_queue_bytes": 250_000} if limit == "max_queue_bytes" else {}
    if limit == "own":
        (tmp_path / "models.toml").write_text("[tiny]\nmax_queue_size = 4\n")
    with running_server(tmp_path, **settings) as server, server.stub() as stub:
        requests = (pb.ClassifyRequest(images=[image]) for _ in range(200))
        replies = list(stub.ClassifyStream(requests, timeout=PATIENCE))
    assert len(replies) == 200
    assert {reply.error.message for reply in replies} == {""}


def test_a_stream_answers_before_the_next_request_comes(stub: rpc.ImageClassifierStub) -> None:
    answered = threading.Semaphore(1)

    def ping_pong() -> Iterator[pb.ClassifyRequest]:
        for _ in range(3):
            assert answered.acquire(timeout=PATIENCE)
            yield pb.ClassifyRequest(images=[RED])

    count = 0
    for reply in stub.ClassifyStream(ping_pong(), timeout=PATIENCE):
        assert reply.response.model == "tiny"
        count += 1
        answered.release()
    assert count == 3


def test_a_model_that_bears_small_batches_only_gets_no_others(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "source")
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    write_bundle(tmp_path, bundle.manifest.model_copy(update={"max_batch_size": 2}), files)
    with running_server(tmp_path) as server, server.stub() as stub:
        reply = stub.Classify(pb.ClassifyRequest(images=[RED] * 7), timeout=PATIENCE)
        assert len(reply.predictions) == 7
        assert server.metric("convoy_batch_size_bucket", le="2.0") == 4
        assert stub.GetModel(pb.GetModelRequest()).max_batch_size == 2


def test_measured_accuracy_is_told_with_its_interval(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "source")
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    quality = Quality(
        split="new", images=100, accuracy=0.9, accuracy_interval=(0.82, 0.95),
        calibration_error=0.1, precision=(0.9,) * 3, recall=(0.9,) * 3, confusion=(),
    )  # fmt: skip
    write_bundle(tmp_path, bundle.manifest.model_copy(update={"quality": (quality,)}), files)
    with running_server(tmp_path) as server, ImageClient(server.grpc_address) as client:
        model = client.get_model()
    assert (model.test_split, model.test_accuracy) == ("new", 0.9)
    assert model.test_accuracy_interval == (0.82, 0.95)


@pytest.mark.parametrize("chosen", [(0.25, 0.5, 0.75), None])
def test_thresholds_of_several_labels_are_told(
    tmp_path: Path, chosen: tuple[float, ...] | None
) -> None:
    bundle = make_bundle(tmp_path / "source")
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    several = bundle.manifest.model_copy(update={"task": "multi-label", "thresholds": chosen})
    write_bundle(tmp_path, several, files)
    with running_server(tmp_path) as server, ImageClient(server.grpc_address) as client:
        model = client.get_model()
    assert model.task == "multi-label"
    assert model.thresholds == (chosen or (0.5, 0.5, 0.5))
