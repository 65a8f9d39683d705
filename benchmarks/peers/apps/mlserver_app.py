"""MLServer: a custom runtime; its adaptive batching has put the images together."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.apps.network import Network


class Classify(MLModel):
    """Decodes and runs one batch."""

    async def load(self) -> bool:
        """Load the network."""
        self.network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One row of probabilities for each image."""
        image = payload.inputs[0]
        if image.datatype == "BYTES":
            images = list(image.data)
        else:
            images = [one.tobytes() for one in NumpyCodec.decode_input(image)]
        output = NumpyCodec.encode_output(
            "probabilities", np.ascontiguousarray(self.network(images))
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
