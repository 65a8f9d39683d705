"""A small ImageClassifier server on a real port that does as it is told.

It is what the retry, deadline, order and memory tests need and the real service cannot promise:
failures on demand, and answers held back until the test lets them go.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc

LABELS = [f"class{n}" for n in range(10)]
HEIGHT, WIDTH, CHANNELS = 4, 6, 3
OPTIONS = [("grpc.max_receive_message_length", 64 * 2**20)]


class Refusal(Exception):
    """What the fake answers instead of a response."""

    def __init__(self, code: grpc.StatusCode, text: str = "told to", pushback: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.trailers = (("grpc-retry-pushback-ms", pushback),) if pushback else ()


class FakeServer(rpc.ImageClassifierServicer):
    """Its label for an image is the number in the image's bytes: b"7" is "class7".

    b"bad" is refused, b"nan" is an internal error, b"now" is answered though the gate is closed.
    `arrived` counts calls, `left` those of the calls held at the gate that have ended.
    """

    def __init__(self) -> None:
        self.requests: list[pb.ClassifyRequest] = []
        self.timeouts: list[float] = []
        self.model = model()
        self.described = 0
        self.refusals: deque[Refusal] = deque()
        self.healthy = True
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self._server: grpc.Server | None = None
        self.port = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def sizes(self) -> list[int]:
        """Images in each request."""
        return [len(request.images) for request in self.requests]

    def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        rpc.add_ImageClassifierServicer_to_server(self, self._server)
        handler = grpc.unary_unary_rpc_method_handler(self.check)
        self._server.add_registered_method_handlers("grpc.health.v1.Health", {"Check": handler})
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
        )
        self.port = self._server.add_insecure_port(self.target)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self.open.set()
            self._server.stop(None).wait()

    def refuse(
        self, code: str, text: str = "told to", *, times: int = 1, pushback: str = ""
    ) -> None:
        """Answer the next calls with this."""
        self.refusals.extend([Refusal(grpc.StatusCode[code], text, pushback)] * times)

    def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        self.requests.append(request)
        self.timeouts.append(context.time_remaining())
        self.arrived.release()
        if not self.open.is_set() and request.images[0].encoded != b"now":
            context.add_callback(self.left.release)
            self.open.wait()
        try:
            return self.answer(request)
        except Refusal as refusal:
            context.set_trailing_metadata(refusal.trailers)
            context.abort(refusal.code, refusal.text)

    def ClassifyStream(
        self, requests: Iterator[pb.ClassifyRequest], context: Any
    ) -> Iterator[pb.ClassifyStreamResponse]:
        for request in requests:
            self.requests.append(request)
            self.arrived.release()
            self.open.wait()
            try:
                yield pb.ClassifyStreamResponse(response=self.answer(request))
            except Refusal as refusal:
                code = refusal.code.value[0]
                yield pb.ClassifyStreamResponse(error=pb.Error(code=code, message=refusal.text))

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        self.described += 1
        if request.model not in ("", "fake"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model}; there is: fake")
        return self.model

    def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self.model])

    def check(self, request: bytes, context: Any) -> bytes:
        if request not in (b"", b"\x0a\x04fake"):
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b"\x08\x01" if self.healthy else b"\x08\x02"

    def answer(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        if self.refusals:
            raise self.refusals.popleft()
        if request.model not in ("", "fake"):
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no model {request.model}; there is: fake")
        if request.top_k > len(LABELS):
            text = f"top_k: {request.top_k}, must be 0 to {len(LABELS)}"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)
        return pb.ClassifyResponse(
            model="fake",
            version=3,
            predictions=[
                prediction(place, image, request.top_k or 5)
                for place, image in enumerate(request.images)
            ],
            timings=pb.Timings(decode_us=1000, queue_us=2000, compute_us=3000, answer_us=4000),
            request_id=request.request_id,
        )


def model() -> pb.Model:
    return pb.Model(
        name="fake",
        version=3,
        is_default=True,
        task=pb.TASK_SINGLE_LABEL,
        labels=LABELS,
        height=HEIGHT,
        width=WIDTH,
        channels=CHANNELS,
        precision="fp32",
        provider="CPUExecutionProvider",
        max_batch_size=64,
        test_accuracy=0.925,
        test_accuracy_interval=(0.9, 0.95),
        test_split="test",
    )


def prediction(place: int, image: pb.Image, top_k: int) -> pb.Prediction:
    if image.encoded == b"bad":
        text = f"images[{place}]: not an image"
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)
    if image.encoded == b"nan":
        raise Refusal(grpc.StatusCode.INTERNAL, "internal error")
    digits = image.encoded if image.encoded.isdigit() else b"0"
    first = int(digits) % len(LABELS)
    order = [(first + step) % len(LABELS) for step in range(top_k)]
    return pb.Prediction(
        classes=[
            pb.ClassScore(index=index, label=LABELS[index], probability=0.5 / 2**rank)
            for rank, index in enumerate(order)
        ]
    )
