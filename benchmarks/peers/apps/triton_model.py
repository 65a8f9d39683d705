"""Triton's python backend: BYTES or UINT8 in, FP32 out."""

import numpy as np
import triton_python_backend_utils as pb_utils

from benchmarks.peers.apps.network import Network


class TritonPythonModel:
    """Decodes and runs what the server has batched."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network."""
        self.network = Network()

    def execute(self, requests: list) -> list:
        """One response for each request; a request holds one image."""
        arrays = [pb_utils.get_input_tensor_by_name(one, "image").as_numpy() for one in requests]
        images = [one[0, 0] if one.dtype == np.object_ else one.tobytes() for one in arrays]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", row[None])])
            for row in self.network(images)
        ]
