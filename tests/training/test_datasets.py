"""Sources: what they read, how they split it, and what they say of data that cannot be used."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.colours import tiny_recipe, write_photos
from tests.training.sources import write_source
from training.datasets import open_source, split_training
from training.datasets.base import stratified_split
from training.datasets.cifar10 import BINARY, LOSSLESS_1000, PICKLE
from training.datasets.location import find_data
from training.errors import TrainingError
from training.recipe import load_recipe

CIFAR10 = load_recipe("cifar10-fast")


def write_cifar10(root: Path, per_batch: int = 20) -> None:
    """The same random images in both official formats, and a lossless test file beside them."""
    random = np.random.default_rng(0)
    (root / "binary" / BINARY).mkdir(parents=True)
    (root / "pickle" / PICKLE).mkdir(parents=True)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        labels = np.arange(per_batch, dtype=np.uint8) % 10
        data = random.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        records = np.column_stack([labels, data]).tobytes()
        (root / "binary" / BINARY / f"{name}.bin").write_bytes(records)
        batch = {b"data": data, b"labels": labels.tolist(), b"batch_label": name.encode()}
        (root / "pickle" / PICKLE / name).write_bytes(pickle.dumps(batch, protocol=2))


def test_both_versions_of_cifar10_give_the_same_arrays(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    binary = open_source(CIFAR10, tmp_path / "binary")
    pickled = open_source(CIFAR10, tmp_path / "pickle")
    assert binary.training().images.shape == (100, 32, 32, 3)
    assert binary.training().sha256() == pickled.training().sha256()
    assert [split.name for split in pickled.tests()] == ["test-lossless-20"]
    assert binary.tests()[0].sha256() == pickled.tests()[0].sha256()


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    (tmp_path / "pickle" / PICKLE / "data_batch_2").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(TrainingError, match=r"data_batch_2: no batch of CIFAR-10: asks for .*syst"):
        open_source(CIFAR10, tmp_path / "pickle").training()


def test_truncated_binary_batch_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    file = tmp_path / "binary" / BINARY / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"data_batch_3\.bin: .* no whole number"):
        open_source(CIFAR10, tmp_path / "binary").training()


def test_real_cifar10(data: Path) -> None:
    source = open_source(CIFAR10, data)
    first, second = source.tests()
    assert (first.name, second.name) == ("test-lossless-1000", "test-jpeg-10000")
    # The first test image of CIFAR-10 is a cat; the JPEG folders are in the order of the labels.
    assert source.labels[first.labels[0]] == "cat"
    assert np.bincount(second.labels).tolist() == [1000] * 10
    original = (data / "cifar10" / LOSSLESS_1000).read_bytes()[1 : 1 + 32 * 32]
    assert first.images[0, :, :, 0].tobytes() == original


def test_mnist_and_fashion_mnist(data: Path) -> None:
    for recipe in (load_recipe("mnist-cnn"), load_recipe("fashion-cnn")):
        source = open_source(recipe, data)
        (test,) = source.tests()
        assert source.training().images.shape == (60000, 28, 28, 1)
        assert (test.name, test.images.shape) == ("test-10000", (10000, 28, 28, 1))


def test_splits_share_no_image(photos: Path) -> None:
    source = open_source(tiny_recipe(), photos)
    splits = split_training(source, tiny_recipe())
    sets = [
        {hashlib.sha256(image.tobytes()).hexdigest() for image in part.images}
        for part in (splits.train, splits.validation, *source.tests())
    ]
    assert [len(one) for one in sets] == [45, 6, 9]
    assert len(set.union(*sets)) == 60


def test_splits_are_stratified_and_follow_the_seed() -> None:
    labels = np.repeat(np.arange(3), [10, 100, 1000])
    held, rest = stratified_split(labels, 0.1, seed=5)
    assert np.bincount(labels[held]).tolist() == [1, 10, 100]
    assert np.array_equal(np.union1d(held, rest), np.arange(1110))
    assert np.array_equal(held, stratified_split(labels, 0.1, seed=5)[0])
    assert not np.array_equal(held, stratified_split(labels, 0.1, seed=6)[0])


def test_a_folder_s_own_splits_are_used(tmp_path: Path) -> None:
    for seed, (part, count) in enumerate({"train": 6, "val": 2, "test": 3}.items()):
        write_photos(tmp_path / part, count, seed)
    source = open_source(tiny_recipe(), tmp_path)
    splits = split_training(source, tiny_recipe())
    (test,) = source.tests()
    assert (len(splits.train), len(splits.validation), len(test)) == (18, 6, 9)
    assert source.labels == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "TEST"), ("training_set", "test_set"), ("training", "testing")]
)
def test_splits_go_by_other_names_too(tmp_path: Path, train: str, test: str) -> None:
    write_photos(tmp_path / train, 4)
    write_photos(tmp_path / test, 2, seed=1)
    source = open_source(tiny_recipe(), tmp_path)
    assert source.labels == ("blue", "green", "red")
    assert (len(source.training()), len(source.tests()[0])) == (12, 6)


def test_a_split_that_is_there_twice_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path / "Train", 3)
    write_photos(tmp_path / "training", 3)
    with pytest.raises(TrainingError, match="has the folders 'Train' and 'training'; keep one"):
        open_source(tiny_recipe(), tmp_path)


def test_a_class_that_is_called_as_a_split_is_named(tmp_path: Path) -> None:
    (write_photos(tmp_path, 3) / "red").rename(tmp_path / "training")
    with pytest.raises(TrainingError, match=r"training: holds no class folders; .* is a class$"):
        open_source(tiny_recipe(), tmp_path)


def test_a_folder_with_validation_only_holds_a_test_set_out(data: Path) -> None:
    recipe = tiny_recipe(test_share=0.1)
    source = open_source(recipe, data / "cats-vs-dogs")
    (test,) = source.tests()
    assert source.labels == ("cats", "dogs")
    assert (len(source.training()), len(test)) == (810, 90)


def test_folder_bad_input(tmp_path: Path, photos: Path) -> None:
    recipe = tiny_recipe()
    with pytest.raises(TrainingError, match=r"nowhere: no such folder"):
        open_source(recipe, tmp_path / "nowhere")
    with pytest.raises(TrainingError, match=r"0 class folders; there must be at least 2"):
        open_source(recipe, photos / "red")
    (tmp_path / "cat").mkdir()
    with pytest.raises(TrainingError, match=r"1 class folder; there must be at least 2"):
        open_source(recipe, tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(TrainingError, match=r"cat: no images in this class"):
        open_source(recipe, tmp_path)
    (tmp_path / "cat" / "felix.heic").touch()
    with pytest.raises(TrainingError, match=r"cat: no images in this class, only 1 \.heic; add"):
        open_source(recipe, tmp_path)
    (tmp_path / "cat").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    with pytest.raises(TrainingError, match=r"class folder 'caf\\udce9' is not named in UTF-8"):
        open_source(recipe, tmp_path)


def test_what_begins_with_a_dot_is_no_photo(tmp_path: Path) -> None:
    write_photos(tmp_path / ".photos", 4)  # above the classes, a dot means nothing
    for folder in (tmp_path / ".photos").iterdir():
        (folder / ".thumbnails").mkdir()
        (folder / ".thumbnails" / "00.png").write_bytes((folder / "00.png").read_bytes())
        (folder / "._00.png").write_bytes(b"what macOS knows of 00.png")
    source = open_source(tiny_recipe(), tmp_path / ".photos")
    assert len(source.training()) + len(source.tests()[0]) == 12


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its path is too long, which stops even those who may read everything.
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos" / "red")
    for _ in range(20):
        os.mkdir("x" * 250)
        monkeypatch.chdir("x" * 250)
    with pytest.raises(TrainingError, match=r"/red/x+/.*: File name too long$"):
        open_source(tiny_recipe(), tmp_path / "photos")


def test_photos_of_any_suffix_that_can_be_decoded_are_read(tmp_path: Path) -> None:
    write_photos(tmp_path, 8)
    for file, suffix in zip(
        sorted((tmp_path / "red").iterdir()), ("jfif", "jpe", "mpo", "apng", "JFIF"), strict=False
    ):
        file.rename(file.with_suffix(f".{suffix}"))
    source = open_source(tiny_recipe(), tmp_path)
    assert len(source.training()) + len(source.tests()[0]) == 24


def test_files_of_other_kinds_are_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path, 4)
    for name in ("red/00.heic", "red/01.heic", "blue/Thumbs.db", "blue/.DS_Store"):
        (tmp_path / name).write_bytes(b"no image that is read")
    split_training(open_source(tiny_recipe(), tmp_path), tiny_recipe())
    assert capsys.readouterr().err == (
        f"{tmp_path}: left out 3 files of other kinds (2 .heic, 1 .db); make JPEG or PNG of those "
        "that are photos\n"
    )


def test_a_class_of_one_image_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    for number in (1, 2):
        (tmp_path / "green" / f"{number:02}.png").unlink()
    with pytest.raises(TrainingError, match="class green has only one image left"):
        open_source(tiny_recipe(), tmp_path)


def test_damaged_mnist_is_one_line(tmp_path: Path) -> None:
    mnist = load_recipe("mnist-cnn")
    write_source(mnist, tmp_path / "data")
    for file in (tmp_path / "data" / "MNIST" / "raw").iterdir():
        file.write_bytes(b"garbage garbage garbage")
    with pytest.raises(TrainingError, match="MNIST: cannot be read: ") as caught:
        open_source(mnist, tmp_path / "data").training()
    assert "\n" not in str(caught.value)


def test_an_unknown_class_of_cifar10_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    file = tmp_path / "binary" / BINARY / "data_batch_3.bin"
    file.write_bytes(bytes([200]) + file.read_bytes()[1:])
    with pytest.raises(TrainingError, match=r"data_batch_3\.bin: has an image of class 200"):
        open_source(CIFAR10, tmp_path / "binary").training()
    file = tmp_path / "pickle" / PICKLE / "data_batch_3"
    file.write_bytes(pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [200]}))
    with pytest.raises(TrainingError, match=r"data_batch_3: .* image of class 200"):
        open_source(CIFAR10, tmp_path / "pickle").training()


def test_a_download_without_a_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(TrainingError, match=r"cannot fetch CIFAR-10: .*refused"):
        open_source(CIFAR10, tmp_path, download=True)


def test_classes_must_be_the_same_in_every_split(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", 3)
    write_photos(tmp_path / "val", 3)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "pink")
    with pytest.raises(TrainingError, match=r"val: its classes differ .*train: 'pink' is in one"):
        open_source(tiny_recipe(), tmp_path)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, 4)
    for number in range(4):
        (tmp_path / "red" / f"{number:02}.png").write_bytes(b"not an image")
    with pytest.raises(TrainingError, match=r"red/0\d\.png: not an image.*; repair or remove it"):
        open_source(tiny_recipe(), tmp_path).training()


def test_data_are_found_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_DATA", str(tmp_path))
    assert find_data("mnist", None) == tmp_path
    assert find_data("mnist", tmp_path) == tmp_path
    monkeypatch.setenv("CONVOY_DATA", str(tmp_path / "gone"))
    with pytest.raises(TrainingError, match="no data for mnist: name its folder with --data"):
        find_data("mnist", None)
    with pytest.raises(TrainingError, match="one folder per class"):
        find_data("folder", None)


def test_data_that_no_bundle_could_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    for given in (folder, Path(".")):
        with pytest.raises(TrainingError, match=r"'caf\\udce9' is not named in UTF-8; rename it"):
            find_data("folder", given)


def test_a_recipe_s_photos_are_found_in_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("cats-vs-dogs")
    monkeypatch.setenv("CONVOY_DATA", str(tmp_path))
    with pytest.raises(TrainingError, match=r"no cats-vs-dogs in .*: name your images' folder"):
        find_data("folder", None, within=recipe.collection_folder)
    (tmp_path / "cats-vs-dogs").mkdir()
    found = find_data("folder", None, within=recipe.collection_folder)
    assert found == tmp_path / "cats-vs-dogs"
    assert find_data("folder", tmp_path, within=recipe.collection_folder) == tmp_path


@pytest.mark.parametrize("name", ["cifar10-fast", "mnist-cnn"])
def test_a_folder_without_the_data_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingError, match=f"{tmp_path}: holds n.*--data, or .* --download"):
        open_source(load_recipe(name), tmp_path)


def test_a_packed_collection_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVOY_DATA", str(tmp_path))
    script = tmp_path / "unpack.py"
    script.write_text("import pathlib, sys; pathlib.Path(*sys.argv[1:]).mkdir(parents=True)")
    assert (find_data("mnist", None) / "mnist").is_dir()
    script.write_text("raise SystemExit('the archive is damaged')")
    with pytest.raises(TrainingError, match=r"unpack\.py: the archive is damaged"):
        find_data("mnist", None)
