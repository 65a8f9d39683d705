"""What every peer does with a batch: the same decoding, the same ONNX file.

The environment says what to serve: PEER_MODEL, PEER_SIDE, PEER_ENCODED (0 or 1), PEER_THREADS,
PEER_INSTANCES, PEER_BATCH.
"""

from __future__ import annotations

import io
import os

import numpy as np
import onnxruntime as ort
from PIL import Image

INSTANCES = int(os.environ.get("PEER_INSTANCES", "1"))
BATCH = int(os.environ.get("PEER_BATCH", "16"))


class Network:
    """One ONNX Runtime session; called with the bytes of images, gives probabilities [N, K]."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._side = int(os.environ["PEER_SIDE"])
        self._encoded = os.environ["PEER_ENCODED"] == "1"

    def __call__(self, images: list[bytes]) -> np.ndarray:
        """Decode where that is needed, run all as one batch; float32 [N, K]."""
        read = shrunk if self._encoded else raw
        rows = [read(one, self._side) for one in images]
        return self._session.run(None, {"images": np.stack(rows)})[0]


def raw(data: bytes, side: int) -> np.ndarray:
    """Pixels as they came, uint8 [side, side, 3]."""
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def shrunk(data: bytes, side: int) -> np.ndarray:
    """The middle square of a JPEG, uint8 [side, side, 3].

    Decoded by Pillow at reduced scale where twice the target remains; bilinear.
    """
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * side, 2 * side))
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    image = image.convert("RGB")
    small = image.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=3.0)
    return np.asarray(small)
