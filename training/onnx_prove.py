"""Does a wrapped model answer as the original does, fed by hand?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import Precision
from training.errors import first_line
from training.measure import OnnxModel
from training.metrics import Probabilities
from training.onnx_foreign import Foreign
from training.onnx_wrap import Ending, Preprocessing, wrap
from training.precision import MAX_BATCH_DIFFERENCE
from training.speed import BATCHES

if TYPE_CHECKING:
    from onnx import ModelProto

Images = NDArray[np.uint8]
"""[N, H, W, C]"""

MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "int8": 5e-3}
"""Between the bundle's probabilities and the original's, fed by hand one image at a time."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A model with a bundle's signature, proven on real images."""

    model: ModelProto
    graph: bytes
    max_batch_size: int | None
    answers: Probabilities
    difference: float
    """From the original, fed by hand."""

    @property
    def batches(self) -> tuple[int, ...]:
        """The sizes of batch whose speed can be measured."""
        return BATCHES if self.max_batch_size is None else (self.max_batch_size,)


def run_by_hand(foreign: Foreign, before: Preprocessing, images: Images) -> Probabilities:
    """Raw scores of the original, [N, K], fed one image at a time.

    Raises: TrainingError where it does not run, or gives no row of scores.
    """
    from onnx import helper

    session = _session(foreign)
    kind = helper.tensor_dtype_to_np_dtype(foreign.input_type)
    if foreign.takes_pixels:
        fed = images[..., ::-1] if before.bgr else images
        fed = fed.transpose(0, 3, 1, 2) if before.layout == "nchw" else fed
    else:
        fed = before(images).astype(kind)
    rows = []
    for image in fed:
        # A file that fixes a batch gets the image as often as it wants.
        batch = np.repeat(image[None], foreign.input_shape[0] or 1, axis=0)
        try:
            (scores,) = session.run([foreign.output], {foreign.input: batch})
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise foreign.refuse(f"does not run on {before.shape}: {first_line(error)}") from None
        if scores.ndim < 2 or scores.shape[0] != len(batch) or scores[0].size != scores.shape[1]:
            raise foreign.refuse(f"gives an output of shape {scores.shape}, not a row of scores")
        rows.append(scores[0].reshape(-1).astype(np.float32))
    answer = np.stack(rows)
    if not np.isfinite(answer).all():
        raise foreign.refuse("gives NaN or infinity")
    return answer


def prove(
    foreign: Foreign, before: Preprocessing, ending: Ending, scores: Probabilities, images: Images
) -> Wrapped:
    """Wrap a model, with an open batch where it bears one, and hold it against the original.

    Raises: TrainingError where its answers are others.
    """
    expected = _finish(scores, ending)
    allowed = MAX_DIFFERENCE[precision_of(foreign.model)]
    most: int | None = None
    answers, model = _try(foreign, before, ending, images, dynamic=True)
    if answers is None and foreign.input_shape[0] == 1:
        answers, model = _try(foreign, before, ending, images, dynamic=False)
        most = 1
    if answers is None:
        raise foreign.refuse("cannot be run on a batch of one image")
    difference = float(np.abs(answers - expected).max())
    if not difference <= allowed:
        raise foreign.refuse(
            f"wrapped, it answers {difference:.2g} off what it does by itself, "
            f"more than {allowed:g}"
        )
    graph = model.SerializeToString()
    if most is None and not OnnxModel(graph).batch_difference(images) <= MAX_BATCH_DIFFERENCE:
        most = 1
    return Wrapped(model, graph, most, answers, difference)


def precision_of(model: ModelProto) -> Precision:
    """Arithmetic of a network, by its operators and its largest weights."""
    from onnx import TensorProto

    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node):
        return "int8"
    sizes = {"fp32": 0, "fp16": 0}
    for one in model.graph.initializer:
        if one.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            kind = "fp16" if one.data_type == TensorProto.FLOAT16 else "fp32"
            sizes[kind] += int(np.prod(one.dims))
    return "fp16" if sizes["fp16"] > sizes["fp32"] else "fp32"


def _try(
    foreign: Foreign, before: Preprocessing, ending: Ending, images: Images, *, dynamic: bool
) -> tuple[Probabilities | None, ModelProto]:
    """Answers one image at a time; none where the graph does not run, or not on two."""
    try:
        wrapped = wrap(foreign, before, ending, dynamic=dynamic)
    except Exception as error:  # of ONNX's converter and checker
        raise foreign.refuse(f"cannot be wrapped: {first_line(error)}") from None
    try:
        model = OnnxModel(wrapped.SerializeToString())
        if dynamic and len(model(images[:2])) != 2:
            return None, wrapped
        return model.predict(images, 1), wrapped
    except Exception:  # of ONNX Runtime; the caller tries the next way or says so
        return None, wrapped


def _finish(scores: Probabilities, ending: Ending) -> Probabilities:
    if ending == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    return np.asarray(1 / (1 + np.exp(-scores)), np.float32) if ending == "sigmoid" else scores


def _session(foreign: Foreign) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would log, it raises
    try:
        return onnxruntime.InferenceSession(
            foreign.path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise foreign.refuse(f"ONNX Runtime cannot load it: {first_line(error)}") from None
