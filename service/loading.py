"""From a folder on disk to a model that has proved itself on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort
import structlog

from convoy.bundle import GOLDEN_FILE, MODEL_FILE, Bundle, Golden, Manifest
from convoy.errors import BundleError, ImageError
from convoy.imaging import decode
from service import cuda
from service.bound import BoundSession, bucket_sizes
from service.devices import CPU, TENSORRT, Device, Engines, Plan, provider_options
from service.errors import ModelFailure, OutOfMemory, UnfitError
from service.session import Scores, Session
from service.settings import Settings
from service.tuning import Memory, choose, cost, filled

Made = TypeVar("Made")

# Raised when plans are chosen in another way: older ones are then not recalled.
RULE = 2

log = structlog.get_logger()


def open_bundle(path: Path) -> tuple[Bundle, Golden]:
    """Check a bundle's files and read its golden inputs.

    Raises: UnfitError naming the file and the reason.
    """
    try:
        bundle = Bundle.open(path)
        return bundle, bundle.golden()
    except BundleError as error:
        raise UnfitError(str(error)) from None


def find_plan(
    bundle: Bundle, golden: Golden, device: Device, settings: Settings, *, beside: bool
) -> Plan:
    """How to run a network on a device: what was measured before, or what is now.

    `beside` others that serve nothing is measured, since both would suffer, and no CUDA graph is
    recorded: while one is, nothing else may use the GPU.

    Raises: UnfitError naming the file and the reason.
    """
    if not device.bound or device.provider == TENSORRT:
        return Plan()
    most = batch_limit(bundle.manifest, settings.max_batch_size)
    memory = Memory(
        settings.cache / "plans",
        model=bundle.manifest.files[MODEL_FILE].sha256,
        batch=most,
        rule=RULE,
        gpu=None if device.provider == CPU else cuda.describe(device.index).kind,
        onnxruntime=ort.__version__,
    )
    if (plan := memory.recall()) is not None or beside:
        plan = plan or Plan()
        return plan.without_graphs() if beside else plan
    images = filled(golden.pixels, most)
    with _fit(bundle):
        plan = choose(lambda plan: cost(_load(bundle, device, plan, settings), images))
    memory.keep(plan)
    log.info("plan", model=bundle.manifest.name, **asdict(plan))
    return plan


def open_session(
    bundle: Bundle, golden: Golden, device: Device, plan: Plan, settings: Settings
) -> Session:
    """Load a bundle's network, warm it up, replay the golden inputs.

    To be called in the thread that is to use the session.

    Raises: UnfitError naming the file and the reason.
    """
    most = batch_limit(bundle.manifest, settings.max_batch_size)

    def ready(plan: Plan) -> Session:
        session = _load(bundle, device, plan, settings)
        # First, so that what is proven is what will run: on CUDA, recorded graphs.
        warm_up(golden, session, most, bound=device.bound)
        if plan.graphs:
            prove_graphs(bundle, golden, session, most)
        return session

    with _fit(bundle):
        session = recorded(ready, plan)
        _replay(bundle, golden, session, most)
    return session


def recorded(make: Callable[[Plan], Made], plan: Plan) -> Made:
    """What `make` makes of a plan, or of one without CUDA graphs where it cannot record them.

    When a plan was chosen, only two buckets were recorded, and there may have been more memory.

    Raises: what `make` raises without graphs.
    """
    try:
        return make(plan)
    except (ModelFailure, OutOfMemory) as error:
        if not plan.graphs:
            raise
        log.warning("graphs_refused", reason=getattr(error, "detail", str(error)))
    return make(plan.without_graphs())


def prove(bundle: Bundle, golden: Golden, device: Device, plan: Plan, settings: Settings) -> None:
    """Load a bundle's network and replay the golden inputs, for the sake of the proof alone.

    Raises: UnfitError.
    """
    with _fit(bundle):
        session = _load(bundle, device, plan, settings)
        _replay(bundle, golden, session, batch_limit(bundle.manifest, settings.max_batch_size))


def open_proven(
    bundle: Bundle, golden: Golden, device: Device, plan: Plan, settings: Settings
) -> Session:
    """Load a bundle's network after `prove`: it runs a single image to have its weights at hand.

    Raises: UnfitError.
    """
    with _fit(bundle):
        session = _load(bundle, device, plan, settings)
        session.run(golden.pixels[:1])
    return session


@contextmanager
def _fit(bundle: Bundle) -> Iterator[None]:
    """A model that fails in here is not fit to serve."""
    try:
        yield
    except ModelFailure as error:
        raise UnfitError(f"{bundle.model_path}: {error.detail}") from None
    except OutOfMemory as error:
        raise UnfitError(f"{bundle.model_path}: {error}: lower --max-batch-size") from None


def _load(bundle: Bundle, device: Device, plan: Plan, settings: Settings) -> Session:
    path, manifest, threads = bundle.model_path, bundle.manifest, settings.compute_threads
    if not device.bound:
        return Session(path, device, threads=threads)
    if device.provider != CPU:
        cuda.load_libraries(tensorrt=device.provider == TENSORRT)
    most = batch_limit(manifest, settings.max_batch_size)
    limit = settings.gpu_memory_limit
    options = provider_options(
        device,
        plan,
        memory_limit=None if limit is None else limit // device.slots,
        engines=_engines(manifest, most, settings.cache) if device.provider == TENSORRT else None,
    )
    return BoundSession(
        path,
        device,
        most=most,
        shape=manifest.input.shape,
        classes=len(manifest.labels),
        threads=threads,
        providers=options,
    )


def _engines(manifest: Manifest, most: int, cache: Path) -> Engines:
    folder = cache / "tensorrt" / manifest.files[MODEL_FILE].sha256[:32]
    kept: Path | None = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("engines_not_kept", folder=str(folder), reason=error.strerror)
        kept = None
    return Engines(kept, manifest.input.shape, most, half=manifest.precision == "fp16")


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
    far = _distance(rows, golden.probabilities)
    if not far <= bundle.manifest.golden_tolerance:  # a NaN must fail too
        raise UnfitError(
            f"{file}: probabilities are {far:.2g} off, the manifest allows "
            f"{bundle.manifest.golden_tolerance:.2g}; the model is not the one that was exported, "
            "or this device computes it wrongly"
        )


def prove_graphs(bundle: Bundle, golden: Golden, session: Session, most: int) -> None:
    """Have each bucket's CUDA graph answer as the network did when it was exported.

    The golden inputs come in another order than the graphs were recorded with: one that has kept
    anything of them shows it.

    Raises: ModelFailure naming the bucket.
    """
    for size in bucket_sizes(most):
        rows = session.run(filled(golden.pixels[::-1], size))
        wanted = np.resize(golden.probabilities[::-1], (size, *golden.probabilities.shape[1:]))
        if not _distance(rows, wanted) <= bundle.manifest.golden_tolerance:
            raise ModelFailure(
                f"the CUDA graph for {size} images gives other probabilities than the network"
            )


def _distance(rows: Scores, wanted: Scores) -> float:
    return float(np.abs(rows - wanted).max())


def warm_up(golden: Golden, session: Session, most: int, *, bound: bool) -> None:
    """Run the largest batch, for which memory is taken; where buffers are bound, each bucket."""
    images = filled(golden.pixels, most)
    for size in reversed(bucket_sizes(most) if bound else (most,)):
        session.run(images[:size])
