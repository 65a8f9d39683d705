"""The same network in half precision or in 8-bit integers, and how far it may be from fp32.

Each is made from the exported fp32 graph; what goes in (uint8) and comes out (float32) stays.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME, Precision
from training.datasets import Labelled
from training.errors import TrainingError
from training.measure import Answered, OnnxModel
from training.metrics import describe_share, share_right

if TYPE_CHECKING:
    from onnx import ModelProto

Images = NDArray[np.uint8]
"""[N, H, W, C]"""

CALIBRATION_IMAGES = 256
"""From 128 on, more change nothing that can be measured."""
CALIBRATION_BATCH = 32
"""Images whose activations are in memory at a time."""

MAX_BATCH_DIFFERENCE = 1e-3
"""Between a probability alone and in a batch: kernels differ by 1e-6, ranges taken over the batch
by tenths."""
BATCH_IMAGES = 16

QUANTISED = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")
"""What has nearly all of the work, and what passes 8 bits on unharmed. Sums of branches, averages
and normalisation stay in float32: they cost little and lose most."""

QUANTISATION = {
    "CalibPercentile": 99.999,
    # Despite its name, of every method: one batch's activations at a time.
    "CalibStridedMinMax": 1,
    "MatMulConstBOnly": True,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a precision may cost."""

    accuracy_loss: float
    """Share of a test split, against fp32."""
    golden_tolerance: float
    """Between machines, for the manifest."""


LIMITS: dict[Precision, Limits] = {
    # Kernels differ by 1e-5, libjpeg builds by a level in some pixels.
    "fp32": Limits(accuracy_loss=0.0, golden_tolerance=0.005),
    # Half precision rounds by 0.0005; GPUs add in another order.
    "fp16": Limits(accuracy_loss=0.001, golden_tolerance=0.02),
    # Where a sum falls next to a rounding edge, processors take different levels: with and
    # without integer kernels, up to 0.012 was measured.
    "int8": Limits(accuracy_loss=0.005, golden_tolerance=0.05),
}


def convert(precision: Precision, graph: bytes, images: Images) -> bytes:
    """The graph in another precision, with the help of some training images.

    Raises: TrainingError where half precision cannot hold a value.
    """
    if precision == "int8":
        return to_int8(graph, images)
    if precision == "fp16":
        graph = to_fp16(graph)
        if (name := overflows(graph, images[:CALIBRATION_BATCH])) is not None:
            raise TrainingError(
                f"export refused: in fp16, {name} leaves the range of half precision; "
                "export as fp32"
            )
    return graph


def to_fp16(graph: bytes) -> bytes:
    """Weights and arithmetic in half precision. Processors without it compute in float32."""
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # It tells of every weight that is too small for half precision; the gates judge.
        warnings.simplefilter("ignore", UserWarning)
        half = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True)
    model = onnx_ir.from_proto(half)
    model.graph.sort()  # the converter appends its casts at the end
    return _checked(onnx_ir.to_proto(model))


def overflows(graph: bytes, images: Images) -> str | None:
    """The first value inside a half-precision graph that leaves its range, if any.

    ONNX Runtime computes on in float32 between operators that a CPU lacks in half precision, so
    the answers there do not show it; on a GPU they would.
    """
    import onnx
    import onnxruntime

    model = onnx.load_from_string(graph)
    inside = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inside)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = session.run(inside, {INPUT_NAME: images})
    return next((n for n, v in zip(inside, values, strict=True) if not np.isfinite(v).all()), None)


def to_int8(graph: bytes, images: Images) -> bytes:
    """Static quantisation: fixed 8-bit ranges, of each filter's weights and each activation.

    An activation's range leaves out a hundred-thousandth at either end. On a network of three
    conv groups that kept probabilities closest to fp32's (mean difference 0.0014; the full range
    0.0018, which Kullback-Leibler divergence chose too; a thousandth 0.0033). Nothing is exempt:
    first and last layer in float32 gained no accuracy.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(io.StringIO()):
        source, folded, target = (Path(work) / name for name in ("source", "folded", "target"))
        source.write_bytes(graph)
        # Folds normalisation into the convolutions before it.
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            target,
            _reader(images),
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=_stacked_products(onnx.load(folded)),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # 7 bits of weight: processors without VNNI add two products in 16 bits, which 8 bits
            # would overflow.
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options=QUANTISATION,
        )
        return _checked(onnx.load(target))


def require_as_good(
    precision: Precision,
    model: OnnxModel,
    measured: Sequence[Answered],
    reference: Sequence[Answered],
    thresholds: Sequence[float] | None = None,
) -> None:
    """Hold a variant and its answers to the test splits against fp32's, the `reference`.

    Raises: TrainingError where it loses too much, or where an answer depends on what else is in
    its batch.
    """
    moved = model.batch_difference(measured[0][0].images[:BATCH_IMAGES])
    if not moved <= MAX_BATCH_DIFFERENCE:  # NaN is refused too
        raise TrainingError(
            f"export refused: in {precision}, the rest of a batch moves an image's probabilities "
            f"by {moved:.2g}, more than {MAX_BATCH_DIFFERENCE:g}; export as fp32"
        )
    allowed = LIMITS[precision].accuracy_loss
    for (split, answer), (_, exact) in zip(measured, reference, strict=True):
        before = share_right(split.labels, exact, thresholds)
        after = share_right(split.labels, answer, thresholds)
        if before - after > allowed + 1e-9:  # they are shares of whole images
            raise TrainingError(
                f"export refused: on {split.name}, {precision} is "
                f"{describe_share(after, len(split))} right and fp32 "
                f"{describe_share(before, len(split))}, more than {100 * allowed:g} points apart; "
                "export as fp32"
            )


def calibration_images(training: Labelled, seed: int) -> Images:
    """Some of the training images, drawn at random."""
    drawn = np.random.default_rng(seed).permutation(len(training))[:CALIBRATION_IMAGES]
    return training.take(np.sort(drawn)).images


def _reader(images: Images) -> object:
    """What the quantiser calls a data reader, over batches."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(images), CALIBRATION_BATCH)
            self.batches = [images[start : start + CALIBRATION_BATCH] for start in starts]
            self.rest = iter(self.batches)

        def __len__(self) -> int:
            return len(self.batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(self.batches[start_index:end_index])

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self.rest, None)
            return None if batch is None else {INPUT_NAME: batch}

    return Reader()


def _stacked_products(model: ModelProto) -> list[str]:
    """Products with a stack of matrices, as of capsules: integer kernels take none per channel."""
    stacks = {one.name for one in model.graph.initializer if len(one.dims) > 2}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and stacks & set(n.input)]


def _checked(model: ModelProto) -> bytes:
    import onnx

    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    graph: bytes = model.SerializeToString()
    onnx.checker.check_model(graph, full_check=True)
    return graph
