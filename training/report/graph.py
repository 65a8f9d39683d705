"""What happens inside an ONNX graph, whoever made it: the results of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME

if TYPE_CHECKING:
    from onnx import NodeProto

Values = NDArray[np.float32]

CONVOLUTIONS = frozenset({"Conv", "QLinearConv", "ConvInteger"})
POOLINGS = frozenset({"MaxPool", "AveragePool"})

ELEMENTWISE = frozenset(
    {"Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Elu", "Gelu", "HardSigmoid",
     "HardSwish", "LeakyRelu", "Mish", "Mul", "PRelu", "QuantizeLinear", "Relu", "Selu", "Sigmoid",
     "Softplus", "Tanh"}
)  # fmt: skip
"""With constants beside it, one of these belongs to the convolution before it."""

BATCH = 16
"""Inner results take a hundred times the memory of the images."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution with its activation, or a pooling."""

    title: str
    """For people: `convolution 2`."""
    convolves: bool
    output: str
    """Name of its result in the graph, [N, C, H, W]."""
    weights: str | None
    """Name of a convolution's filters in the graph, [F, C, kh, kw], where they are floats."""


class Graph:
    """A graph that can be asked for inner results."""

    def __init__(self, model: bytes, *, batch: int | None = None) -> None:
        import onnx

        self._model = onnx.load_from_string(model)
        self._batch = min(BATCH, batch or BATCH)
        self.layers = self._find_layers()

    def run(self, layers: Sequence[Layer], images: NDArray[np.uint8]) -> list[Values]:
        """The results of layers, each [N, C, H, W], for uint8 [N, H, W, C]."""
        batches = self.run_batches(layers, images)
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def run_batches(
        self, layers: Sequence[Layer], images: NDArray[np.uint8]
    ) -> Iterator[list[Values]]:
        """The same a few images at a time: of many, the results may not fit into memory."""
        session = self._session([layer.output for layer in layers])
        for start in range(0, len(images), self._batch):
            rows = images[start : start + self._batch]
            results = session.run(None, {INPUT_NAME: rows})
            # A graph that runs images and their mirrors as one batch has more rows, images first.
            yield [result[: len(rows)].astype(np.float32) for result in results]

    def filters(self, layer: Layer, image: NDArray[np.uint8]) -> Values:
        """The filters of a convolution, [F, C, kh, kw], also where the graph computes them."""
        assert layer.weights is not None
        (values,) = self._session([layer.weights]).run(None, {INPUT_NAME: image[None]})
        return np.asarray(values, np.float32)

    def _session(self, names: Sequence[str]) -> Any:
        import onnx
        import onnxruntime

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def _find_layers(self) -> list[Layer]:
        graph = self._model.graph
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {name for n in graph.node if n.op_type == "Constant" for name in n.output}
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        layers: list[Layer] = []
        for node in graph.node:
            if node.op_type in CONVOLUTIONS | POOLINGS:
                convolves = node.op_type in CONVOLUTIONS
                number = 1 + sum(layer.convolves == convolves for layer in layers)
                layers.append(
                    Layer(
                        f"{'convolution' if convolves else 'pooling'} {number}",
                        convolves,
                        _activated(node.output[0], readers, constants),
                        node.input[1] if node.op_type == "Conv" else None,
                    )
                )
        return layers


def _activated(name: str, readers: dict[str, list[NodeProto]], constants: set[str]) -> str:
    """The result after the element-wise operators that alone read `name`."""
    while len(nodes := readers.get(name, [])) == 1:
        (node,) = nodes
        if node.op_type not in ELEMENTWISE or not {*node.input} <= {name, "", *constants}:
            break
        name = node.output[0]
    return name
