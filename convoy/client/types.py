"""What the clients return, and how it is read from the messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convoy.client.errors import ServerError
from convoy.v1 import image_classifier_pb2 as pb

_MICROSECOND = 1e-6
_ROLES = {
    pb.ROLE_LIVE: "live",
    pb.ROLE_CANARY: "canary",
    pb.ROLE_SHADOW: "shadow",
    pb.ROLE_NAMED: "named",
}
_TASKS = {pb.TASK_SINGLE_LABEL: "single-label", pb.TASK_MULTI_LABEL: "multi-label"}


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class with its probability."""

    index: int
    """0 to the number of classes less one."""
    label: str
    probability: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time went, in seconds; of a call with several images, the longest."""

    decode: float
    """Encoded bytes to pixels; 0 for raw pixels."""
    queue: float
    """Waiting for a batch to close and for the device to be free."""
    compute: float
    """The network itself."""
    answer: float
    """From the end of the network to the finished reply."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one image is."""

    label: str
    """The most probable class."""
    probability: float
    """Of `label`, 0 to 1."""
    classes: tuple[ClassScore, ...]
    """The `top_k` most probable classes, most probable first."""
    model: str
    version: int
    """The model and the version that answered."""
    timings: Timings
    """Of the call that carried the image."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server serves."""

    name: str
    version: int
    is_default: bool
    """Whether a request that names no model gets this one."""
    task: str
    """"single-label", "multi-label", or "" where the server names a task we do not know."""
    labels: tuple[str, ...]
    """By class index."""
    height: int
    width: int
    channels: int
    """Of the model's input; 1 is grey, 3 is RGB."""
    precision: str
    provider: str
    """The ONNX Runtime execution provider."""
    max_batch_size: int
    test_accuracy: float | None
    """0 to 1, on `test_split`; None where the model does not say."""
    test_accuracy_interval: tuple[float, float] | None
    """The 95 % interval of that accuracy; None where the model does not say."""
    test_split: str | None
    thresholds: tuple[float, ...]
    """Of each class of a multi-label model, which is there where its probability is above; else
    empty."""
    version_labels: tuple[str, ...] = ()
    """Names of this version, with which it can be asked for."""
    role: str = ""
    """"live" answers requests that name no version, "canary" a share of them, "shadow" is shown
    them, "named" answers those that name it; "" where the server does not say."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels


def parse_response(response: pb.ClassifyResponse, count: int) -> list[Result]:
    """Read the results of a call that carried `count` images.

    Raises: ServerError where the response does not fit the request.
    """
    if len(response.predictions) != count:
        raise ServerError(
            f"the server answered {len(response.predictions)} predictions for {count} images"
        )
    model, version, timings = response.model, response.version, _timings(response.timings)
    results = []
    for prediction in response.predictions:
        classes = tuple(
            [ClassScore(one.index, one.label, one.probability) for one in prediction.classes]
        )
        if not classes:
            raise ServerError("the server answered a prediction without classes")
        best = classes[0]
        results.append(Result(best.label, best.probability, classes, model, version, timings))
    return results


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    return (values[0], values[1]) if len(values) == 2 else None


def parse_model(message: pb.Model) -> Model:
    """Read the description of one model."""
    return Model(
        name=message.name,
        version=message.version,
        is_default=message.is_default,
        task=_TASKS.get(message.task, ""),
        labels=tuple(message.labels),
        height=message.height,
        width=message.width,
        channels=message.channels,
        precision=message.precision,
        provider=message.provider,
        max_batch_size=message.max_batch_size,
        test_accuracy=message.test_accuracy if message.test_split else None,
        test_accuracy_interval=_interval(message.test_accuracy_interval),
        test_split=message.test_split or None,
        thresholds=tuple(message.thresholds),
        version_labels=tuple(message.version_labels),
        role=_ROLES.get(message.role, ""),
    )


def _timings(message: pb.Timings) -> Timings:
    return Timings(
        decode=message.decode_us * _MICROSECOND,
        queue=message.queue_us * _MICROSECOND,
        compute=message.compute_us * _MICROSECOND,
        answer=message.answer_us * _MICROSECOND,
    )
