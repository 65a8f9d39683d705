"""An ONNX classifier that someone else made, as it was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Foreign:
    """A model file as it was found: one image goes in, scores come out."""

    path: Path
    model: ModelProto
    input: str
    input_type: int
    """ONNX's number of the element type."""
    input_shape: tuple[int | None, ...]
    """Four sides; None where the file leaves one open."""
    output: str

    @property
    def takes_pixels(self) -> bool:
        """Whether its input is uint8, which is neither scaled nor shifted before it."""
        from onnx import TensorProto

        return self.input_type == int(TensorProto.UINT8)

    def refuse(self, reason: str) -> TrainingError:
        """An error that names the file."""
        return TrainingError(f"{self.path}: {reason}")


def read_foreign(path: Path, output: str | None = None) -> Foreign:
    """Read and check a model. Raises: TrainingError naming the file and what is wrong."""
    import onnx

    model = _parse(path)
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        raise TrainingError(f"{path}: says no opset version, so its operators are ambiguous")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises several types, none of them common
        raise TrainingError(f"{path}: no valid ONNX model: {first_line(error)}") from None
    return _signature(path, model, output)


def _parse(path: Path) -> ModelProto:
    import onnx

    try:
        with path.open("rb") as file:
            start = file.read(24)
        if start.startswith(b"version https://git-lfs"):
            raise TrainingError(f"{path}: a pointer of Git LFS, no model; run: git lfs pull")
        model: ModelProto = onnx.load(path)
    except TrainingError:
        raise
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # protobuf's, and ONNX's own for weights in other files
        raise TrainingError(f"{path}: not an ONNX file: {first_line(error)}") from None
    if not model.graph.node:
        raise TrainingError(f"{path}: not an ONNX file: it holds no network")
    return model


def _signature(path: Path, model: ModelProto, output: str | None) -> Foreign:
    from onnx import TensorProto

    # Old files list weights among the inputs.
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    takes = "an image classifier takes one tensor of four dimensions"
    if len(inputs) != 1:
        raise TrainingError(f"{path}: {len(inputs)} inputs; {takes}")
    tensor = inputs[0].type.tensor_type
    shape = tuple(side.dim_value or None for side in tensor.shape.dim)
    if len(shape) != 4:
        raise TrainingError(f"{path}: its input {inputs[0].name} has {len(shape)}; {takes}")
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8):
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise TrainingError(f"{path}: its input is of {kind}, not of float, float16 or uint8")
    names = [one.name for one in model.graph.output]
    if output is None and len(names) > 1:
        raise TrainingError(f"{path}: has outputs {', '.join(names)}; choose one with --output")
    if output is not None and output not in names:
        raise TrainingError(f"{path}: has no output {output!r}, only {', '.join(names)}")
    chosen = output or names[0]
    (result,) = (one for one in model.graph.output if one.name == chosen)
    if result.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise TrainingError(f"{path}: its output {chosen} is no tensor of float or float16")
    return Foreign(path, model, inputs[0].name, tensor.elem_type, shape, chosen)
