"""The subcommands of `convoy-train` that look at finished bundles."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from convoy.bundle import Bundle
    from training.datasets import Split


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """`convoy-train evaluate`."""
    parser.set_defaults(command=_evaluate)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, models/NAME/VERSION")
    _add_data(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def add_report(parser: argparse.ArgumentParser) -> None:
    """`convoy-train report`."""
    parser.set_defaults(command=_report)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, models/NAME/VERSION")
    _add_data(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: NAME-VERSION.html)"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="PATH", help="the data set's folder or CSV")
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
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written: {error.strerror}") from None
    print(file)


def _tests(bundle: Bundle, arguments: argparse.Namespace) -> list[Split]:
    from training.datasets.location import find_data
    from training.evaluate import find_tests, trained_recipe

    source = "folder" if arguments.folder else trained_recipe(bundle).source
    data = find_data(source, arguments.data)
    return find_tests(bundle, data, folder=arguments.folder, only=arguments.split)
