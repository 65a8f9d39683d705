"""LitServe: a form with one file in, raw float32 out, over HTTP."""

import sys

import litserve
from fastapi import Request, Response

from benchmarks.peers.apps.network import BATCH, INSTANCES, Network


class Classify(litserve.LitAPI):
    """Decodes and runs one batch."""

    def setup(self, device: str) -> None:
        """Load the network in a worker."""
        self.network = Network()

    def decode_request(self, request: Request) -> bytes:
        """The file of the form."""
        return request["image"].file.read()

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Nothing to stack yet."""
        return inputs

    def predict(self, images: list[bytes]) -> list[bytes]:
        """Probabilities of each image."""
        return [row.tobytes() for row in self.network(images)]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """One answer for each image."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """As it is."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    api = Classify(max_batch_size=BATCH, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=INSTANCES)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
