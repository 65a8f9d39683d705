"""From a folder on disk to a model that has proved itself on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convoy.bundle import GOLDEN_FILE, Bundle, Golden, Manifest
from convoy.errors import BundleError, ImageError
from convoy.imaging import decode
from service.errors import ModelFailure, OutOfMemory, UnfitError
from service.session import Device, Session


def load(
    path: Path, device: Device, *, max_batch_size: int, threads: int
) -> tuple[Bundle, Session]:
    """Check a bundle's files, load its network, replay its golden inputs, warm it up.

    Raises: UnfitError naming the file and the reason.
    """
    try:
        bundle = Bundle.open(path)
        golden = bundle.golden()
    except BundleError as error:
        raise UnfitError(str(error)) from None
    session = Session(bundle.model_path, device, threads=threads)
    most = batch_limit(bundle.manifest, max_batch_size)
    try:
        _replay(bundle, golden, session, most)
        _warm_up(golden, session, most)
    except ModelFailure as error:
        raise UnfitError(f"{bundle.model_path}: {error.detail}") from None
    except OutOfMemory as error:
        raise UnfitError(f"{bundle.model_path}: {error}: lower --max-batch-size") from None
    return bundle, session


def batch_limit(manifest: Manifest, wanted: int) -> int:
    """Images that may run together: a network may mix them, as int8 ranges over a batch do."""
    return min(wanted, manifest.max_batch_size or wanted)


def _replay(bundle: Bundle, golden: Golden, session: Session, most: int) -> None:
    """Decode and classify the golden inputs; both must come out as they did when exported."""
    file = bundle.path / GOLDEN_FILE
    for index, encoded in enumerate(golden.encoded):
        try:
            pixels = decode(encoded, bundle.manifest.input)
        except ImageError as error:
            raise UnfitError(f"{file}: input {index} does not decode here: {error}") from None
        off = int(np.abs(pixels.astype(int) - golden.pixels[index]).max())
        if off > Golden.MAX_LEVEL_DIFFERENCE:
            raise UnfitError(
                f"{file}: input {index} decodes to pixels up to {off} levels off; "
                "this machine's image libraries do not fit the bundle"
            )
    starts = range(0, len(golden.pixels), most)
    rows = np.concatenate([session.run(golden.pixels[at : at + most]) for at in starts])
    if rows.shape != golden.probabilities.shape:
        raise UnfitError(
            f"{file}: the model gives {rows.shape} for the golden inputs, "
            f"expected {golden.probabilities.shape}"
        )
    far = float(np.abs(rows - golden.probabilities).max())
    if not far <= bundle.manifest.golden_tolerance:  # a NaN must fail too
        raise UnfitError(
            f"{file}: probabilities are {far:.2g} off, the manifest allows "
            f"{bundle.manifest.golden_tolerance:.2g}; the model is not the one that was exported, "
            "or this device computes it wrongly"
        )


def _warm_up(golden: Golden, session: Session, max_batch_size: int) -> None:
    """Run every batch size that can occur: ONNX Runtime plans memory and kernels per shape."""
    images = np.resize(golden.pixels, (max_batch_size, *golden.pixels.shape[1:]))
    for size in range(max_batch_size, 0, -1):
        session.run(images[:size])
