"""What is exported of a network: pixels go in, probabilities come out, as one ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convoy.bundle import INPUT_NAME, OUTPUT_NAME
from convoy.imaging import InputSpec
from training.classifier import Classifier
from training.datasets import Labelled
from training.interrupts import interrupt_held_back
from training.metrics import Probabilities
from training.recipe import Recipe
from training.temperature import fit_temperature
from training.thresholds import choose_thresholds

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""The first with Gelu as one operator, which ONNX Runtime computes in one pass."""

IR_VERSION = 10

TRACE = "pkg.torch.onnx.stack_trace"
"""Where PyTorch's exporter keeps which line of which file made a node."""

BATCH = 64
"""Images that PyTorch computes at once."""


class Deployed(nn.Module):
    """What is exported: pixels as they are decoded in, probabilities out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature: float | None = None
        """That the graph divides logits by."""
        self.thresholds: tuple[float, ...] | None = None
        """Of several labels, for the manifest."""

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to float32 (N, K)."""
        # Cast first: TensorRT takes uint8 into a cast, and into nothing else.
        outputs: Tensor = self.classifier(images.float().permute(0, 3, 1, 2))
        if self.temperature is not None:
            outputs = outputs / self.temperature
        return self.classifier.objective.probabilities(outputs)

    @torch.inference_mode()
    def outputs(self, images: NDArray[np.uint8]) -> Tensor:
        """What the temperature is fitted to: float32 (N, O) of uint8 (N, H, W, C)."""
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(BATCH)  # type: ignore[no-untyped-call]
        return torch.cat([self.classifier(batch) for batch in batches])

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8]) -> Probabilities:
        """What the ONNX file is held against, in its batches."""
        batches = torch.from_numpy(images).split(BATCH)  # type: ignore[no-untyped-call]
        return torch.cat([self(batch) for batch in batches]).numpy()

    def calibrate(self, recipe: Recipe, validation: Labelled) -> None:
        """Set what validation images decide: the temperature, the labels' thresholds."""
        if recipe.temperature_scaling and self.classifier.objective.logits:
            outputs, targets = self.outputs(validation.images), torch.from_numpy(validation.labels)
            self.temperature = fit_temperature(recipe, outputs, targets)
        if recipe.objective == "multi-label":
            self.thresholds = choose_thresholds(validation.labels, self.predict(validation.images))


def drop_traces(graph: onnx.GraphProto) -> None:
    """Take out where each node came to be, which names files of the machine that exports."""
    for node in graph.node:
        kept = [entry for entry in node.metadata_props if entry.key != TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


@interrupt_held_back()
def to_onnx(deployed: Deployed, spec: InputSpec) -> bytes:
    """Export with a dynamic batch, and let ONNX's own checker read the result.

    Raises: KeyboardInterrupt, once it is done.
    """
    import onnx

    # Two rows: PyTorch would take a batch of one for a constant.
    example = torch.zeros((2, *spec.shape), dtype=torch.uint8)
    program = torch.onnx.export(
        deployed,
        (example,),
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # The newest that this opset needs: an IR version of today would shut older runtimes out.
    model.ir_version = IR_VERSION
    drop_traces(model.graph)
    graph: bytes = model.SerializeToString()
    onnx.checker.check_model(graph, full_check=True)
    return graph
