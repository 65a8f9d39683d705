"""`convoy-train import`: a bundle of an ONNX classifier that someone else made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from convoy.bundle import (
    GOLDEN_FILE,
    MODEL_FILE,
    Bundle,
    Golden,
    Manifest,
    Name,
    Precision,
    Provenance,
    write_bundle,
)
from convoy.imaging import InputSpec
from training.datasets.folder import read_image
from training.errors import TrainingError
from training.evaluate import folder_split
from training.export import golden_files, next_version
from training.measure import OnnxModel, baseline, measure
from training.metrics import Probabilities
from training.onnx_wrap import Ending, Foreign, Preprocessing, opset_of, read_foreign, wrap
from training.precision import LIMITS, MAX_BATCH_DIFFERENCE
from training.runs import describe_hardware
from training.speed import BATCHES, measure_speed

if TYPE_CHECKING:
    from onnx import ModelProto

Images = NDArray[np.uint8]
Scores = Literal["auto", "logits", "probabilities"]

MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "int8": 5e-3}
"""Between the bundle's probabilities and the original's, fed by hand one image at a time."""

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


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A model with a bundle's signature, proven on real images."""

    model: ModelProto
    graph: bytes
    max_batch_size: int | None
    answers: Probabilities
    difference: float
    """From the original, fed by hand."""


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
    foreign = read_foreign(path, wanted.output)
    _check_input(foreign, before)
    _check_name(wanted.name)
    files, pixels = _read_golden(golden, before.spec)
    scores = run_by_hand(foreign, before, pixels)
    if scores.shape[1] != len(wanted.labels):
        raise foreign.refuse(
            f"gives {scores.shape[1]:,} scores an image, there are {len(wanted.labels):,} labels"
        )
    wrapped = prove(foreign, before, choose_ending(scores, wanted), scores, pixels)
    manifest = _manifest(foreign, wanted, before, wrapped, next_version(models, wanted.name))
    if data is not None:
        manifest = _with_quality(manifest, wrapped, data)
    batches = BATCHES if wrapped.max_batch_size is None else (1,)
    speed = measure_speed({manifest.precision: wrapped.graph}, pixels, batches)
    encoded = tuple(file.read_bytes() for file in files)
    contents = {
        MODEL_FILE: wrapped.graph,
        GOLDEN_FILE: Golden(encoded, pixels, wrapped.answers).to_bytes(),
    }
    bundle = write_bundle(models, manifest.model_copy(update={"speed": speed}), contents)
    return bundle, wrapped.difference


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line. Raises: TrainingError where it is no such file, or one is there twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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


def run_by_hand(foreign: Foreign, before: Preprocessing, images: Images) -> Probabilities:
    """Raw scores of the original, [N, K], fed one image at a time.

    Raises: TrainingError where it does not run, or gives no row of scores.
    """
    from onnx import TensorProto, helper

    session = _session(foreign)
    kind = helper.tensor_dtype_to_np_dtype(foreign.input_type)
    if foreign.input_type == TensorProto.UINT8:
        fed = images[..., ::-1] if before.bgr else images
        fed = fed.transpose(0, 3, 1, 2) if before.layout == "nchw" else fed
    else:
        fed = before(images).astype(kind)
    rows = []
    for image in fed:
        # A file that fixes a batch gets the image as often as it wants.
        batch = np.repeat(image[None], foreign.input_shape[0] or 1, axis=0)
        try:
            (scores,) = session.run([foreign.output], {foreign.input: batch})
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise foreign.refuse(f"does not run on {before.shape}: {_line(error)}") from None
        if scores.ndim < 2 or scores.shape[0] != len(batch) or scores[0].size != scores.shape[1]:
            raise foreign.refuse(f"gives an output of shape {scores.shape}, not a row of scores")
        rows.append(scores[0].reshape(-1).astype(np.float32))
    answer = np.stack(rows)
    if not np.isfinite(answer).all():
        raise foreign.refuse("gives NaN or infinity")
    return answer


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


