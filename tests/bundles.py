"""Tiny bundles whose answers a test can work out: no training, written in milliseconds.

The network looks at mean colours only. With the default labels, the logits are ten times the mean
red, green and blue of the image (0 to 1), so that a red picture is "red".
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from convoy.bundle import (
    GOLDEN_FILE,
    INPUT_NAME,
    MODEL_FILE,
    OUTPUT_NAME,
    Baseline,
    Bundle,
    Golden,
    Manifest,
    Provenance,
    list_versions,
    write_bundle,
)
from convoy.imaging import InputSpec

MODELS = Path(__file__).resolve().parent.parent / "models"
COLOURS = ("red", "green", "blue")
GAIN = 10.0
OPSET = 18
IR_VERSION = 10  # onnx writes its newest by itself, which older ONNX Runtimes refuse

Flaw = Literal[
    "nan-on-black", "drops-black", "hangs-on-black", "swells-on-black", "hangs", "fails-on-nine"
]
SWOLLEN_BYTES = 2**26


def make_bundle(
    models: Path,
    name: str = "tiny",
    version: int = 1,
    labels: Sequence[str] = COLOURS,
    size: int = 32,
    *,
    channels: Literal[1, 3] = 3,
    flaw: Flaw | None = None,
    baseline: Baseline | None = None,
    gain: float = GAIN,
) -> Bundle:
    """Write `models/<name>/<version>/` and open it; another `gain` makes its answers differ.

    A `flaw` passes the golden replay and shows on a black image only: the network answers NaN for
    it, leaves its row out, never comes to an end, or takes `SWOLLEN_BYTES` x (black images)^2. One
    that "hangs" does so on any image, one that "fails-on-nine" on more than eight at once.
    """
    spec = InputSpec(height=size, width=size, channels=channels)
    manifest = Manifest(
        name=name,
        version=version,
        task="single-label",
        labels=tuple(labels),
        input=spec,
        precision="fp32",
        opset=OPSET,
        golden_tolerance=1e-4,
        files={},
        training=Provenance(
            dataset="none", created="2026-01-01T00:00:00Z", hardware="none, made by a test"
        ),
        baseline=baseline,
    )
    model = make_model(len(labels), spec, flaw, gain).SerializeToString()
    golden = _golden(spec, len(labels), gain).to_bytes()
    return write_bundle(models, manifest, {MODEL_FILE: model, GOLDEN_FILE: golden})


def shipped_bundle() -> Bundle:
    """The newest version of the model that comes with the repository."""
    return Bundle.open(MODELS / "cifar10" / str(list_versions(MODELS)["cifar10"][-1]))


def expected(
    pixels: NDArray[np.uint8], classes: int = len(COLOURS), gain: float = GAIN
) -> NDArray[np.float64]:
    """What the network answers for uint8 [N, H, W, C]: probabilities [N, classes]."""
    means = pixels.mean(axis=(1, 2), dtype=np.float64)
    logits = means @ _weights(pixels.shape[-1], classes, gain)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    answer: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return answer


def solid(colour: str, size: int = 32, file_format: str = "PNG") -> bytes:
    """An image file of one colour, named as Pillow names it ("red", "lime", "#102030")."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, file_format)
    return buffer.getvalue()


