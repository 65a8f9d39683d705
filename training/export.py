"""From a run's best weights to a bundle: one ONNX graph, checked against PyTorch, then measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import Bundle, Manifest, Precision, Provenance, write_bundle
from training.classifier import Classifier
from training.datasets import Source, Split, Splits
from training.datasets.location import OWN
from training.deployed import OPSET, Deployed, to_onnx
from training.errors import TrainingError
from training.measure import Answered, OnnxModel, summarise
from training.metrics import describe_share, share_right
from training.new_bundle import (
    bundle_files,
    check_models,
    check_name,
    make_golden,
    next_version,
    read_golden,
)
from training.precision import LIMITS, calibration_images, convert, require_as_good
from training.progress import show
from training.runs import Log, Run, best_entry
from training.speed import measure_speed

PARITY_BATCHES = (1, 7, 64)
MAX_DIFFERENCE = 1e-4
"""Between PyTorch's and ONNX Runtime's probabilities."""
MAX_ACCURACY_DIFFERENCE = 0.001
MAX_LOSS = 1000.0
"""Of an image, in nats. A guess costs ln K, 7 for 1,000 classes: only weights that have run away
make a network over a hundred times as sure of what is wrong. Early epochs may pass through such
losses and recover, so it is the epoch to export that is held to it."""


def export_run(
    run: Run,
    source: Source,
    splits: Splits,
    models: Path,
    *,
    name: str | None = None,
    golden: Path | None = None,
    precision: Precision = "fp32",
) -> Bundle:
    """Write the next version of a bundle from the best epoch of a run; `name` is by default the
    run's.

    Raises: TrainingError where the graph does not do what the network does, or loses too much in
    another precision; BundleError.
    """
    name = check_name(name or run.name)
    check_models(models)
    given = None if golden is None else read_golden(golden, source.spec)
    run.require_same_data(splits)
    log, deployed = restore(run, source)
    show(f"exporting epoch {best_entry(log)['epoch']} as {precision}")
    deployed.calibrate(run.recipe, splits.validation)
    tests = source.tests()
    fp32 = to_onnx(deployed, source.spec)
    reference = require_parity(deployed, fp32, tests)
    samples = calibration_images(splits.train, run.recipe.seed)
    graph, measured = in_precision(precision, fp32, reference, samples, deployed.thresholds)
    speed = measure_speed({precision: graph, "fp32": fp32}, tests[0].images)

    manifest = _manifest(run, log, source, deployed, name, next_version(models, name), precision)
    found = summarise(measured, deployed.thresholds, deployed.temperature)
    manifest = manifest.model_copy(update={"speed": speed, **found})
    proof = make_golden(OnnxModel(graph), source.spec, tests[0], given)
    return write_bundle(models, manifest, bundle_files(manifest, graph, proof, measured, log))


def restore(run: Run, source: Source) -> tuple[Log, Deployed]:
    """The log and the network of a run's best epoch. Raises: TrainingError where none is of use."""
    checkpoint = run.load()
    if not checkpoint["log"]:
        raise TrainingError(f"{run.path}: has not finished an epoch yet; resume it first")
    best = best_entry(checkpoint["log"])
    if best["validation_loss"] > MAX_LOSS:
        raise TrainingError(
            f"export refused: {run.path} has diverged, its best epoch's validation loss is "
            f"{best['validation_loss']:.2g}; train with a lower learning_rate, or set clip_norm"
        )
    classifier = Classifier(run.recipe, source.spec, len(source.labels))
    classifier.load_state_dict(checkpoint["best"])
    return checkpoint["log"], Deployed(classifier).eval()


def require_parity(deployed: Deployed, graph: bytes, tests: Sequence[Split]) -> list[Answered]:
    """Hold the graph against PyTorch on real images; returns its answers to the tests.

    Raises: TrainingError where they differ.
    """
    model = OnnxModel(graph)
    for size in PARITY_BATCHES:
        images = tests[0].images[:size]
        difference = float(np.abs(model(images) - deployed.predict(images)).max())
        # Written so that NaN is refused too.
        if not difference <= MAX_DIFFERENCE:
            raise TrainingError(
                f"export refused: at batch {size} ONNX Runtime and PyTorch differ by "
                f"{difference:.2g}, more than {MAX_DIFFERENCE:g}"
            )
    answered = model.answered(tests)
    for split, answers in answered:
        theirs, ours = (
            share_right(split.labels, given, deployed.thresholds)
            for given in (answers, deployed.predict(split.images))
        )
        if abs(theirs - ours) > MAX_ACCURACY_DIFFERENCE:
            raise TrainingError(
                f"export refused: on {split.name} the ONNX file is "
                f"{describe_share(theirs, len(split))} right, "
                f"PyTorch {describe_share(ours, len(split))}"
            )
    return answered


def in_precision(
    precision: Precision,
    fp32: bytes,
    reference: list[Answered],
    samples: NDArray[np.uint8],
    thresholds: Sequence[float] | None,
) -> tuple[bytes, list[Answered]]:
    """The graph in a precision, with its answers to the tests.

    `reference` are fp32's, `samples` training images that tell a quantiser the ranges of values.

    Raises: TrainingError where it loses too much against fp32.
    """
    if precision == "fp32":
        return fp32, reference
    graph = convert(precision, fp32, samples)
    model = OnnxModel(graph)
    measured = model.answered(split for split, _ in reference)
    require_as_good(precision, model, measured, reference, thresholds)
    return graph, measured


def _manifest(
    run: Run, log: Log, source: Source, deployed: Deployed,
    name: str, version: int, precision: Precision,
) -> Manifest:  # fmt: skip
    """All but what is measured."""
    return Manifest(
        name=name,
        version=version,
        description=run.recipe.description,
        license=run.recipe.license,
        task="multi-label" if run.recipe.objective == "multi-label" else "single-label",
        labels=source.labels,
        thresholds=deployed.thresholds,
        input=source.spec,
        precision=precision,
        opset=OPSET,
        golden_tolerance=LIMITS[precision].golden_tolerance,
        temperature=deployed.temperature,
        files={},
        training=_provenance(run, log, deployed.classifier),
    )


def _provenance(run: Run, log: Log, classifier: Classifier) -> Provenance:
    source = run.recipe.source
    return Provenance(
        dataset=Path(run.environment["data"]).name if source in OWN else source,
        dataset_sha256=run.environment["dataset_sha256"],
        recipe=run.recipe.model_dump(mode="json"),
        seed=run.recipe.seed,
        git_commit=run.environment["git_commit"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=run.environment["hardware"],
        versions=run.environment["versions"],
        train_seconds=round(sum(entry["seconds"] for entry in log), 1),
        train_images=run.environment["train_images"],
        validation_images=run.environment["validation_images"],
        network=run.recipe.network.name,
        parameters=sum(parameter.numel() for parameter in classifier.parameters()),
    )
