"""What a new bundle takes, whoever trained its network: a name, a version, its files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from convoy.bundle import (
    GOLDEN_FILE,
    LOG_FILE,
    MODEL_FILE,
    REPORT_FILE,
    Golden,
    Manifest,
    Name,
    list_versions,
)
from convoy.files import IMAGE_SUFFIXES
from convoy.imaging import InputSpec, decode
from training.datasets import Split
from training.datasets.photos import read_image
from training.errors import TrainingError
from training.measure import Answered, OnnxModel
from training.report import render_report
from training.runs import Log

GOLDEN_IMAGES = 8


def check_name(name: str) -> str:
    """A bundle's name. Raises: TrainingError where it cannot be one."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise TrainingError(
            f"{name!r} cannot be a bundle's name; give one of letters, digits, _, . or - by --name"
        ) from None
    return name


def check_models(models: Path) -> None:
    """Raises: TrainingError where nothing can be written to the folder, or it cannot be made."""
    there = next(path for path in (models, *models.absolute().parents) if path.exists())
    if not there.is_dir():
        raise TrainingError(f"{there}: no folder; name another with --models")
    if not os.access(there, os.W_OK):
        raise TrainingError(f"{there}: cannot be written to; name another with --models")


def make_golden(
    model: OnnxModel, spec: InputSpec, test: Split,
    given: tuple[list[bytes], NDArray[np.uint8]] | None,
) -> Golden:  # fmt: skip
    """What `read_golden` gave, or inputs from the test split, with the model's answers."""
    if given is None:
        rows = np.linspace(0, len(test) - 1, min(GOLDEN_IMAGES, len(test)), dtype=int)
        encoded = [_png(test.images[row]) for row in rows]
        pixels = np.stack([decode(data, spec) for data in encoded])
    else:
        encoded, pixels = given
    return Golden(tuple(encoded), pixels, model(pixels))


def golden_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name. Raises: TrainingError where there are none."""
    shown = (file for file in folder.glob("*") if not file.name.startswith("."))
    files = sorted(file for file in shown if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise TrainingError(f"{folder}: no image files to make golden inputs of")
    return files


def read_golden(folder: Path, spec: InputSpec) -> tuple[list[bytes], NDArray[np.uint8]]:
    """The files of a folder, and their pixels [N, H, W, C]. Raises: TrainingError."""
    files = golden_files(folder)
    pixels = np.stack([read_image(file, spec) for file in files])
    return [file.read_bytes() for file in files], pixels


def next_version(models: Path, name: str) -> int:
    """One more than the newest there is."""
    return max(list_versions(models).get(name, []), default=0) + 1


def bundle_files(
    manifest: Manifest, graph: bytes, proof: Golden, measured: Sequence[Answered], log: Log = ()
) -> dict[str, bytes]:
    """Contents by name: the model, its golden inputs, its page and, if it has one, its log."""
    files = {
        MODEL_FILE: graph,
        GOLDEN_FILE: proof.to_bytes(),
        REPORT_FILE: render_report(manifest, graph, proof, log, measured).encode(),
    }
    if log:
        files[LOG_FILE] = "".join(json.dumps(entry) + "\n" for entry in log).encode()
    return files


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
