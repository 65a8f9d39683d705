"""From a run's best weights to a bundle: one ONNX graph, checked against PyTorch, then measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convoy.bundle import (
    GOLDEN_FILE,
    INPUT_NAME,
    LOG_FILE,
    MODEL_FILE,
    OUTPUT_NAME,
    REPORT_FILE,
    Bundle,
    Manifest,
    Precision,
    Provenance,
    write_bundle,
)
from convoy.imaging import InputSpec
from training.classifier import Classifier
from training.datasets import Labelled, Source, Split, Splits
from training.datasets.location import OWN
from training.errors import TrainingError
from training.measure import Answered, OnnxModel, summarise
from training.metrics import Probabilities, describe_share, share_right
from training.new_bundle import check_name, make_golden, next_version
from training.precision import LIMITS, calibration_images, convert, require_as_good
from training.recipe import Recipe
from training.report import render_report
from training.runs import Log, Run, best_entry
from training.speed import measure_speed
from training.temperature import fit_temperature
from training.thresholds import choose_thresholds

OPSET = 20
"""The first with Gelu as one operator, which ONNX Runtime computes in one pass."""

IR_VERSION = 10

PARITY_BATCHES = (1, 7, 64)
MAX_DIFFERENCE = 1e-4
"""Between PyTorch's and ONNX Runtime's probabilities."""
MAX_ACCURACY_DIFFERENCE = 0.001
MAX_LOSS = 1000.0
"""Of an image, in nats. A guess costs ln K, 7 for 1,000 classes: only weights that have run away
make a network over a hundred times as sure of what is wrong. Early epochs may pass through such
losses and recover, so it is the epoch to export that is held to it."""


class Deployed(nn.Module):
    """What is exported: pixels as they are decoded in, probabilities out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature: float | None = None
        """That the graph divides logits by."""
        self.thresholds: tuple[float, ...] | None = None
        """Of several labels, for the manifest."""

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to float32 (N, K)."""
        outputs: Tensor = self.classifier(images.permute(0, 3, 1, 2))
        if self.temperature is not None:
            outputs = outputs / self.temperature
        return self.classifier.objective.probabilities(outputs)

    @torch.inference_mode()
    def outputs(self, images: NDArray[np.uint8]) -> Tensor:
        """What the temperature is fitted to: float32 (N, O) of uint8 (N, H, W, C)."""
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(PARITY_BATCHES[-1])  # type: ignore[no-untyped-call]
        return torch.cat([self.classifier(batch) for batch in batches])

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8]) -> Probabilities:
        """What the ONNX file is held against, in its batches."""
        batches = torch.from_numpy(images).split(PARITY_BATCHES[-1])  # type: ignore[no-untyped-call]
        return torch.cat([self(batch) for batch in batches]).numpy()

    def calibrate(self, recipe: Recipe, validation: Labelled) -> None:
        """Set what validation images decide: the temperature, the labels' thresholds."""
        if recipe.temperature_scaling and self.classifier.objective.logits:
            outputs, targets = self.outputs(validation.images), torch.from_numpy(validation.labels)
            self.temperature = fit_temperature(recipe, outputs, targets)
        if recipe.objective == "multi-label":
            self.thresholds = choose_thresholds(validation.labels, self.predict(validation.images))


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
    """Write the next version of a bundle from the best epoch of a run.

    Raises: TrainingError where the graph does not do what the network does, or loses too much in
    another precision; BundleError.
    """
    name = check_name(name or run.recipe.name)
    run.require_same_data(splits)
    log, deployed = restore(run, source)
    deployed.calibrate(run.recipe, splits.validation)
    tests = source.tests()
    fp32 = to_onnx(deployed, source.spec)
    require_parity(deployed, fp32, tests)
    samples = calibration_images(splits.train, run.recipe.seed)
    graph, measured = in_precision(precision, fp32, tests, samples, deployed.thresholds)
    speed = measure_speed({precision: graph, "fp32": fp32}, tests[0].images)

    manifest = _manifest(run, log, source, deployed, name, next_version(models, name), precision)
    found = summarise(measured, deployed.thresholds, deployed.temperature)
    manifest = manifest.model_copy(update={"speed": speed, **found})
    proof = make_golden(OnnxModel(graph), source.spec, tests[0], golden)
    files = {
        MODEL_FILE: graph,
        GOLDEN_FILE: proof.to_bytes(),
        LOG_FILE: "".join(json.dumps(entry) + "\n" for entry in log).encode(),
        REPORT_FILE: render_report(manifest, graph, proof, log, measured).encode(),
    }
    return write_bundle(models, manifest, files)


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


def to_onnx(deployed: Deployed, spec: InputSpec) -> bytes:
    """Export with a dynamic batch, and let ONNX's own checker read the result."""
    import onnx

    # Two rows: PyTorch would take a batch of one for a constant.
    example = torch.zeros((2, *spec.shape), dtype=torch.uint8)
    program = torch.onnx.export(
        deployed,
        (example,),
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    # The newest that this opset needs: an IR version of today would shut older runtimes out.
    program.model_proto.ir_version = IR_VERSION
    graph: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(graph, full_check=True)
    return graph


def require_parity(deployed: Deployed, graph: bytes, tests: Sequence[Split]) -> None:
    """Hold the graph against PyTorch on real images. Raises: TrainingError where they differ."""
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
    for split in tests:
        theirs, ours = (
            share_right(split.labels, answer(split.images), deployed.thresholds)
            for answer in (model.predict, deployed.predict)
        )
        if abs(theirs - ours) > MAX_ACCURACY_DIFFERENCE:
            raise TrainingError(
                f"export refused: on {split.name} the ONNX file is "
                f"{describe_share(theirs, len(split))} right, "
                f"PyTorch {describe_share(ours, len(split))}"
            )


def in_precision(
    precision: Precision,
    fp32: bytes,
    tests: Sequence[Split],
    samples: NDArray[np.uint8],
    thresholds: Sequence[float] | None,
) -> tuple[bytes, list[Answered]]:
    """The graph in a precision, with its answers to the tests.

    `samples` are training images that tell a quantiser the ranges of values.

    Raises: TrainingError where it loses too much against fp32.
    """
    reference = OnnxModel(fp32)
    if precision == "fp32":
        return fp32, [(split, reference.predict(split.images)) for split in tests]
    graph = convert(precision, fp32, samples)
    model = OnnxModel(graph)
    measured = [(split, model.predict(split.images)) for split in tests]
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
