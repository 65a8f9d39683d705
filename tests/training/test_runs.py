"""A run's folder: nothing half-written, and it goes on only as what it was started."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.colours import tiny_recipe, write_photos
from tests.training.stopping import full_disk
from training.datasets import Labelled, Splits, open_source, split_training
from training.errors import TrainingError
from training.runs import CHECKPOINT_FILE, ENVIRONMENT_FILE, Run, commit_of, new_run_folder


@pytest.fixture
def run(tmp_path: Path, splits: Splits) -> Run:
    return Run.create(tmp_path / "run", tiny_recipe(), Path("photos"), splits)


def test_what_is_saved_is_loaded(run: Run) -> None:
    run.save({"model": {"weights": torch.arange(3)}, "log": [], "best": {}}, [])
    assert torch.equal(Run.open(run.path).load()["model"]["weights"], torch.arange(3))
    assert Run.open(run.path).recipe == run.recipe
    assert run.environment["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_a_run_keeps_the_name_it_was_given(tmp_path: Path, run: Run, splits: Splits) -> None:
    named = Run.create(tmp_path / "named", tiny_recipe(), Path("photos"), splits, name="mine")
    assert Run.open(named.path).name == "mine"
    assert run.name == "colours"
    older = {k: v for k, v in named.environment.items() if k != "name"}
    assert Run(named.path, named.recipe, older).name == "colours"


def test_full_disk_leaves_the_checkpoint_before(run: Run) -> None:
    run.save({"weights": torch.zeros(3)}, [])
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with (
        full_disk(10_000),
        pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be written: File too large"),
    ):
        run.save({"weights": torch.zeros(10_000)}, [])
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before


def test_another_recipe_does_not_resume(run: Run, splits: Splits) -> None:
    other = tiny_recipe(learning_rate=0.5, epochs=9)
    with pytest.raises(TrainingError, match=r"another recipe, learning_rate differs; resume with"):
        Run.resume(run.path, other, splits)


def test_other_images_do_not_resume(run: Run, splits: Splits) -> None:
    with pytest.raises(TrainingError, match="was started on other images"):
        Run.resume(run.path, run.recipe, replace(splits, sha256="0" * 64))


def test_other_validation_images_do_not_resume(tmp_path: Path) -> None:
    recipe, data = tiny_recipe(), tmp_path / "photos"
    for seed, part in enumerate(("train", "val")):
        write_photos(data / part, 4, seed)
    begun = Run.create(
        tmp_path / "run", recipe, data, split_training(open_source(recipe, data), recipe)
    )
    (data / "val" / "red" / "00.png").unlink()
    splits = split_training(open_source(recipe, data), recipe)
    with pytest.raises(TrainingError, match="was started on other validation images; give the sa"):
        Run.resume(begun.path, recipe, splits)
    file = begun.path / ENVIRONMENT_FILE
    older = {k: v for k, v in begun.environment.items() if k != "validation_sha256"}
    file.write_text(json.dumps(older))
    Run.resume(begun.path, recipe, splits)


def test_other_classes_do_not_resume(run: Run, splits: Splits) -> None:
    renamed = replace(splits, labels=("blue", "green", "violet"))
    with pytest.raises(TrainingError, match=r"with the classes blue, green, red, these are .*viol"):
        Run.resume(run.path, run.recipe, renamed)
    file = run.path / ENVIRONMENT_FILE
    older = {k: v for k, v in json.loads(file.read_text()).items() if k != "labels"}
    file.write_text(json.dumps(older))
    Run.resume(run.path, run.recipe, renamed)


def test_a_run_s_folder_is_not_used_twice(run: Run, splits: Splits) -> None:
    with pytest.raises(TrainingError, match="holds a run already; add --resume"):
        Run.create(run.path, run.recipe, Path("photos"), splits)


def test_only_one_of_two_gets_a_folder(tmp_path: Path, splits: Splits) -> None:
    met = threading.Barrier(2, timeout=60)

    class Meeting(Labelled):
        def __len__(self) -> int:
            met.wait()  # both have found the folder free
            return super().__len__()

    def create(name: str) -> str:
        meeting = replace(splits, train=Meeting(splits.train.images, splits.train.labels))
        try:
            return Run.create(tmp_path / "run", tiny_recipe(), Path("a"), meeting, name=name).name
        except TrainingError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        made = {*pool.map(create, ("one", "other"))}
    refusal = f"{tmp_path / 'run'}: holds a run already; add --resume, or choose another --run"
    assert made == {refusal, Run.open(tmp_path / "run").name}


def test_every_new_folder_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [new_run_folder("tiny.toml") for _ in range(4)]
    assert len({*made}) == 4
    assert all(path.is_dir() and path.name.startswith("tiny-") for path in made)


def test_a_folder_of_runs_that_is_elsewhere_and_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(TrainingError, match="cannot be made: File exists; name another"):
        new_run_folder("tiny.toml")


def test_folders_that_are_no_runs(tmp_path: Path, run: Run) -> None:
    with pytest.raises(TrainingError, match="not a run's folder"):
        Run.open(tmp_path)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: missing"):
        run.load()
    (run.path / CHECKPOINT_FILE).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: not readable"):
        run.load()
    (run.path / CHECKPOINT_FILE).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: not readable"):
        run.load()
    for foreign in ({"weights": torch.zeros(2)}, torch.zeros(2)):
        torch.save(foreign, run.path / CHECKPOINT_FILE)
        with pytest.raises(TrainingError, match=r"checkpoint\.pt: no checkpoint of a run"):
            run.load()
    (run.path / ENVIRONMENT_FILE).write_text("{}")
    with pytest.raises(TrainingError, match=r"environment\.json: .* has no 'started'"):
        Run.open(run.path)


def test_a_run_s_folder_that_cannot_be_made(tmp_path: Path, splits: Splits) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file/run/recipe\.json: cannot be written: Not a"):
        Run.create(tmp_path / "file" / "run", tiny_recipe(), Path("photos"), splits)


def test_the_commit_is_not_that_of_a_project_it_is_installed_in(tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    (tmp_path / "installed.py").touch()
    me = ["-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init"], ["add", "own.py"], [*me, "commit", "--message=one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    assert re.fullmatch(r"[0-9a-f]{40}", commit_of(tmp_path / "own.py") or "")
    assert commit_of(tmp_path / "installed.py") is None


def test_the_commit_says_whether_its_files_have_changed(run: Run) -> None:
    commit = run.environment["git_commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
