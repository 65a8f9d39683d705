"""The model bundle: the one contract between training and serving.

A bundle is the folder `<models>/<name>/<version>/`:

    model.onnx      input `images` uint8 [N, H, W, C], N dynamic
                    output `probabilities` float32 [N, K], softmax or sigmoid inside the graph
    manifest.json   what it is, where it came from, how good it is: `Manifest`
    golden.npz      a few real inputs and the outputs they must give: `Golden`
    log.jsonl       what each epoch of its training measured, where it was trained here
    report.html     for people

It is read with `Bundle.open` and written with `write_bundle`, nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from convoy.errors import BundleError
from convoy.files import write_synced
from convoy.golden import GOLDEN_FILE, Golden
from convoy.manifest import (
    SCHEMA_VERSION,
    Baseline,
    FileEntry,
    Manifest,
    Name,
    Precision,
    Provenance,
    Quality,
    Speed,
)

__all__ = [
    "GOLDEN_FILE",
    "INPUT_NAME",
    "LOG_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "OUTPUT_NAME",
    "REPORT_FILE",
    "SCHEMA_VERSION",
    "Baseline",
    "Bundle",
    "FileEntry",
    "Golden",
    "Manifest",
    "Name",
    "Precision",
    "Provenance",
    "Quality",
    "Speed",
    "list_versions",
    "write_bundle",
]

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
LOG_FILE = "log.jsonl"
REPORT_FILE = "report.html"

INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


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
        folder = Path(os.path.abspath(path))  # a link keeps its own name
        if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
            raise BundleError(
                f"{path / MANIFEST_FILE}: is of {manifest.name}/{manifest.version}, "
                f"but lies in {folder.parent.name}/{folder.name}; copy it to where it belongs"
            )
        for name in (MODEL_FILE, GOLDEN_FILE):
            if name not in manifest.files:
                raise BundleError(f"{path / MANIFEST_FILE}: names no {name}")
        for name, entry in manifest.files.items():
            _check_file(path / name, entry)
        return cls(path, manifest)

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    def golden(self) -> Golden:
        """Read the golden inputs. Raises: BundleError."""
        file = self.path / GOLDEN_FILE
        try:
            golden = Golden.from_bytes(file.read_bytes())
        except OSError as error:
            raise BundleError(f"{file}: {error.strerror}") from None
        except BundleError as error:
            raise BundleError(f"{self.path}/{error}") from None
        count = len(golden.encoded)
        shapes = (count, *self.manifest.input.shape), (count, len(self.manifest.labels))
        if (golden.pixels.shape, golden.probabilities.shape) != shapes:
            raise BundleError(
                f"{file}: shapes {golden.pixels.shape} and {golden.probabilities.shape}, "
                f"expected {shapes[0]} and {shapes[1]}"
            )
        return golden


def list_versions(models: Path) -> dict[str, list[int]]:
    """Names and versions, ascending, of the folders that should hold bundles, whole or not."""
    folders = sorted(one for one in models.glob("*/") if not one.name.startswith("."))
    found = {folder.name: versions_in(folder) for folder in folders}
    return {name: versions for name, versions in found.items() if versions}


def versions_in(folder: Path) -> list[int]:
    """The same of the folder of one name."""
    return sorted(int(one.name) for one in folder.glob("*/") if _VERSION.fullmatch(one.name))


def write_bundle(models: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all: a hidden folder, synced, then renamed into place.

    `manifest.files` is filled in here.

    Raises: BundleError where the version exists already, a file is missing or has a name that is
    not allowed, or the disk refuses.
    """
    final = models / manifest.name / str(manifest.version)
    if final.exists():
        raise BundleError(f"{final}: exists already; choose another version")
    contents = {**files, MANIFEST_FILE: _manifest_text(final, manifest, files)}
    work = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=final.parent))
        for name, data in contents.items():
            write_synced(work / name, data)
        work.chmod(0o755)
        _sync_folder(work)
        work.rename(final)
        _sync_folder(final.parent)
    except OSError as error:
        raise BundleError(f"{final}: cannot be written: {error.strerror or error}") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # in use by other versions, or by this one
            final.parent.rmdir()
    return Bundle.open(final)


def _manifest_text(final: Path, manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    missing = {MODEL_FILE, GOLDEN_FILE} - files.keys()
    if missing or MANIFEST_FILE in files:
        wrong = f"without {', '.join(sorted(missing))}" if missing else f"with a {MANIFEST_FILE}"
        raise BundleError(f"{final}: a bundle cannot be written {wrong}")
    entries = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        for name, data in files.items()
    }
    try:
        fields = manifest.model_copy(update={"files": entries}).model_dump(mode="json")
        Manifest.model_validate(fields)
        text = json.dumps(fields, indent=2, ensure_ascii=False)
    except ValidationError as error:
        raise BundleError(f"{final / MANIFEST_FILE}: {_first(error)}") from None
    except ValueError as error:
        raise BundleError(f"{final / MANIFEST_FILE}: {error}") from None
    return text.encode() + b"\n"


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    try:
        raw = json.loads(file.read_bytes())
    except FileNotFoundError:
        versions = [one.name for one in path.glob("[0-9]*") if one.is_dir()]
        hint = f"; name a version, as {path / max(versions, key=len)}" if versions else ""
        raise BundleError(f"{file}: missing{hint}") from None
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
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
        raise BundleError(f"{file}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    return f"{where}: {first['msg']}"


def _check_file(file: Path, entry: FileEntry) -> None:
    try:
        with file.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        raise BundleError(f"{file}: missing") from None
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    if (size, digest) != (entry.bytes, entry.sha256):
        raise BundleError(
            f"{file}: {size:,} bytes with sha256 {digest[:12]}..., the manifest says "
            f"{entry.bytes:,} and {entry.sha256[:12]}...; the file is damaged or was changed, "
            "copy the bundle again"
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
