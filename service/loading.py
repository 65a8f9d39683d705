"""From a folder on disk to a model that has proved itself on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convoy.bundle import GOLDEN_FILE, Bundle, Golden, Manifest
from convoy.errors import BundleError, ImageError
from convoy.imaging import decode
from service.bound import BoundSession
from service.devices import Device, Plan, providers
from service.errors import ModelFailure, OutOfMemory, UnfitError
from service.session import Session


def open_bundle(path: Path) -> tuple[Bundle, Golden]:
    """Check a bundle's files and read its golden inputs.

    Raises: UnfitError naming the file and the reason.
    """
    try:
        bundle = Bundle.open(path)
        return bundle, bundle.golden()
    except BundleError as error:
        raise UnfitError(str(error)) from None


def open_session(
    bundle: Bundle, golden: Golden, device: Device, *, max_batch_size: int, threads: int
) -> Session:
    """Load a bundle's network, warm it up, replay the golden inputs.

    To be called in the thread that is to use the session.

    Raises: UnfitError naming the file and the reason.
    """
    most = batch_limit(bundle.manifest, max_batch_size)
    session = _load(bundle, device, most, threads)
    try:
        # First, so that what is proven is what will run: on CUDA, recorded graphs.
        _warm_up(golden, session, most)
        _replay(bundle, golden, session, most)
    except ModelFailure as error:
        raise UnfitError(f"{bundle.model_path}: {error.detail}") from None
    except OutOfMemory as error:
        raise UnfitError(f"{bundle.model_path}: {error}: lower --max-batch-size") from None
    return session


def _load(bundle: Bundle, device: Device, most: int, threads: int) -> Session:
    path, manifest = bundle.model_path, bundle.manifest
    options = providers(device, Plan())
    if not device.bound:
        return Session(path, device, threads=threads, providers=options)
    return BoundSession(
        path,
        device,
        most=most,
        shape=manifest.input.shape,
        classes=len(manifest.labels),
        threads=threads,
        providers=options,
    )


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


def _warm_up(golden: Golden, session: Session, most: int) -> None:
    """Run every batch size that can occur: ONNX Runtime plans memory and kernels per shape."""
    images = np.resize(golden.pixels, (most, *golden.pixels.shape[1:]))
    for size in reversed(session.sizes(most)):
        session.run(images[:size])
