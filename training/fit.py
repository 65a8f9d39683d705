"""`convoy-train fit`: from a recipe to a bundle, by one process or by the many of torchrun."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from convoy.bundle import Bundle
from training.classifier import Classifier
from training.datasets import Source, Splits, open_source, split_training
from training.datasets.location import find_data
from training.distributed import LostProcess, Team, contact, join, restarts, world_size
from training.errors import TrainingError
from training.export import export_run
from training.feed import Batches
from training.memory import keep_freed_memory
from training.new_bundle import check_models, check_name, golden_files, read_golden
from training.progress import HEAD, show
from training.recipe import Recipe, load_recipe
from training.runs import RECIPE_FILE, Run, new_run_folder
from training.train import require_compiler, train

SHOWN = 200
"""Characters of the classes' names."""


def fit(arguments: argparse.Namespace) -> Bundle | None:
    """Train and export; of several processes, only the leading one has a bundle to show.

    Raises: TrainingError; KeyboardInterrupt, after which a run can be resumed.
    """
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.resume and arguments.run is None:
        raise TrainingError("--resume needs --run, the folder of the run to go on with")
    if arguments.name is not None:
        check_name(arguments.name)
    check_models(arguments.models)
    if arguments.golden is not None:
        golden_files(arguments.golden)
    if world_size() > 1 and arguments.run is None:
        raise TrainingError("name the run's folder with --run-dir: a restart must find it again")
    keep_freed_memory()
    with join() as team:
        trained = _train(recipe, arguments, team)
    return _export(*trained, arguments) if team.leads else None


def _train(recipe: Recipe, arguments: argparse.Namespace, team: Team) -> tuple[Run, Source, Splits]:
    with team.local_leader_first():
        data = find_data(
            recipe.source, arguments.data,
            within=recipe.collection_folder, download=arguments.download,
        )  # fmt: skip
        source = open_source(recipe, data, download=arguments.download)
        # Errors of the network and its weights come before all images are read.
        classifier = Classifier(recipe, source.spec, len(source.labels))
        if not arguments.resume:
            classifier.load_pretrained()
        if arguments.golden is not None:
            read_golden(arguments.golden, source.spec)
        splits = split_training(source, recipe)
        if team.leads:
            source.tests()  # only the export uses them: to find a bad one then is too late
            _tell_copies(source)
    # Errors come before there is a run's folder.
    require_compiler(recipe, team.device)
    Batches(splits.train, recipe, team)
    run = team.agree(_open_run(recipe, data, splits, arguments) if team.leads else None)
    assert run is not None
    if team.leads:
        print(f"{run.path}: {_describe(splits)}\n{HEAD}", file=sys.stderr)
    _train_on(run, source, splits, arguments, team)
    return run, source, splits


def _tell_copies(source: Source) -> None:
    """Say which test photos are trained on: how many are right there says little."""
    if copies := source.copies():
        show(
            f"{len(copies):,} of the test photos {'is' if len(copies) == 1 else 'are'} trained on, "
            f"too, byte for byte, such as {copies[0][0]} as {copies[0][1]}: the measured accuracy "
            "may be too high; remove one of each"
        )


def _describe(splits: Splits) -> str:
    """How many images of what: folders taken for classes by mistake are seen here."""
    names = textwrap.shorten(", ".join(splits.labels), SHOWN, placeholder=" ...")
    count = len(splits.labels)
    return f"{len(splits.train):,} images to train on, of {count} classes: {names}"


def _open_run(recipe: Recipe, data: Path, splits: Splits, arguments: argparse.Namespace) -> Run:
    path = arguments.run or new_run_folder(arguments.recipe)
    if arguments.resume or (restarts() and (path / RECIPE_FILE).exists()):
        return Run.resume(path, recipe, splits)
    return Run.create(path, recipe, data.resolve(), splits, name=arguments.name)


def _train_on(
    run: Run, source: Source, splits: Splits, arguments: argparse.Namespace, team: Team
) -> None:
    try:
        with contact():
            train(run, source, splits, team=team, workers=arguments.workers)
    except (KeyboardInterrupt, LostProcess):
        if team.leads:
            command = _resuming(arguments, run.path)
            if team.size > 1:
                command = "the same torchrun command, and --resume behind it"
            print(f"\nconvoy-train: interrupted; go on with\n  {command}", file=sys.stderr)
        raise


def _export(run: Run, source: Source, splits: Splits, arguments: argparse.Namespace) -> Bundle:
    options = {"name": arguments.name, "golden": arguments.golden}
    try:
        return export_run(run, source, splits, arguments.models, **options)
    except BaseException:  # the training is worth the hint, whatever has happened
        command = _command(("export", str(run.path)), arguments, ("models", *options))
        print(
            f"\nconvoy-train: trained, but not exported; do so with\n  {command}", file=sys.stderr
        )
        raise


def _resuming(arguments: argparse.Namespace, path: Path) -> str:
    """The command that goes on with an interrupted run."""
    words = ["fit", arguments.recipe, "--run", str(path), "--resume"]
    words += [word for override in arguments.overrides for word in ("--set", override)]
    return _command(words, arguments, ("data", "models", "name", "golden"))


def _command(words: Sequence[str], arguments: argparse.Namespace, options: Sequence[str]) -> str:
    """`convoy-train` with those of the options that were given, for a shell."""
    given = ((option, getattr(arguments, option)) for option in options)
    pairs = [(f"--{option}", str(value)) for option, value in given if value is not None]
    return shlex.join(["convoy-train", *words, *(word for pair in pairs for word in pair)])
