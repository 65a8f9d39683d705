"""Stores of decoded photos: only what is new is decoded, what is corrupt is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from convoy.imaging import InputSpec
from tests.training.colours import tiny_recipe, write_photos
from tests.training.sources import write_source
from tests.training.stopping import full_disk
from training.datasets import Labelled, Source, Splits, arrays, open_source, split_training, store
from training.datasets.arrays import Rows
from training.datasets.base import channel_statistics
from training.datasets.store import Store
from training.distributed import Team
from training.errors import TrainingError
from training.feed import Feed
from training.recipe import load_recipe
from training.runs import Run
from training.train import train

SPEC = InputSpec(height=16, width=16, channels=3)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every file that is decoded from here on."""
    contents: list[bytes] = []
    decode = store.decode

    def counting(data: bytes, spec: InputSpec) -> np.ndarray:
        contents.append(data)
        return decode(data, spec)

    monkeypatch.setattr(store, "decode", counting)
    return contents


def test_only_new_and_changed_files_are_decoded(tmp_path: Path, decoded: list[bytes]) -> None:
    files = sorted(write_photos(tmp_path, 4).rglob("*.png"))
    first = Store.open(tmp_path, files, SPEC).read(files)[:]
    assert len(decoded) == 12
    Store.open(tmp_path, files, SPEC)
    assert len(decoded) == 12

    files[3].write_bytes(files[0].read_bytes() + b"changed")
    (tmp_path / "red" / "new.png").write_bytes(files[0].read_bytes())
    files = [*files[:5], *files[6:], tmp_path / "red" / "new.png"]
    second = Store.open(tmp_path, files, SPEC).read(files)[:]
    assert len(decoded) == 14
    assert np.array_equal(second[:3], first[:3])
    assert np.array_equal(second[5:11], first[6:])
    assert np.array_equal(second[11], first[0])
    assert np.array_equal(second[3], first[0])


@pytest.mark.parametrize("left", [b"broken", b""])
def test_a_store_that_is_broken_is_made_again(
    tmp_path: Path, cache: Path, decoded: list[bytes], left: bytes
) -> None:
    files = sorted(write_photos(tmp_path, 2).rglob("*.png"))
    before = set(cache.iterdir())
    pixels = Store.open(tmp_path, files, SPEC).read(files)[:]
    (array,) = (set(cache.glob("*.npy"))) - before
    array.write_bytes(left)
    assert np.array_equal(Store.open(tmp_path, files, SPEC).read(files)[:], pixels)
    assert len(decoded) == 12


def test_what_a_killed_command_left_is_removed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        sorted(write_photos(tmp_path / name, 1, seed).rglob("*.png"))
        for seed, name in enumerate(("one", "other"))
    )
    left = cache / ".writing-1-0123456789abcdef-0123456789abcdef.npy"
    left.write_bytes(b"half of it")
    decode = store.decode

    def decode_beside_another(data: bytes, spec: InputSpec) -> np.ndarray:
        if data == one[0].read_bytes():
            Store.open(tmp_path / "other", other, SPEC)
        return decode(data, spec)

    with monkeypatch.context() as patched:
        patched.setattr(store, "decode", decode_beside_another)
        Store.open(tmp_path / "one", one, SPEC)
    assert not [*cache.glob(".writing-*")]


def test_what_an_older_release_kept_is_removed(tmp_path: Path, cache: Path) -> None:
    files = sorted(write_photos(tmp_path, 2).rglob("*.png"))
    before = set(cache.iterdir())
    Store.open(tmp_path, files, SPEC)
    (index,) = (set(cache.glob("*.json"))) - before
    (cache / f"{index.stem}-0123456789abcdef.npy").write_bytes(b"old")
    index.write_text('{"pixels": "of another form"}')
    Store.open(tmp_path, files, SPEC)
    assert len(set(cache.glob(f"{index.stem}*"))) == 2


@pytest.mark.parametrize("limit", [arrays.MEMORY_LIMIT, 1000])
def test_a_store_stays_readable_when_another_command_replaces_it(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "MEMORY_LIMIT", limit)
    source = open_source(tiny_recipe(), write_photos(tmp_path, 6))
    training, before = source.training(), source.tests()[0].images[:]
    (tmp_path / "red" / "new.png").write_bytes((tmp_path / "red" / "00.png").read_bytes())
    open_source(tiny_recipe(), tmp_path).training()
    assert np.array_equal(source.tests()[0].images, before)
    assert training.images[:2].shape == (2, 16, 16, 3)


def test_corrupt_images_are_skipped_as_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decoded: list[bytes]
) -> None:
    write_photos(tmp_path, 6)
    bad = tmp_path / "red" / "03.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(TrainingError, match=r"red/03\.png: .*; repair or remove it, or set corr"):
        split_training(open_source(tiny_recipe(), tmp_path), tiny_recipe())
    for _ in range(2):
        source = open_source(tiny_recipe(corrupt_images="skip"), tmp_path)
        assert f"skipped {bad}: " in capsys.readouterr().err
    assert len(source.training()) + len(source.tests()[0]) == 17
    assert len(decoded) == 18