def make_model(
    classes: int, spec: InputSpec, flaw: Flaw | None = None, gain: float = GAIN
) -> onnx.ModelProto:
    """uint8 [N, H, W, C] -> float32 [N, classes]: softmax(mean colour @ weights)."""
    weights = _weights(spec.channels, classes, gain).astype(np.float32)
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1, 2], np.int64), "sides"),
        numpy_helper.from_array(np.array([1], np.int64), "channels"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "sides"], ["means"], keepdims=0),
        *_flawed_means(flaw),
        helper.make_node("MatMul", ["flawed" if flaw else "means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [OUTPUT_NAME], axis=1),
    ]
    images = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", *spec.shape])
    # A network that leaves rows out has no other name for how many it returns.
    rows = "M" if flaw == "drops-black" else "N"
    answer = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [rows, classes])
    read = {name for node in nodes for name in node.input}
    constants = [constant for constant in constants if constant.name in read]
    graph = helper.make_graph(nodes, "mean-colour", [images], [answer], constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _flawed_means(flaw: Flaw | None) -> list[onnx.NodeProto]:
    """`means` to `flawed`: the same for every image but a black one."""
    if flaw is None:
        return []
    if flaw == "fails-on-nine":
        return _of_eight()
    total = helper.make_node("ReduceSum", ["means", "channels"], ["total"], keepdims=0)
    if flaw == "drops-black":
        lit = helper.make_node("Greater", ["total", "zero"], ["lit"])
        return [total, lit, helper.make_node("Compress", ["means", "lit"], ["flawed"], axis=0)]
    if flaw in ("hangs-on-black", "hangs"):
        darkest = helper.make_node("ReduceMin", ["total"], ["darkest"], keepdims=0)
        when = "LessOrEqual" if flaw == "hangs-on-black" else "GreaterOrEqual"
        dark = helper.make_node(when, ["darkest", "zero"], ["dark"])
        return [
            total,
            darkest,
            dark,
            helper.make_node("Loop", ["", "dark", "means"], ["flawed"], body=_for_ever()),
        ]
    if flaw == "swells-on-black":
        return [total, *_swollen()]
    column = helper.make_node("Unsqueeze", ["total", "channels"], ["column"])
    one = helper.make_node("Div", ["column", "column"], ["one"])  # 0 / 0 for black
    return [total, column, one, helper.make_node("Mul", ["means", "one"], ["flawed"])]


def _swollen() -> list[onnx.NodeProto]:
    """`means` to `flawed`, unchanged, by way of a tensor that grows with the square of the dark."""
    unit = numpy_helper.from_array(np.array([SWOLLEN_BYTES // 4], np.int64))
    return [
        helper.make_node("Constant", [], ["unit"], value=unit),
        helper.make_node("LessOrEqual", ["total", "zero"], ["dark"]),
        helper.make_node("Cast", ["dark"], ["each"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["each"], ["count"], keepdims=1),
        helper.make_node("Mul", ["count", "count"], ["square"]),
        helper.make_node("Mul", ["square", "unit"], ["size"]),
        helper.make_node("Expand", ["zero", "size"], ["swollen"]),
        helper.make_node("ReduceSum", ["swollen"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["means", "nothing"], ["flawed"]),
    ]


def _of_eight() -> list[onnx.NodeProto]:
    """`means` to `flawed`, unchanged, by way of a table that has nothing for nine rows."""
    table = numpy_helper.from_array(np.ones(9, np.float32))
    return [
        helper.make_node("Constant", [], ["table"], value=table),
        helper.make_node("Shape", ["means"], ["rows"], start=0, end=1),
        helper.make_node("Gather", ["table", "rows"], ["one"]),
        helper.make_node("Mul", ["means", "one"], ["flawed"]),
    ]


def _for_ever() -> onnx.GraphProto:
    """The body of a loop that goes on for as long as its condition held at the beginning."""
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    condition = [
        helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("on", "still_on")
    ]
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("before", "after")
    ]
    nodes = [
        helper.make_node("Identity", ["on"], ["still_on"]),
        helper.make_node("Identity", ["before"], ["after"]),
    ]
    return helper.make_graph(
        nodes, "for-ever", [number, condition[0], value[0]], [condition[1], value[1]]
    )


def _weights(channels: int, classes: int, gain: float) -> NDArray[np.float64]:
    """[channels, classes]: class k looks at channel k mod channels; later rounds count for less."""
    weights = np.zeros((channels, classes))
    for k in range(classes):
        weights[k % channels, k] = gain / 255 / (1 + k // channels)
    return weights


def _golden(spec: InputSpec, classes: int, gain: float) -> Golden:
    colours = {"red": (255, 0, 0), "teal": (0, 128, 128), "white": (255, 255, 255)}
    pixels = np.zeros((len(colours), *spec.shape), np.uint8)
    for row, rgb in zip(pixels, colours.values(), strict=True):
        row[:] = rgb if spec.channels == 3 else sum(rgb) // 3
    encoded = []
    for row in pixels:
        buffer = io.BytesIO()
        Image.fromarray(row.squeeze()).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return Golden(tuple(encoded), pixels, expected(pixels, classes, gain).astype(np.float32))
