"""`convoy-train import`: a bundle of an ONNX classifier that someone else made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convoy.bundle import Bundle, Golden, Manifest, Provenance, write_bundle
from convoy.imaging import InputSpec
from training.errors import TrainingError
from training.evaluate import folder_split
from training.measure import OnnxModel, summarise
from training.metrics import Probabilities
from training.new_bundle import bundle_files, check_name, next_version, read_golden
from training.onnx_foreign import Foreign, read_foreign
from training.onnx_prove import Images, Wrapped, precision_of, prove, run_by_hand
from training.onnx_wrap import Ending, Preprocessing, opset_of
from training.precision import LIMITS
from training.runs import describe_hardware
from training.speed import measure_speed

Scores = Literal["auto", "logits", "probabilities"]

LEAST_GOLDEN = 2
"""Whether images of a batch leave each other alone takes two."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user says of a model beside its preprocessing."""

    name: str
    labels: tuple[str, ...]
    multi_label: bool = False
    scores: Scores = "auto"
    output: str | None = None
    description: str = ""
    license: str | None = None


def import_model(
    path: Path,
    wanted: Wanted,
    before: Preprocessing,
    models: Path,
    golden: Path,
    data: Path | None = None,
) -> tuple[Bundle, float]:
    """Write the next version of a bundle; returns it and how far it is from the original.

    `golden` is a folder of image files that prove it, `data` one folder of images per label.

    Raises: TrainingError naming the file and what is wrong; BundleError.
    """
    check_name(wanted.name)
    foreign = read_foreign(path, wanted.output)
    _check_input(foreign, before)
    encoded, pixels = _read_golden(golden, before.spec)
    scores = run_by_hand(foreign, before, pixels)
    _check_scores(foreign, scores.shape[1], wanted)
    wrapped = prove(foreign, before, choose_ending(scores, wanted), scores, pixels)
    manifest = _manifest(foreign, wanted, before, wrapped, next_version(models, wanted.name))
    measured = []
    if data is not None:
        tests = [folder_split(manifest, data)]
        measured = OnnxModel(wrapped.graph).answered(tests, wrapped.max_batch_size)
    speed = measure_speed({manifest.precision: wrapped.graph}, pixels, wrapped.batches)
    manifest = manifest.model_copy(update={"speed": speed, **summarise(measured)})
    proof = Golden(tuple(encoded), pixels, wrapped.answers)
    files = bundle_files(manifest, wrapped.graph, proof, measured)
    return write_bundle(models, manifest, files), wrapped.difference


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line. Raises: TrainingError where it is no such file, or one is there twice."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise TrainingError(
            f"{path}: {reason}; --labels names a file of one label a line"
        ) from None
    labels = tuple(line.strip() for line in lines)
    if not labels or not all(labels):
        raise TrainingError(f"{path}: has an empty line, or no line; it needs one label a line")
    seen: set[str] = set()
    for number, label in enumerate(labels, 1):
        if label in seen:
            raise TrainingError(f"{path}: line {number}: {label!r} is there twice")
        seen.add(label)
    return labels


def choose_ending(scores: Probabilities, wanted: Wanted) -> Ending:
    """What is missing to probabilities, told by the user or by the scores themselves."""
    if wanted.scores == "auto":
        sums = np.abs(scores.sum(axis=1) - 1)
        shares = bool((scores >= -1e-3).all() and (scores <= 1 + 1e-3).all())
        # Half precision rounds each of a thousand probabilities.
        done = shares and (wanted.multi_label or bool((sums < 0.02).all()))
    else:
        done = wanted.scores == "probabilities"
    if done:
        return "none"
    return "sigmoid" if wanted.multi_label else "softmax"


def _read_golden(folder: Path, spec: InputSpec) -> tuple[list[bytes], Images]:
    encoded, pixels = read_golden(folder, spec)
    if len(np.unique(pixels, axis=0)) < LEAST_GOLDEN:
        raise TrainingError(f"{folder}: at least {LEAST_GOLDEN} different images are needed")
    return encoded, pixels


def _check_input(foreign: Foreign, before: Preprocessing) -> None:
    """Raises: TrainingError where what the user says cannot be what the file declares."""
    declared, given = foreign.input_shape[1:], before.shape
    if any(side not in (None, ours) for side, ours in zip(declared, given, strict=True)):
        sides = " x ".join(str(side or "?") for side in declared)
        raise foreign.refuse(
            f"takes images of {sides}, but --size and --layout {before.layout} "
            f"say {' x '.join(map(str, given))}"
        )
    plain = Preprocessing(before.spec, before.layout, before.bgr)
    if foreign.takes_pixels and before != plain:
        raise foreign.refuse("takes pixels as they are: leave --scale, --mean and --std out")


def _check_scores(foreign: Foreign, count: int, wanted: Wanted) -> None:
    """Raises: TrainingError where so many scores an image cannot be the labels'."""
    if count == 1 and not wanted.multi_label:  # a softmax over one score is always 1
        raise foreign.refuse(
            "gives one score an image, which tells no classes apart: export it with a score for "
            "each, or name the one label that it scores and add --multi-label"
        )
    if count != len(wanted.labels):
        raise foreign.refuse(
            f"gives {count:,} scores an image, there are {len(wanted.labels):,} labels"
        )


def _manifest(
    foreign: Foreign, wanted: Wanted, before: Preprocessing, wrapped: Wrapped, version: int
) -> Manifest:
    import onnx
    import onnxruntime

    precision = precision_of(foreign.model)
    weights: Sequence[Any] = foreign.model.graph.initializer
    return Manifest(
        name=wanted.name,
        version=version,
        description=wanted.description,
        license=wanted.license,
        task="multi-label" if wanted.multi_label else "single-label",
        labels=wanted.labels,
        input=before.spec,
        precision=precision,
        opset=opset_of(wrapped.model),
        max_batch_size=wrapped.max_batch_size,
        golden_tolerance=LIMITS[precision].golden_tolerance,
        files={},
        training=Provenance(
            dataset="unknown",
            network=f"imported from {foreign.path.name}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            hardware=f"unknown; imported on {describe_hardware()}",
            versions={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
            parameters=sum(int(np.prod(one.dims)) for one in weights),
        ),
    )
