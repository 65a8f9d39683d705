"""The subcommands of `convoy-train` that look at finished bundles."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.files import write_file

if TYPE_CHECKING:
    from convoy.bundle import Bundle
    from training.datasets import Split

NOT_BETTER = 1
"""Exit code of a comparison whose gain is below the one asked for."""
ROUNDING = 1e-9
"""Points by which a gain that is exactly the one asked for may seem smaller."""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """`convoy-train evaluate`."""
    parser.set_defaults(command=_evaluate)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, models/NAME/VERSION")
    _add_tests(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def add_report(parser: argparse.ArgumentParser) -> None:
    """`convoy-train report`."""
    parser.set_defaults(command=_report)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, models/NAME/VERSION")
    _add_tests(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: NAME-VERSION.html)"
    )


def add_compare(parser: argparse.ArgumentParser) -> None:
    """`convoy-train compare`."""
    parser.set_defaults(command=_compare)
    parser.add_argument("old", type=Path, help="the bundle that runs now, models/NAME/VERSION")
    parser.add_argument("new", type=Path, help="the bundle that may replace it")
    _add_tests(parser)
    parser.add_argument(
        "--min-gain", type=_points, metavar="POINTS",
        help="exit with 1 unless the new one's accuracy is higher by so many percentage points",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for machines")


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not math.isfinite(points):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of points")
    return points


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data`, which most subcommands take."""
    parser.add_argument("--data", type=Path, metavar="PATH", help="the data set's folder or CSV")


def _add_tests(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument(
        "--folder", action="store_true",
        help="measure on every image of --data, one folder per class, whatever it was trained on",
    )  # fmt: skip
    parser.add_argument("--split", metavar="NAME", help="only this test split")


def _evaluate(arguments: argparse.Namespace) -> None:
    from convoy.bundle import Bundle
    from training.evaluate import describe_quality, evaluate_bundle

    bundle = Bundle.open(arguments.bundle.absolute())
    measured = evaluate_bundle(bundle, _tests(bundle, arguments))
    if arguments.json:
        print(json.dumps([quality.model_dump(mode="json") for quality in measured], indent=2))
    else:
        labels = bundle.manifest.labels
        print("\n\n".join(describe_quality(quality, labels) for quality in measured))


def _report(arguments: argparse.Namespace) -> None:
    from convoy.bundle import Bundle
    from training.evaluate import report_bundle

    bundle = Bundle.open(arguments.bundle.absolute())
    file = arguments.out or Path(f"{bundle.manifest.name}-{bundle.manifest.version}.html")
    try:
        tests = _tests(bundle, arguments)
    except TrainingError as error:
        if arguments.data is not None:
            raise
        print(f"convoy-train: made without test images: {error}", file=sys.stderr)
        tests = []
    page = report_bundle(bundle, tests)
    write_file(file, page.encode())
    print(file)


def _compare(arguments: argparse.Namespace) -> int:
    from convoy.bundle import Bundle
    from training.compare import compare_bundles
    from training.comparison import describe_comparison

    old, new = (Bundle.open(path.absolute()) for path in (arguments.old, arguments.new))
    trained = old if old.manifest.training.recipe else new
    data = _data(trained, arguments)
    found = compare_bundles(old, new, data, folder=arguments.folder, only=arguments.split)
    if arguments.json:
        print(json.dumps({**found.model_dump(mode="json"), "verdict": found.verdict}, indent=2))
    else:
        print(describe_comparison(found))
    wanted = arguments.min_gain
    return NOT_BETTER if wanted is not None and found.gain < wanted - ROUNDING else 0


def _tests(bundle: Bundle, arguments: argparse.Namespace) -> list[Split]:
    from training.evaluate import find_tests

    data = _data(bundle, arguments)
    return find_tests(bundle, data, folder=arguments.folder, only=arguments.split)


def _data(bundle: Bundle, arguments: argparse.Namespace) -> Path:
    from training.datasets.location import find_data
    from training.evaluate import trained_recipe

    if arguments.folder:
        return find_data("folder", arguments.data)
    recipe = trained_recipe(bundle)
    return find_data(recipe.source, arguments.data, within=recipe.collection_folder)