def test_a_class_of_corrupt_images_is_named(tmp_path: Path) -> None:
    for file in (write_photos(tmp_path, 3) / "red").iterdir():
        file.write_bytes(b"not an image")
    with pytest.raises(TrainingError, match="red: none of its images can be decoded"):
        open_source(tiny_recipe(corrupt_images="skip"), tmp_path)


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "file"))
    with pytest.raises(TrainingError, match="set CONVOY_CACHE to a folder with room"):
        open_source(tiny_recipe(), photos).training()


def test_what_exceeds_the_memory_streams_to_the_same_weights(
    tmp_path: Path, photos: Path, source: Source, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(network={"name": "cnn", "filters": [8]})  # with dropout
    run = Run.create(tmp_path / "memory", recipe, photos, splits)
    resident = train(run, source, splits)

    monkeypatch.setattr(arrays, "MEMORY_LIMIT", 1000)
    large = split_training(open_source(recipe, photos), recipe)
    assert isinstance(large.train.images, Rows)
    assert large.sha256 == splits.sha256
    assert len(pickle.dumps(large.train.images)) < large.train.images.rows.nbytes + 1000
    assert Feed(large.train, recipe, Team()).workers >= 1
    run = Run.create(tmp_path / "disk", recipe, photos, large)
    streamed = train(run, source, large, workers=2)
    for name, tensor in resident.model.state_dict().items():
        assert torch.equal(streamed.model.state_dict()[name], tensor), name


def test_statistics_of_the_training_split_are_recorded(tmp_path: Path, splits: Splits) -> None:
    run = Run.create(tmp_path, tiny_recipe(), Path("photos"), splits)
    pixels = torch.from_numpy(splits.train.images) / 255
    recorded = run.environment["train_statistics"]
    assert recorded["mean"] == pytest.approx(pixels.mean(dim=(0, 1, 2)).tolist(), rel=1e-4)
    assert recorded["std"] == pytest.approx(pixels.std(dim=(0, 1, 2)).tolist(), rel=1e-3)
    grey = Labelled(np.full((3, 4, 4, 1), 51, np.uint8), np.zeros(3, np.int64))
    assert channel_statistics(grey.images) == ([pytest.approx(0.2)], [pytest.approx(0.0)])


def test_a_relative_path_is_the_same_folder(
    tmp_path: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    for root in (Path("photos"), tmp_path / "photos", Path("photos")):
        open_source(tiny_recipe(), root).training()
    assert len(decoded) == 9


def test_a_table_s_photos_are_decoded_once(tmp_path: Path, decoded: list[bytes]) -> None:
    recipe = load_recipe("image-table", ["image_size=16"])
    table = write_source(recipe, tmp_path / "photos")
    for _ in range(2):
        source = open_source(recipe, table)
        assert len(source.training()) + len(source.tests()[0]) == 12
    assert len(decoded) == 12


@pytest.mark.parametrize("name", ["image-folder", "image-table"])
def test_the_checksum_is_of_the_files_however_they_are_decoded(
    tmp_path: Path, name: str, decoded: list[bytes]
) -> None:
    data = write_source(load_recipe(name), tmp_path / "photos")
    first, again, other = (
        open_source(load_recipe(name, [f"image_size={size}"]), data).training()
        for size in (16, 16, 20)
    )
    assert first.sha256() == again.sha256() == other.sha256()
    assert len(decoded) == 24
    for file in (tmp_path / "photos").rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"changed, but for the pixels")
    changed = open_source(load_recipe(name, ["image_size=16"]), data).training()
    assert np.array_equal(changed.images, first.images)
    assert changed.sha256() != first.sha256()


def test_other_labels_are_another_checksum(tmp_path: Path) -> None:
    recipe = load_recipe("image-table", ["image_size=16"])
    table = write_source(recipe, tmp_path / "photos")
    before = open_source(recipe, table).training().sha256()
    table.write_text(table.read_text().replace(",0;1", ",1"))
    assert open_source(recipe, table).training().sha256() != before


def test_a_store_takes_its_room_before_it_is_filled(tmp_path: Path, cache: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        file.write_bytes(b"not an image")  # so no pixel is ever written
    before = set(cache.iterdir())
    Store.open(tmp_path, files, InputSpec(height=128, width=128, channels=3))
    (array,) = set(cache.glob("*.npy")) - before
    assert array.stat().st_blocks * 512 >= array.stat().st_size


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MEMORY_LIMIT", 1000)
    with full_disk(1000), pytest.raises(TrainingError, match="File too large; set TMPDIR to"):
        arrays.allocate((10, 16, 16, 3))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, 4)
    (tmp_path / "red" / "album.png").mkdir()
    assert len(open_source(tiny_recipe(), tmp_path).training()) == 9
    with pytest.raises(TrainingError, match=r"album\.png: Is a directory$"):
        Store.open(tmp_path, [tmp_path / "red" / "album.png"], SPEC)
