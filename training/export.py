"""From a run's best weights to a bundle: one ONNX graph, checked against PyTorch, then measured."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from convoy.bundle import (
    GOLDEN_FILE,
    INPUT_NAME,
    LOG_FILE,
    MODEL_FILE,
    OUTPUT_NAME,
    REPORT_FILE,
    Bundle,
    Golden,
    Manifest,
    Precision,
    Provenance,
    list_versions,
    write_bundle,
)
from convoy.imaging import InputSpec, decode
from training.classifier import Classifier
from training.datasets import Labelled, Split, open_source, split_training
from training.datasets.folder import SUFFIXES, read_image
from training.datasets.location import OWN
from training.errors import TrainingError
from training.measure import OnnxModel, baseline, measure
from training.metrics import Probabilities, describe_share, share_right
from training.precision import LIMITS, calibration_images, convert, require_as_good
from training.recipe import Recipe
from training.report import render_report
from training.runs import Run
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

GOLDEN_IMAGES = 8


class Deployed(nn.Module):
    """What is exported: pixels as they are decoded in, probabilities out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature: float | None = None

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


def export_run(
    run: Run,
    models: Path,
    data: Path,
    *,
    name: str | None = None,
    golden: Path | None = None,
    precision: Precision = "fp32",
) -> Bundle:
    """Write the next version of a bundle from the best epoch of a run.

    Raises: TrainingError where the graph does not do what the network does, or loses too much in
    another precision; BundleError.
    """
    checkpoint = run.load()
    if not checkpoint["log"]:
        raise TrainingError(f"{run.path}: has not finished an epoch yet; resume it first")
    source = open_source(run.recipe, data)
    classifier = Classifier(run.recipe, source.spec, len(source.labels))
    classifier.load_state_dict(checkpoint["best"])
    deployed = Deployed(classifier).eval()
    splits = split_training(source, run.recipe)
    thresholds = calibrate(deployed, run.recipe, splits.validation)

    tests = source.tests()
    fp32 = to_onnx(deployed, source.spec)
    require_parity(deployed, fp32, tests)
    graph = convert(precision, fp32, calibration_images(splits.train, run.recipe.seed))
    model = OnnxModel(graph)
    answers = [model.predict(split.images) for split in tests]
    if precision != "fp32":
        require_as_good(precision, model, answers, OnnxModel(fp32), tests)

    name = name or run.recipe.name
    manifest = Manifest(
        name=name,
        version=next_version(models, name),
        description=run.recipe.description,
        license=run.recipe.license,
        task="multi-label" if run.recipe.objective == "multi-label" else "single-label",
        labels=source.labels,
        thresholds=thresholds,
        input=source.spec,
        precision=precision,
        opset=OPSET,
        golden_tolerance=LIMITS[precision].golden_tolerance,
        temperature=deployed.temperature,
        files={},
        training=_provenance(run, checkpoint["log"], classifier),
        quality=tuple(
            measure(split, answer, thresholds, deployed.temperature)
            for split, answer in zip(tests, answers, strict=True)
        ),
        baseline=baseline(tests[0], answers[0]),
        speed=measure_speed({precision: graph, "fp32": fp32}, tests[0].images),
    )
    proof = make_golden(model, source.spec, tests[0], golden)
    measured = list(zip(tests, answers, strict=True))
    page = render_report(manifest, graph, proof, checkpoint["log"], measured)
    files = {
        MODEL_FILE: graph,
        GOLDEN_FILE: proof.to_bytes(),
        LOG_FILE: "".join(json.dumps(entry) + "\n" for entry in checkpoint["log"]).encode(),
        REPORT_FILE: page.encode(),
    }
    return write_bundle(models, manifest, files)


def calibrate(deployed: Deployed, recipe: Recipe, validation: Labelled) -> tuple[float, ...] | None:
    """Fit what validation images decide: sets the temperature; returns the labels' thresholds."""
    if recipe.temperature_scaling and deployed.classifier.objective.logits:
        outputs, targets = deployed.outputs(validation.images), torch.from_numpy(validation.labels)
        deployed.temperature = fit_temperature(recipe, outputs, targets)
    if recipe.objective != "multi-label":
        return None
    return choose_thresholds(validation.labels, deployed.predict(validation.images))


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
            share_right(split.labels, answer(split.images))
            for answer in (model.predict, deployed.predict)
        )
        if abs(theirs - ours) > MAX_ACCURACY_DIFFERENCE:
            raise TrainingError(
                f"export refused: on {split.name} the ONNX file is "
                f"{describe_share(theirs, len(split))} right, "
                f"PyTorch {describe_share(ours, len(split))}"
            )


def make_golden(model: OnnxModel, spec: InputSpec, test: Split, folder: Path | None) -> Golden:
    """Inputs from a folder of image files, or from the test split, with the model's answers."""
    if folder is None:
        rows = np.linspace(0, len(test) - 1, min(GOLDEN_IMAGES, len(test)), dtype=int)
        encoded = [_png(test.images[row]) for row in rows]
        pixels = np.stack([decode(data, spec) for data in encoded])
    else:
        files = golden_files(folder)
        encoded = [file.read_bytes() for file in files]
        pixels = np.stack([read_image(file, spec) for file in files])
    return Golden(tuple(encoded), pixels, model(pixels))


def golden_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name. Raises: TrainingError where there are none."""
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise TrainingError(f"{folder}: no image files to make golden inputs of")
    return files


def next_version(models: Path, name: str) -> int:
    """One more than the newest there is."""
    return max(list_versions(models).get(name, []), default=0) + 1


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _provenance(run: Run, log: Sequence[dict[str, float]], classifier: Classifier) -> Provenance:
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