def prove(
    foreign: Foreign, before: Preprocessing, ending: Ending, scores: Probabilities, images: Images
) -> Wrapped:
    """Wrap a model, with an open batch where it bears one, and hold it against the original.

    Raises: TrainingError where its answers are others.
    """
    expected = _finish(scores, ending)
    allowed = MAX_DIFFERENCE[precision_of(foreign.model)]
    most: int | None = None
    answers, model = _try(foreign, before, ending, images, dynamic=True)
    if answers is None and foreign.input_shape[0] == 1:
        answers, model = _try(foreign, before, ending, images, dynamic=False)
        most = 1
    if answers is None:
        raise foreign.refuse("cannot be run on a batch of one image")
    difference = float(np.abs(answers - expected).max())
    if not difference <= allowed:
        raise foreign.refuse(
            f"wrapped, it answers {difference:.2g} off what it does by itself, "
            f"more than {allowed:g}"
        )
    graph = model.SerializeToString()
    if most is None and not _bears_batches(OnnxModel(graph), images, answers):
        most = 1
    return Wrapped(model, graph, most, answers, difference)


def precision_of(model: ModelProto) -> Precision:
    """Arithmetic of a network, by its operators and its largest weights."""
    from onnx import TensorProto

    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node):
        return "int8"
    sizes = {"fp32": 0, "fp16": 0}
    for one in model.graph.initializer:
        if one.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            kind = "fp16" if one.data_type == TensorProto.FLOAT16 else "fp32"
            sizes[kind] += int(np.prod(one.dims))
    return "fp16" if sizes["fp16"] > sizes["fp32"] else "fp32"


def _try(
    foreign: Foreign, before: Preprocessing, ending: Ending, images: Images, *, dynamic: bool
) -> tuple[Probabilities | None, ModelProto]:
    """Answers one image at a time; none where the graph does not run, or not on two."""
    try:
        wrapped = wrap(foreign, before, ending, dynamic=dynamic)
    except Exception as error:  # of ONNX's converter and checker
        raise foreign.refuse(f"cannot be wrapped: {_line(error)}") from None
    try:
        model = OnnxModel(wrapped.SerializeToString())
        if dynamic and len(model(images[:2])) != 2:
            return None, wrapped
        return model.predict(images, 1), wrapped
    except Exception:  # of ONNX Runtime; the caller tries the next way or says so
        return None, wrapped


def _bears_batches(model: OnnxModel, images: Images, alone: Probabilities) -> bool:
    moved = float(np.abs(model(images) - alone).max())
    return moved <= MAX_BATCH_DIFFERENCE


def _finish(scores: Probabilities, ending: Ending) -> Probabilities:
    if ending == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    return np.asarray(1 / (1 + np.exp(-scores)), np.float32) if ending == "sigmoid" else scores


def _read_golden(folder: Path, spec: InputSpec) -> tuple[list[Path], Images]:
    files = golden_files(folder)
    pixels = np.stack([read_image(file, spec) for file in files])
    if len(np.unique(pixels, axis=0)) < LEAST_GOLDEN:
        raise TrainingError(f"{folder}: at least {LEAST_GOLDEN} different images are needed")
    return files, pixels


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise TrainingError(
            f"{name!r} cannot be a bundle's name; give one of letters, digits, _, . or - by --name"
        ) from None


def _check_input(foreign: Foreign, before: Preprocessing) -> None:
    """Raises: TrainingError where what the user says cannot be what the file declares."""
    declared, given = foreign.input_shape[1:], before.shape
    if any(side not in (None, ours) for side, ours in zip(declared, given, strict=True)):
        sides = " x ".join(str(side or "?") for side in declared)
        raise foreign.refuse(
            f"takes images of {sides}, but --size and --layout {before.layout} "
            f"say {' x '.join(map(str, given))}"
        )


def _session(foreign: Foreign) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would log, it raises
    try:
        return onnxruntime.InferenceSession(
            foreign.path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise foreign.refuse(f"ONNX Runtime cannot load it: {_line(error)}") from None


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


def _with_quality(manifest: Manifest, wrapped: Wrapped, data: Path) -> Manifest:
    split = folder_split(manifest, data)
    answers = OnnxModel(wrapped.graph).predict(split.images, wrapped.max_batch_size)
    return manifest.model_copy(
        update={"quality": (measure(split, answers),), "baseline": baseline(split, answers)}
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
