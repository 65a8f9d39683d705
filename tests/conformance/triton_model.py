"""The Python backend's model for the comparison: the bundle's ONNX file, and nothing around it."""

import io
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from PIL import Image


class TritonPythonModel:
    """Pixels in `images`, or image files of the right size in `encoded_images`."""

    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        providers = ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(folder / "model.onnx", providers=providers)

    def execute(self, requests):
        return [self.answer(one) for one in requests]

    def answer(self, request):
        tensor = pb_utils.get_input_tensor_by_name(request, "images")
        if tensor is None:
            files = pb_utils.get_input_tensor_by_name(request, "encoded_images").as_numpy()
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in files])
        else:
            pixels = tensor.as_numpy()
        (scores,) = self.session.run(None, {"images": pixels})
        return pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", scores)])
