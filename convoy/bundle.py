"""The model bundle: the one contract between training and serving.

A bundle is the folder `<models>/<name>/<version>/`:

    model.onnx      input `images` uint8 [N, H, W, C], N dynamic
                    output `probabilities` float32 [N, K], softmax or sigmoid inside the graph
    manifest.json   what it is, where it came from, how good it is: `Manifest`
    golden.npz      a few real inputs and the outputs they must give: `Golden`
    report.html     for people

It is read with `Bundle.open` and written with `write_bundle`, nowhere else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convoy.errors import BundleError
from convoy.imaging import InputSpec

SCHEMA_VERSION: Literal[1] = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
REPORT_FILE = "report.html"

INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Record):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Provenance(_Record):
    """Where the weights came from: enough to make them again."""

    dataset: str
    dataset_sha256: Sha256 | None = None
    """Over the training images and labels, in order."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The effective recipe, every default filled in."""
    seed: int | None = None
    git_commit: str | None = None
    created: str
    """ISO 8601, UTC."""
    hardware: str
    versions: dict[str, str] = Field(default_factory=dict)
    """Library versions by name."""
    train_seconds: float | None = None


class Quality(_Record):
    """How good this very ONNX file is on one split."""

    split: str
    """Name of the split, for example `test-lossless-1000`."""
    images: Annotated[int, Field(ge=1)]
    accuracy: Share
    """Share of images whose most probable class is right."""
    calibration_error: Share
    """Expected calibration error over 15 equal-width bins of confidence (Guo et al., 2017)."""
    precision: tuple[Share, ...]
    """Per class; 0 for a class that is never predicted."""
    recall: tuple[Share, ...]
    """Per class; 0 for a class without images."""
    confusion: tuple[tuple[int, ...], ...]
    """[K][K] counts: row = the right class, column = the predicted one."""


class Baseline(_Record):
    """The distribution of predictions on the test split: what drift is measured against."""

    split: str
    class_shares: tuple[Share, ...]
    """Share of images for which each class was the most probable."""
    confidence_shares: tuple[Share, ...]
    """Histogram of the highest probability over equal-width bins from 0 to 1."""


class Manifest(_Record):
    """`manifest.json`. Its JSON Schema stands in docs/manifest.schema.json."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Name
    version: Annotated[int, Field(ge=1)]
    task: Literal["single-label", "multi-label"]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the classes, by index."""
    input: InputSpec
    precision: Literal["fp32", "fp16", "int8"]
    opset: Annotated[int, Field(ge=1)]
    golden_tolerance: Annotated[float, Field(gt=0.0, le=0.1)]
    """How far a golden probability may be from the recorded one on another machine."""
    files: dict[FileName, FileEntry]
    training: Provenance
    quality: tuple[Quality, ...] = ()
    """Measured on the test splits; the first is the one to quote."""
    baseline: Baseline | None = None

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Manifest:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self


@dataclass(frozen=True, slots=True)
class Golden:
    """Real inputs with the outputs they must give on every machine."""

    encoded: tuple[bytes, ...]
    """Image files."""
    pixels: NDArray[np.uint8]
    """[G, H, W, C]: what they must decode to."""
    probabilities: NDArray[np.float32]
    """[G, K]: what the model must answer for `pixels`."""

    # libjpeg builds differ in the last bit of their inverse DCT and upsampling.
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
                ends = np.cumsum(file["lengths"])
                whole = file["encoded"].tobytes()
                encoded = tuple(
                    whole[end - length : end]
                    for end, length in zip(ends, file["lengths"], strict=True)
                )
                pixels, probabilities = file["pixels"], file["probabilities"]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise BundleError(f"{GOLDEN_FILE}: not readable: {error}") from None
        if not len(encoded) == len(pixels) == len(probabilities) > 0:
            raise BundleError(f"{GOLDEN_FILE}: holds no inputs, or a different number of outputs")
        return cls(encoded, pixels, probabilities)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose files are the ones its manifest names."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read the manifest and check every file against it.

        Raises: BundleError naming the file and the reason.
        """
        manifest = _read_manifest(path)
        for name, entry in manifest.files.items():
            _check_file(path / name, entry)
        for name in (MODEL_FILE, GOLDEN_FILE):
            if name not in manifest.files:
                raise BundleError(f"{path / MANIFEST_FILE}: names no {name}")
        if (path.parent.name, path.name) != (manifest.name, str(manifest.version)):
            raise BundleError(
                f"{path / MANIFEST_FILE}: is of {manifest.name}/{manifest.version}, "
                f"but lies in {path.parent.name}/{path.name}; copy the bundle to where it belongs"
            )
        return cls(path, manifest)

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    def golden(self) -> Golden:
        """Read the golden inputs. Raises: BundleError."""
        try:
            golden = Golden.from_bytes((self.path / GOLDEN_FILE).read_bytes())
        except BundleError as error:
            raise BundleError(f"{self.path}/{error}") from None
        count = len(golden.encoded)
        shapes = (count, *self.manifest.input.shape), (count, len(self.manifest.labels))
        if (golden.pixels.shape, golden.probabilities.shape) != shapes:
            raise BundleError(
                f"{self.path / GOLDEN_FILE}: shapes {golden.pixels.shape} and "
                f"{golden.probabilities.shape}, expected {shapes[0]} and {shapes[1]}"
            )
        return golden


def list_versions(models: Path) -> dict[str, list[int]]:
    """Names and versions, ascending, of the folders that claim to hold bundles."""
    found: dict[str, list[int]] = {}
    for manifest in models.glob(f"*/*/{MANIFEST_FILE}"):
        name, version = manifest.parent.parent.name, manifest.parent.name
        if version.isascii() and version.isdecimal() and not name.startswith("."):
            found.setdefault(name, []).append(int(version))
    return {name: sorted(found[name]) for name in sorted(found)}


def write_bundle(models: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all: a hidden folder, synced, then renamed into place.

    `manifest.files` is filled in here.

    Raises: BundleError where the version exists already or the disk refuses.
    """
    final = models / manifest.name / str(manifest.version)
    if final.exists():
        raise BundleError(f"{final}: exists already; choose another version")
    entries = {
        name: FileEntry(sha256=_sha256(data), bytes=len(data)) for name, data in files.items()
    }
    manifest = manifest.model_copy(update={"files": entries})
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    work = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=final.parent))
        for name, data in {**files, MANIFEST_FILE: text.encode()}.items():
            _write_synced(work / name, data)
        work.chmod(0o755)
        _sync_folder(work)
        work.rename(final)
        _sync_folder(final.parent)
    except OSError as error:
        raise BundleError(f"{final}: cannot be written: {error.strerror or error}") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return Bundle.open(final)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    try:
        raw = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{file}: missing") from None
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{file}: not JSON: {error}") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{file}: schema_version is {version!r}, this release reads {SCHEMA_VERSION}; "
            "export the bundle again or upgrade Convoy"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{file}: {where}: {first['msg']}") from None


def _check_file(file: Path, entry: FileEntry) -> None:
    try:
        digest = _sha256(file.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{file}: missing") from None
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    if digest != entry.sha256:
        raise BundleError(
            f"{file}: sha256 is {digest[:12]}..., the manifest says {entry.sha256[:12]}...; "
            "the file is damaged or was changed, copy the bundle again"
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_synced(file: Path, data: bytes) -> None:
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
