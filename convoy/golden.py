"""`golden.npz`: real inputs that prove a model anew on every machine that loads it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convoy.errors import BundleError

GOLDEN_FILE = "golden.npz"


@dataclass(frozen=True, slots=True)
class Golden:
    """Real inputs with the outputs they must give on every machine."""

    encoded: tuple[bytes, ...]
    """Image files."""
    pixels: NDArray[np.uint8]
    """[G, H, W, C]: what they must decode to."""
    probabilities: NDArray[np.float32]
    """[G, K]: what the model must answer for `pixels`."""

    # libjpeg builds differ in the last bit of their inverse DCT and upsampling, and the two ways to
    # resize by a level or two.
    MAX_LEVEL_DIFFERENCE = 4

    def to_bytes(self) -> bytes:
        """Serialise as .npz; the files are stored end to end, cut at `lengths`."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            encoded=np.frombuffer(b"".join(self.encoded), np.uint8),
            lengths=np.array([len(one) for one in self.encoded], np.int64),
            pixels=self.pixels,
            probabilities=self.probabilities,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """Read what `to_bytes` wrote. Raises: BundleError."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                counts, whole = file["lengths"], file["encoded"].tobytes()
                pixels, probabilities = file["pixels"], file["probabilities"]
        except Exception as error:  # NumPy and zipfile raise nearly anything on damaged files
            raise BundleError(f"{GOLDEN_FILE}: not readable: {error}") from None
        if counts.ndim != 1 or counts.dtype.kind != "i" or 0 in (pixels.ndim, probabilities.ndim):
            raise BundleError(f"{GOLDEN_FILE}: not readable: its arrays are not those of inputs")
        lengths = counts.tolist()
        if not len(lengths) == len(pixels) == len(probabilities) > 0:
            raise BundleError(f"{GOLDEN_FILE}: holds no inputs, or a different number of outputs")
        if min(lengths) < 0 or sum(lengths) != len(whole):
            raise BundleError(f"{GOLDEN_FILE}: lengths do not add up to the encoded images")
        if (pixels.dtype, probabilities.dtype) != (np.uint8, np.float32):
            raise BundleError(
                f"{GOLDEN_FILE}: holds {pixels.dtype} pixels and {probabilities.dtype} "
                "probabilities, expected uint8 and float32"
            )
        rest = io.BytesIO(whole)
        return cls(tuple(rest.read(length) for length in lengths), pixels, probabilities)
