"""`manifest.json`: what a bundle says of itself. Its JSON Schema stands in docs/."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from convoy.imaging import InputSpec

SCHEMA_VERSION: Literal[1] = 1

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileEntry(_Record):
    """One file of the bundle."""

    sha256: Sha256
    """Of the whole file, in lower-case hexadecimal."""
    bytes: Annotated[int, Field(ge=0)]
    """Length of the file."""


class Provenance(_Record):
    """Where the weights came from: enough to make them again."""

    dataset: str
    """Name of the data set, or of the folder."""
    dataset_sha256: Sha256 | None = None
    """Over the training images and labels, in order."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The effective recipe, every default filled in."""
    seed: int | None = None
    """What the random generators started from."""
    git_commit: str | None = None
    """Commit of the training code."""
    created: str
    """ISO 8601, UTC."""
    hardware: str
    """Processor or GPU that trained it."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Library versions by name."""
    train_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """Wall-clock time of the training."""
    train_images: Annotated[int, Field(ge=0)] | None = None
    """Images the weights were fitted to."""
    validation_images: Annotated[int, Field(ge=0)] | None = None
    """Images the best epoch was chosen on."""
    network: str | None = None
    """Name of the architecture."""
    parameters: Annotated[int, Field(ge=0)] | None = None
    """Trained numbers in the network."""


class Quality(_Record):
    """How good this very ONNX file is on one split."""

    split: str
    """Name of the split, for example `test-lossless-1000`."""
    images: Annotated[int, Field(ge=1)]
    """Images in the split."""
    accuracy: Share
    """Share of images whose most probable class is right, or all of whose labels are."""
    accuracy_interval: tuple[Share, Share] | None = None
    """The accuracy's 95 % interval (Wilson, 1927), for chance in the choice of the images."""
    top5_accuracy: Share | None = None
    """Share of images whose class is among the five most probable; null for up to five classes."""
    calibration_error: Share
    """Expected calibration error over 15 equal-width bins of confidence (Guo et al., 2017)."""
    unscaled_calibration_error: Share | None = None
    """The same without the model's temperature; null where it has none."""
    precision: tuple[Share, ...]
    """Per class; 0 for a class that is never predicted."""
    recall: tuple[Share, ...]
    """Per class; 0 for a class without images."""
    f1: tuple[Share, ...] = ()
    """Per class: the harmonic mean of precision and recall."""
    macro_f1: Share | None = None
    """Mean F1 of the classes that the split has images of."""
    roc_auc: tuple[Share | None, ...] = ()
    """Per class, area under the ROC curve, where there are two classes or several labels at once;
    null for a class that all images have, or none."""
    confusion: tuple[tuple[int, ...], ...]
    """[K][K] counts: row = the right class, column = the predicted one; empty for several labels
    at once."""


class Baseline(_Record):
    """The distribution of predictions on the test split: what drift is measured against."""

    split: str
    """Name of the split."""
    class_shares: tuple[Share, ...]
    """Share of images for which each class was the most probable."""
    label_shares: tuple[Share, ...] | None = None
    """Of a multi-label model, per class: share of images that were given the label."""
    confidence_shares: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Histogram of the highest probability over equal-width bins from 0 to 1."""


Precision = Literal["fp32", "fp16", "int8"]


class Speed(_Record):
    """Size and time of one precision of the graph, on the machine that made the bundle."""

    precision: Precision
    """Arithmetic of the network."""
    bytes: Annotated[int, Field(ge=1)]
    """Length of the ONNX file."""
    batch_1_ms: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    """Median milliseconds that one image takes by itself."""
    batch_64_ms: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Median milliseconds that 64 images take together; null where they cannot run together."""
    hardware: str
    """Processor that was measured, with ONNX Runtime's CPU provider."""


class Manifest(_Record):
    """`manifest.json`: what a model is, where it came from, how good it is."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Goes up when a reader of the version before would misread the file."""
    name: Name
    """Name of the model, and of the folder that holds its versions."""
    version: Annotated[int, Field(ge=1, le=2**63 - 1)]
    """Version of the model, and name of the bundle's folder."""
    description: str = ""
    """For people: what it was made for, what it should not be used for."""
    license: str | None = None
    """SPDX identifier of the terms the weights are under."""
    task: Literal["single-label", "multi-label"]
    """Whether exactly one class is right, or any number of them."""
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the classes, by index."""
    thresholds: tuple[Share, ...] | None = None
    """Of a multi-label model, per class: a label is given where its probability is above it; null:
    one half for all."""
    input: InputSpec
    """The pixels the model is fed."""
    precision: Precision
    """Arithmetic of the network."""
    opset: Annotated[int, Field(ge=1)]
    """Version of the ONNX operators that it needs."""
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images that may run together without changing each other's answers; null: any number."""
    golden_tolerance: Annotated[float, Field(gt=0.0, le=0.1)]
    """How far a golden probability may be from the recorded one on another machine."""
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """What the graph divides its logits by, fitted on validation images so that a probability is
    how often the model is right (Guo et al., 2017); null: they are as trained."""
    files: dict[FileName, FileEntry]
    """Every file of the bundle but this one, by name."""
    training: Provenance
    """Where the weights came from."""
    quality: tuple[Quality, ...] = ()
    """Measured on the test splits; the first is the one to quote."""
    baseline: Baseline | None = None
    """What drift is measured against."""
    speed: tuple[Speed, ...] = ()
    """This file's, then that of the fp32 graph that it was made from, measured in turns."""

    @property
    def cutoffs(self) -> tuple[float, ...]:
        """Of each class of a multi-label model: `thresholds`, or one half; empty of others."""
        if self.task == "single-label":
            return ()
        return self.thresholds or (0.5,) * len(self.labels)

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Manifest:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self

    @model_validator(mode="after")
    def _thresholds_are_of_several_labels(self) -> Manifest:
        if self.thresholds is not None and self.task != "multi-label":
            raise ValueError("thresholds are for multi-label models only")
        return self

    @model_validator(mode="after")
    def _figures_are_per_label(self) -> Manifest:
        lists: list[tuple[object, ...]] = []
        for quality in self.quality:
            lists += [quality.precision, quality.recall, *quality.confusion]
            optional = (quality.f1, quality.roc_auc, quality.confusion)
            lists += [figures for figures in optional if figures]
        if self.thresholds is not None:
            lists.append(self.thresholds)
        if self.baseline is not None:
            lists.append(self.baseline.class_shares)
            if self.baseline.label_shares is not None:
                lists.append(self.baseline.label_shares)
        if any(len(figures) != len(self.labels) for figures in lists):
            raise ValueError(f"figures per class must be {len(self.labels)}, one for each label")
        return self


def manifest_schema() -> str:
    """The JSON Schema of `manifest.json`, as docs/manifest.schema.json holds it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
