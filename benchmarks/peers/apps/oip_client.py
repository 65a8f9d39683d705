"""A stock client of the Open Inference Protocol: tritonclient.

    python -m benchmarks.peers.apps.oip_client request IMAGE SIDE FILE
    python -m benchmarks.peers.apps.oip_client ask IMAGE SIDE FILE HOST:PORT

`request` writes the message for one image, `ask` sends it and writes the probabilities, float32.
"""

import sys
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2


def image_input(data: bytes, side: int) -> InferInput:
    """One image: pixels as UINT8 [1, side, side, 3], or a file as BYTES [1, 1]."""
    if len(data) == side**2 * 3:
        tensor = InferInput("image", [1, side, side, 3], "UINT8")
        tensor.set_data_from_numpy(np.frombuffer(data, np.uint8).reshape(1, side, side, 3))
    else:
        tensor = InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
    return tensor


def message(tensor: InferInput) -> service_pb2.ModelInferRequest:
    """The request that the client would send."""
    request = service_pb2.ModelInferRequest(model_name="network")
    request.inputs.add(name=tensor.name(), datatype=tensor.datatype(), shape=tensor.shape())
    request.raw_input_contents.append(tensor._get_content())
    return request


def main() -> None:
    """Write the request, or ask."""
    command, image, side, file, *address = sys.argv[1:]
    tensor = image_input(Path(image).read_bytes(), int(side))
    if command == "request":
        Path(file).write_bytes(message(tensor).SerializeToString())
        return
    with InferenceServerClient(*address) as client:
        answer = client.infer("network", [tensor]).as_numpy("probabilities")
    Path(file).write_bytes(answer.tobytes())


if __name__ == "__main__":
    main()
