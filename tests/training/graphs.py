"""What stands in an exported graph."""

from __future__ import annotations

import onnx

from convoy.bundle import INPUT_NAME, Bundle


def readers(bundle: Bundle) -> list[str]:
    """The operators that read the pixels: TensorRT takes uint8 into a Cast, and nothing else."""
    graph = onnx.load(bundle.model_path).graph
    return [node.op_type for node in graph.node if INPUT_NAME in node.input]
