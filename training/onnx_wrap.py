"""An ONNX classifier that someone else made, wrapped into the signature of a bundle.

Preprocessing goes in front of it, softmax or sigmoid behind it; the network itself stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME, OUTPUT_NAME
from convoy.imaging import InputSpec
from training.onnx_foreign import Foreign

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Ending = Literal["none", "softmax", "sigmoid"]

PREFIX = "wrapped_"
"""Of every name in the network, so that none is one of ours."""
OWN = "bundle_"
LOWEST_OPSET = 7
"""The first whose arithmetic broadcasts as NumPy's does."""
LOWEST_IR = 4
"""The first in which weights need not be inputs."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From decoded pixels to what the network was trained on: (pixels / scale - mean) / std."""

    spec: InputSpec
    layout: Literal["nchw", "nhwc"] = "nchw"
    bgr: bool = False
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    """Of each channel in the network's order, or one for all."""
    std: tuple[float, ...] = (1.0,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image as the network takes it."""
        height, width, channels = self.spec.shape
        return (channels, height, width) if self.layout == "nchw" else self.spec.shape

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """By hand, what the graph does: uint8 (N, H, W, C) to float32 (N, *shape)."""
        pixels = (images[..., ::-1] if self.bgr else images).astype(np.float32)
        scale, mean, std = (np.asarray(v, np.float32) for v in (self.scale, self.mean, self.std))
        x = (pixels / scale - mean) / std
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if self.layout == "nchw" else x)


def wrap(foreign: Foreign, before: Preprocessing, ending: Ending, *, dynamic: bool) -> ModelProto:
    """The model with a bundle's signature. `dynamic` opens a batch that the file fixes."""
    import onnx
    from onnx import TensorProto, compose, helper

    model = compose.add_prefix(_modern(foreign.model), PREFIX)
    graph = model.graph
    if dynamic and foreign.input_shape[0] is not None:
        _open_batch(graph, foreign.input_shape[0])
    tail = _tail(PREFIX + foreign.output, ending)
    nodes = [*_head(before, foreign.input_type, PREFIX + foreign.input), *graph.node, *tail]
    fixed = None if dynamic else foreign.input_shape[0]
    rows = fixed or "N"
    images = helper.make_tensor_value_info(
        INPUT_NAME, TensorProto.UINT8, [rows, *before.spec.shape]
    )
    answer = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [rows, None])
    # Inferred shapes, of `value_info`, held for the old batch.
    for field in ("node", "input", "output", "value_info"):
        del getattr(graph, field)[:]
    graph.node.extend(nodes)
    graph.input.append(images)
    graph.output.append(answer)
    onnx.checker.check_model(model)
    return model


def _modern(model: ModelProto) -> ModelProto:
    from onnx import version_converter

    opset = opset_of(model)
    if opset < LOWEST_OPSET:
        model = version_converter.convert_version(model, LOWEST_OPSET)
    copy = type(model)()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, LOWEST_IR)
    return copy


def opset_of(model: ModelProto) -> int:
    """Version of the standard operators."""
    return next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))


def _head(before: Preprocessing, element: int, result: str) -> list[NodeProto]:
    """From uint8 `images` to the network's input."""
    from onnx import TensorProto, helper

    nodes: list[NodeProto] = []
    value = INPUT_NAME

    def add(operator: str, constant: NDArray[np.generic] | None = None, **fields: Any) -> None:
        nonlocal value
        inputs = [value]
        if constant is not None:
            inputs.append(f"{OWN}constant_{len(nodes)}")
            tensor = _tensor(constant, inputs[1])
            nodes.append(helper.make_node("Constant", [], [inputs[1]], value=tensor))
        value = f"{OWN}before_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [value], **fields))

    if element != TensorProto.UINT8:
        # First: TensorRT takes uint8 into a cast, and into nothing else.
        add("Cast", to=TensorProto.FLOAT)
    if before.bgr:
        add("Gather", np.array([2, 1, 0], np.int64), axis=3)
    if element != TensorProto.UINT8:
        add("Div", np.array([before.scale], np.float32))
        add("Sub", np.array(before.mean, np.float32))
        add("Div", np.array(before.std, np.float32))
    if before.layout == "nchw":
        add("Transpose", perm=[0, 3, 1, 2])
    add("Cast", to=element)
    nodes[-1].output[0] = result
    return nodes


def _tail(scores: str, ending: Ending) -> list[NodeProto]:
    """From the network's output, (N, K) or (N, K, 1, 1), to `probabilities`."""
    from onnx import TensorProto, helper

    flat, last = OWN + "flat", OWN + "float"
    nodes = [
        helper.make_node("Cast", [scores], [last], to=TensorProto.FLOAT),
        helper.make_node("Flatten", [last], [flat if ending != "none" else OUTPUT_NAME], axis=1),
    ]
    if ending == "softmax":
        nodes.append(helper.make_node("Softmax", [flat], [OUTPUT_NAME], axis=1))
    elif ending == "sigmoid":
        nodes.append(helper.make_node("Sigmoid", [flat], [OUTPUT_NAME]))
    return nodes


def _open_batch(graph: GraphProto, batch: int) -> None:
    """Let reshapes to that batch keep whatever batch comes in."""
    from onnx import numpy_helper

    shapes = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    replaced = set()
    for index, node in enumerate(graph.node):
        # Of weights too, old files reshape some: those keep their shape.
        if node.op_type != "Reshape" or node.input[0] in shapes:
            continue
        shape = shapes.get(node.input[1])
        if shape is not None and shape.ndim == 1 and len(shape) > 1 and shape[0] == batch:
            kept = np.array([0, *shape[1:]], np.int64)  # 0: as many as come in
            shape_name, node.input[1] = node.input[1], f"{OWN}shape_{index}"
            graph.initializer.append(numpy_helper.from_array(kept, node.input[1]))
            replaced.add(shape_name)
    # Bodies of loops and branches may read a constant too: then it stays.
    nested = any(field.HasField("g") for node in graph.node for field in node.attribute)
    read = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name in replaced - read]:
        if not nested:
            graph.initializer.remove(one)


def _tensor(values: NDArray[np.generic], name: str) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)
