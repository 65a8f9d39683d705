"""Bundles: what is written is what is read, and whatever else lies there is refused by name."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from convoy.bundle import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Baseline,
    Bundle,
    Golden,
    Manifest,
    Provenance,
    Quality,
    list_versions,
    write_bundle,
)
from convoy.errors import BundleError
from convoy.imaging import InputSpec
from convoy.manifest import manifest_schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs" / "manifest.schema.json"
LABELS = ("daisy", "rose", "tulip")


def manifest(**changes: object) -> Manifest:
    quality = Quality(
        split="test",
        images=3,
        accuracy=1.0,
        calibration_error=0.25,
        precision=(1.0, 1.0, 1.0),
        recall=(1.0, 1.0, 1.0),
        confusion=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    )
    fields: dict[str, object] = {
        "name": "flowers",
        "version": 3,
        "task": "single-label",
        "labels": LABELS,
        "input": InputSpec(height=4, width=6, channels=3),
        "precision": "fp32",
        "opset": 18,
        "golden_tolerance": 1e-4,
        "files": {},
        "training": Provenance(
            dataset="flowers", created="2026-01-01T00:00:00Z", hardware="2 cores", seed=7
        ),
        "quality": (quality,),
        "baseline": Baseline(
            split="test", class_shares=(0.5, 0.25, 0.25), confidence_shares=(0.0, 1.0)
        ),
    }
    return Manifest.model_validate(fields | changes)


def golden(count: int = 2) -> Golden:
    pixels = np.arange(count * 72, dtype=np.uint8).reshape(count, 4, 6, 3)
    probabilities = np.full((count, 3), 1 / 3, np.float32)
    return Golden(tuple(bytes([i]) * (i + 1) for i in range(count)), pixels, probabilities)


def files(**more: bytes) -> dict[str, bytes]:
    return {MODEL_FILE: b"an ONNX graph", GOLDEN_FILE: golden().to_bytes(), **more}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path, manifest(), files())


def everything_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = write_bundle(tmp_path, manifest(), files() | {"report.html": b"<p>"})
    read = Bundle.open(tmp_path / "flowers" / "3")
    assert read == written
    assert read.manifest.model_copy(update={"files": {}}) == manifest()
    assert read.manifest.files["report.html"].bytes == 3
    assert read.model_path.read_bytes() == b"an ONNX graph"


def test_golden_inputs_are_read_back(bundle: Bundle) -> None:
    read, written = bundle.golden(), golden()
    assert read.encoded == written.encoded == (b"\0", b"\1\1")
    assert np.array_equal(read.pixels, written.pixels)
    assert np.array_equal(read.probabilities, written.probabilities)


def test_a_bundle_is_opened_by_a_relative_path(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.path)
    assert Bundle.open(Path()).manifest == bundle.manifest


def test_the_manifest_is_valid_under_the_published_schema(bundle: Bundle) -> None:
    written = json.loads((bundle.path / MANIFEST_FILE).read_text())
    jsonschema.validate(written, json.loads(SCHEMA.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"version": 0}, json.loads(SCHEMA.read_text()))


def test_the_published_schema_is_the_one_in_force() -> None:
    assert SCHEMA.read_text() == manifest_schema(), (
        "docs/manifest.schema.json is out of date; write it again with: python -c "
        "'from convoy.manifest import manifest_schema; print(manifest_schema(), end=\"\")' "
        "> docs/manifest.schema.json"
    )


Damage = Callable[[Path], object]


def edit(**changes: Any) -> Damage:
    """Change fields of the manifest on disk; None removes one."""

    def damage(path: Path) -> None:
        fields = json.loads((path / MANIFEST_FILE).read_text()) | changes
        kept = {name: value for name, value in fields.items() if value is not None}
        (path / MANIFEST_FILE).write_text(json.dumps(kept))

    return damage


def lie(name: str) -> Damage:
    """Name one more file, which is the model under another path."""

    def damage(path: Path) -> None:
        named = json.loads((path / MANIFEST_FILE).read_text())["files"]
        edit(files=named | {name: named[MODEL_FILE]})(path)

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no manifest": (lambda path: (path / MANIFEST_FILE).unlink(), "manifest.json: missing"),
    "no folder": (lambda path: path.rename(path.parent / "4"), "manifest.json: missing"),
    "a version left out": (
        lambda path: ((path / MANIFEST_FILE).unlink(), (path / "12").mkdir()),
        "manifest.json: missing; name a version, as .*/12",
    ),
    "not JSON": (lambda path: (path / MANIFEST_FILE).write_text("{"), "manifest.json: not JSON"),
    "binary": (lambda path: (path / MANIFEST_FILE).write_bytes(b"\xff\0"), "not JSON"),
    "deep": (lambda path: (path / MANIFEST_FILE).write_text("[" * 200_000), "not JSON"),
    "a list": (lambda path: (path / MANIFEST_FILE).write_text("[]"), "schema_version is None"),
    "newer": (edit(schema_version=2), "schema_version is 2, this release reads 1"),
    "no labels": (edit(labels=None), "manifest.json: labels: Field required"),
    "same labels": (edit(labels=["a", "a", "b"]), "labels must be distinct"),
    "fewer labels": (edit(labels=["a", "b"]), "figures per class must be 2"),
    "fewer thresholds": (
        edit(task="multi-label", thresholds=[0.5]),
        "figures per class must be 3",
    ),
    "needless thresholds": (edit(thresholds=[0.5] * 3), "thresholds are for multi-label models"),
    "unknown field": (edit(colour="red"), "manifest.json: colour"),
    "other name": (edit(name="roses"), "is of roses/3, but lies in flowers/3"),
    "other version": (edit(version=4), "is of flowers/4, but lies in flowers/3"),
    "version zero": (edit(version=0), "manifest.json: version"),
    "no files": (edit(files={}), "names no model.onnx"),
    "path up": (lie("../3/model.onnx"), "manifest.json: files"),
    "path from root": (lie("/etc/passwd"), "manifest.json: files"),
    "hidden file": (lie(".model.onnx"), "manifest.json: files"),
    "file missing": (lambda path: (path / MODEL_FILE).unlink(), "model.onnx: missing"),
    "file named only": (lie("extra.bin"), "extra.bin: missing"),
    "file changed": (
        lambda path: (path / MODEL_FILE).write_bytes(b"an ONNX grapH"),
        "model.onnx: 13 bytes with sha256",
    ),
    "file cut": (
        lambda path: (path / GOLDEN_FILE).write_bytes(b""),
        "golden.npz: 0 bytes .* damaged or was changed, copy the bundle again",
    ),
    "a folder for a file": (
        lambda path: ((path / MODEL_FILE).unlink(), (path / MODEL_FILE).mkdir()),
        "model.onnx: Is a directory",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_refused(bundle: Bundle, name: str) -> None:
    damage, text = DAMAGES[name]
    damage(bundle.path)
    with pytest.raises(BundleError, match=text) as caught:
        Bundle.open(bundle.path)
    assert str(bundle.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def changed_golden(**changes: Any) -> bytes:
    """A golden file with other arrays."""
    with np.load(io.BytesIO(golden().to_bytes())) as file:
        arrays = dict(file) | changes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_golden_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    wrong = Golden((b"a",), np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 3), np.float32))
    bundle = write_bundle(tmp_path, manifest(), files() | {GOLDEN_FILE: wrong.to_bytes()})
    with pytest.raises(BundleError, match=r"golden.npz: shapes \(1, 4, 4, 3\) and \(1, 3\), expec"):
        bundle.golden()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not readable"),
        (b"PK\3\4 not a zip", "not readable"),
        (golden().to_bytes()[:300], "not readable"),
        (golden(0).to_bytes(), "holds no inputs"),
        (Golden((b"a",), golden().pixels, golden().probabilities).to_bytes(), "different number"),
        (Golden((b"a", b""), *[np.zeros((2, 3))] * 2).to_bytes(), "float64 pixels"),
        (changed_golden(pixels=np.uint8(0)), "not readable: its arrays"),
        (changed_golden(lengths=np.int64(2)), "not readable: its arrays"),
        (changed_golden(lengths=np.ones((2, 1), np.int64)), "not readable: its arrays"),
        (changed_golden(lengths=np.ones(2)), "not readable: its arrays"),
    ],
)
def test_a_damaged_golden_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    bundle = write_bundle(tmp_path, manifest(), files() | {GOLDEN_FILE: data})
    with pytest.raises(BundleError, match=f"golden.npz: .*{text}"):
        bundle.golden()


def test_an_existing_version_is_left_alone(bundle: Bundle) -> None:
    before = {path: path.stat() for path in everything_in(bundle.path)}
    with pytest.raises(BundleError, match="3: exists already; choose another version"):
        write_bundle(bundle.path.parents[1], manifest(), files())
    assert {path: path.stat() for path in everything_in(bundle.path)} == before


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        ({MODEL_FILE: b""}, "without golden.npz"),
        (files() | {MANIFEST_FILE: b"{}"}, "with a manifest.json"),
        (files() | {"../escaped": b""}, "files"),
        (files() | {"a/b": b""}, "files"),
    ],
)
def test_files_that_make_no_bundle_leave_nothing(
    tmp_path: Path, contents: dict[str, bytes], text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        write_bundle(tmp_path / "models", manifest(), contents)
    assert everything_in(tmp_path) == []


def test_a_manifest_that_json_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    training = manifest().training.model_copy(update={"recipe": {"rate": object()}})
    with pytest.raises(BundleError, match=r"manifest.json: .*serialize"):
        write_bundle(tmp_path, manifest(training=training), files())
    assert everything_in(tmp_path) == []


WRITE_TOO_MUCH = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_bundle import MODEL_FILE, files, manifest
from convoy.bundle import write_bundle
from convoy.errors import BundleError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))
try:
    write_bundle(Path(sys.argv[1]), manifest(), files() | {{MODEL_FILE: bytes(100_000)}})
except BundleError as error:
    print(error)
"""


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout == f"{tmp_path}/flowers/3: cannot be written: File too large\n"
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
def test_an_interrupted_write_leaves_a_whole_bundle_or_nothing(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each time that it waits for the disk: after three files, their folder, and the rename."""
    waits, sync = itertools.count(1), os.fsync

    def interrupted(handle: int) -> None:
        if next(waits) == place:
            raise KeyboardInterrupt
        sync(handle)

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path, manifest(), files())
    if place < 5:
        assert everything_in(tmp_path) == []
    else:
        assert Bundle.open(tmp_path / "flowers" / "3").manifest.files.keys() == files().keys()
        assert len(everything_in(tmp_path)) == 2 + len(files()) + 1


def test_a_failed_write_keeps_the_versions_beside_it(bundle: Bundle) -> None:
    models = bundle.path.parents[1]
    command = [sys.executable, "-c", WRITE_TOO_MUCH, str(models)]
    bundle.path.rename(bundle.path.parent / "2")
    subprocess.run(command, check=True, capture_output=True)
    assert list_versions(models) == {"flowers": [2]}
    assert len(everything_in(models)) == 2 + len(files()) + 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(BundleError, match="models/flowers/3: cannot be written: Not a directory"):
        write_bundle(tmp_path / "models", manifest(), files())


def test_versions_are_listed_by_number_and_junk_is_not(tmp_path: Path) -> None:
    for version in (2, 10, 1):
        write_bundle(tmp_path, manifest(version=version), files())
    write_bundle(tmp_path, manifest(name="Aster"), files())
    junk = ("flowers/01", "flowers/0", "flowers/.writing-x", "flowers/new", "flowers/²", ".git/1")
    for name in (*junk, "flowers/" + "9" * 30):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / MANIFEST_FILE).write_text("{}")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    # An empty folder is listed: opening it says what is missing, which silence would not.
    assert list_versions(tmp_path) == {"Aster": [3], "empty": [1], "flowers": [1, 2, 10]}
    assert list_versions(tmp_path / "none") == {}


def test_every_checksum_is_of_the_file_it_names(bundle: Bundle) -> None:
    for name, entry in bundle.manifest.files.items():
        data = (bundle.path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x" * 129, "a b", "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        manifest(name=name)
